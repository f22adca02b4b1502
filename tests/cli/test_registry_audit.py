"""The registry's commands that review, record, import, export and look back, as users call them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.digests import digest_of_file
from tests.registry.synthetic import write_synthetic_registry
from tests.registry.trail import FEATURE

POLICY = """apiVersion: saeuron-guard/v1
kind: Policy
metadata: {name: no-pistol, version: 1.0.0, owner: tests}
target: {model: tiny}
concepts:
  - {concept: pistol}
retain: {domains: [object]}
audit: {prompts: audit/none, seeds: [1]}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synthetic registry in the place of the shipped one, with a group and an alias, and a policy."""
    manifest = write_synthetic_registry(tmp_path / "registry")
    text = manifest.read_text(encoding="utf-8")
    text = text.replace("- name: pistol\n", "- name: pistol\n  aliases: [gun]\n  parent: weapon\n", 1)
    group = "- name: weapon\n  domain: object\n  title: Weapon\n  description: Things that hurt.\n"
    manifest.write_text(text.replace("concepts:\n", f"concepts:\n{group}", 1), encoding="utf-8")
    (tmp_path / "migrations").symlink_to(Path(__file__).parents[2] / "migrations", target_is_directory=True)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "carol")
    for name in ("SAEURON_GUARD_DATABASE", "SAEURON_GUARD_MANIFEST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    """Call a registry command and compare its exit code."""
    result = CliRunner().invoke(program, ["registry", *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def answer(*arguments: str) -> object:
    """What a registry command prints as JSON."""
    return json.loads(run(*arguments, "--format", "json").stdout)


def compile_policy(*arguments: str) -> Result:
    """Compile the policy to a guard folder."""
    return CliRunner().invoke(program, ["compile", "policy.yaml", "--out", "guard", "--force", *arguments])


@pytest.mark.parametrize(
    ("command", "verdict"), [("approve", "approved"), ("reject", "rejected"), ("quarantine", "quarantined")]
)
def test_a_review_is_shown_with_who_when_and_why(command: str, verdict: str) -> None:
    """By the login name unless another is given; text and JSON, on the feature's page and the concept's."""
    assert f"{FEATURE}: {verdict} by carol at 20" in run(command, FEATURE, "--why", "seen it").output
    review = answer(command, FEATURE, "--why", "seen it again", "--by", "dave")
    assert isinstance(review, dict)
    assert (review["verdict"], review["by"], review["why"]) == (verdict, "dave", "seen it again")
    text = run("show", FEATURE).output
    assert f"{verdict} by carol: seen it\n" in text
    assert "the page is unchanged since" in text
    assert text.index("by carol") < text.index("by dave")
    first, second = answer("show", FEATURE)["reviews"]  # type: ignore[index,call-overload]
    assert (first["by"], first["counts"], first["unchanged"], second["by"]) == ("carol", True, True, "dave")
    (line,) = [line for line in run("show", "pistol").output.splitlines() if f"  {FEATURE} " in line]
    assert line.endswith(verdict)
    assert answer("show", "pistol")["reviews"][FEATURE]["why"] == "seen it again"  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((FEATURE,), 2),
        ((FEATURE, "--why", " "), 2),
        ((FEATURE, "--why", "x", "--by", ""), 2),
        (("tiny.objects:64", "--why", "x"), 3),
        (("pistol", "--why", "x"), 3),
    ],
)
def test_a_review_without_reason_name_or_feature_is_refused(arguments: tuple[str, ...], code: int) -> None:
    """A missing or empty reason is wrong usage; an unknown feature is answered as everywhere."""
    run("reject", *arguments, code=code)
    assert "not reviewed" in run("show", FEATURE).output


def test_a_page_can_be_seen_as_it_was_reviewed(home: Path) -> None:
    """After the content has changed: the old page, and that it has changed; without a review that is an error."""
    assert "was never reviewed" in run("show", FEATURE, "--as-reviewed", code=3).stderr
    feature = "tiny.objects:1"
    run("reject", feature, "--why", "fires on toys")
    before = run("show", feature).output
    assert "edited to remove: pistol" in before
    manifest = home / "registry" / "manifest.yaml"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("features: 3", "features: 1"), encoding="utf-8")
    assert "edited to remove: nothing" in run("show", feature).output
    assert "the page has changed since" in run("show", feature).output
    reviewed = run("show", feature, "--as-reviewed").output
    assert reviewed.splitlines()[:5] == before.splitlines()[:5]
    page = answer("show", feature, "--as-reviewed")
    assert page["uses"][0]["summary"]["chosen_at"] == [901, 501, 101]  # type: ignore[index,call-overload]
    run("show", "pistol", "--as-reviewed", code=2)
    run("show", feature, "--model", "tiny", code=2)


def test_other_words_groups_and_models_lead_to_pages() -> None:
    """An alias says which concept it means; a group shows its members; an unknown model is an error."""
    alias, name = run("show", "gun").output, run("show", "pistol").output
    assert alias == f"gun is another word for pistol\n{name}"
    assert "one of the group weapon" in name
    assert run("show", "pistol", "--model", "tiny").output == name
    assert "unknown model" in run("show", "pistol", "--model", "tinny", code=3).stderr
    group = run("show", "weapon").output
    assert group.startswith("weapon (object): Weapon, a group\nThings that hurt.\n")
    assert "pistol   object  tiny" in group
    assert answer("show", "weapon")["members"][0]["concept"]["name"] == "pistol"  # type: ignore[index,call-overload]
    assert run("list", "--groups").output.splitlines() == ["GROUP   DOMAIN  MEMBERS", "weapon  object  pistol"]
    assert run("list", "--groups", "--domain", "style").output == "there are no groups\n"
    run("list", "--groups", "--models", code=2)


def test_compile_is_recorded_unless_told_otherwise() -> None:
    """The same guard once, by its digest; the feature's page names policy and guard."""
    assert compile_policy("--no-record").exit_code == 0
    assert run("guards").output == "no such guard is recorded\n"
    assert compile_policy().exit_code == compile_policy().exit_code == 0
    (guard,) = answer("guards", "--policy", "no-pistol")  # type: ignore[misc]
    assert (guard["policy"]["name"], guard["policy"]["file"], guard["by"]) == ("no-pistol", "policy.yaml", "carol")
    assert [used["index"] for used in guard["features"]] == [0, 1, 60]
    assert f"{guard['digest'][:19]} of policy no-pistol 1.0.0: pistol (strength 1)" in run("show", FEATURE).output
    assert "no policy 'no-pistl' is recorded. Did you mean" in run("guards", "--policy", "no-pistl", code=3).stderr


def test_a_registry_that_cannot_be_written_to_is_told_with_the_way_out(home: Path) -> None:
    """Before anything is compiled to the folder; with --no-record the guard is written."""
    run("list")
    database = home / "registry" / "registry.sqlite"
    data = bytearray(database.read_bytes())
    data[18] = 3  # SQLite may read this file, but not write to it
    database.write_bytes(data)
    failed = compile_policy()
    assert failed.exit_code == 3
    assert "readonly database" in failed.stderr
    assert "--no-record" in failed.stderr
    assert not (home / "guard").exists()
    assert compile_policy("--no-record").exit_code == 0


def test_guards_on_rejected_features_are_listed() -> None:
    """With the feature, who, when and why; a rejection names the guards that use the feature at once."""
    assert compile_policy().exit_code == 0
    assert run("guards", "--rejected").output == "no such guard is recorded\n"
    assert "used by guard sha256:" in run("reject", FEATURE, "--why", "fires on toys").output
    lines = run("guards", "--rejected").output.splitlines()
    assert lines[1].split()[1:4] == ["no-pistol", "1.0.0", "tiny"]
    assert lines[1].endswith("never")
    assert lines[2].startswith(f"  {FEATURE} (pistol) rejected by carol at ")
    assert lines[2].endswith(": fires on toys")
    (guard,) = answer("guards", "--rejected")  # type: ignore[misc]
    assert (guard["rejected"][0]["feature"], guard["rejected"][0]["concept"]) == (FEATURE, "pistol")


def test_history_tells_what_changed() -> None:
    """One line an event, newest last; of one thing, and between two dates that are both included."""
    assert compile_policy().exit_code == 0
    run("reject", FEATURE, "--why", "fires on\ntoys", "--by", "dave")
    rows = [line.split() for line in run("history").output.splitlines()]
    assert [row[2] for row in rows] == ["KIND", "migration", "content", "policy", "guard", "review"]
    assert (
        run("history", FEATURE)
        .output.splitlines()[-1]
        .endswith("dave   review   tiny.objects:0       rejected: fires on toys")
    )
    events = answer("history", "no-pistol")
    assert [event["kind"] for event in events] == ["policy", "guard"]  # type: ignore[attr-defined]
    today = rows[1][0][:10]
    assert run("history", "--since", today, "--until", today).output == run("history").output
    assert run("history", "--since", rows[1][0], "--until", f"{today}T23:59:59+00:00").output == run("history").output
    assert run("history", "--until", "2025-01-31").output == "nothing changed\n"
    assert "Did you mean 'pistol'" in run("history", "pistl", code=3).stderr


@pytest.mark.parametrize(
    "value", ["yesterday", "2025-02-30", "2025-1-1", "", "2025-01-01T25:00:00", "0001-01-01T00:00:00+14:00"]
)
def test_a_date_that_is_none_is_wrong_usage(value: str) -> None:
    """Never "since ever"; and a time span that runs backwards is none either."""
    assert "is neither a date nor a time" in run("history", "--since", value, code=2).stderr
    assert "is neither a date nor a time" in run("history", "--until", value, code=2).stderr
    run("history", "--since", "2025-02-01", "--until", "2025-01-31", code=2)


def test_export_and_import_as_commands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is a registry of its own, imported elsewhere and opened by the environment's variable."""
    run("reject", FEATURE, "--why", "fires on toys")
    exported = answer("export", "--out", "own", "--artefacts")
    assert (exported["reviews"], exported["files"]) == (1, 8)  # type: ignore[index,call-overload]
    assert exported["manifest_digest"] == digest_of_file(home / "own" / "manifest.yaml")  # type: ignore[index,call-overload]
    assert "is there already" in run("export", "--out", "own", "--artefacts", code=3).stderr
    assert run("export", "--out", "one.yaml").output.startswith(f"one.yaml: {exported['manifest_digest']}, 1 review")  # type: ignore[index,call-overload]
    imported = run("import", "own/manifest.yaml").output
    assert "added concepts: Neon, Noto, cat, pistol, weapon" in imported
    assert "1 new review" in imported
    assert "the content is the same" in run("import", "own/manifest.yaml").output
    monkeypatch.setenv("SAEURON_GUARD_MANIFEST", "own/manifest.yaml")
    assert f"database {home / 'own' / 'registry.sqlite'}" in run("check").output
    assert compile_policy().exit_code == 2  # the rejection came along
    run("approve", FEATURE, "--why", "checked again")
    assert compile_policy().exit_code == 0
    (guard,) = answer("guards")  # type: ignore[misc]
    manifest = home / "own" / "manifest.yaml"
    fewer = manifest.read_text(encoding="utf-8").replace("- name: tiny.objects\n", "- name: tiny.others\n")
    fewer = fewer.replace("sae: tiny.objects\n", "sae: tiny.others\n")
    manifest.write_text(fewer, encoding="utf-8")
    assert "recorded guards are built on tiny.objects" in run("import", str(manifest), code=3).stderr
    forced = run("import", str(manifest), "--force").output
    assert "removed saes: tiny.objects" in forced
    assert "recorded guards were built on tiny.objects (sha256:" in forced
    assert guard["digest"] in run("guards", "--format", "json").output


def test_check_finds_a_tampered_event(home: Path) -> None:
    """The trigger dropped and a payload changed: exit 3, the event, expected and actual digest; before, exit 0."""
    run("reject", FEATURE, "--why", "fires on toys")
    passed = run("check").output
    assert "warning: 1 review is in the database only" in passed
    assert "last event sha256:" in passed
    with sqlite3.connect(home / "registry" / "registry.sqlite") as connection:
        connection.execute("DROP TRIGGER events_refuse_update")
        connection.execute("UPDATE events SET payload = replace(payload, 'toys', 'guns') WHERE kind = 'review'")
    connection.close()
    failed = run("check", code=3).output
    assert f"FAILED event 3 (review {FEATURE}) was changed: expected sha256:" in failed
    assert ", got sha256:" in failed
    assert json.loads(run("check", "--format", "json", code=3).stdout)["passed"] is False
