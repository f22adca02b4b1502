"""Whatever a guard's folder is turned into: it is refused in one line, at once, or it says what it said before."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.folder import check_folder
from saeuron_guard.guard.guard import Guard
from tests.guard.refusal import Change, refusal
from tests.tiny import make_guard

NAMES = ("guard.json", "guard.safetensors")


@given(data=st.data())
@settings(max_examples=150)
def test_random_damage_changes_nothing_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, guard_files: dict[str, bytes], data: st.DataObject
) -> None:
    """Bits flipped, parts cut, doubled, blanked or inserted: refused, or (a blank more) the very same guard."""
    name = data.draw(st.sampled_from(NAMES))
    content = guard_files[name]
    begin = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 2000))
    end = min(len(content), begin + data.draw(st.integers(1, 64)))
    inside = content[begin:end]
    replacement = data.draw(
        st.sampled_from([b"", inside * 2, bytes(len(inside)), b"\xff" * len(inside), b" " + inside])
        | st.integers(0, 7).map(lambda bit: bytes([inside[0] ^ 1 << bit]) + inside[1:])
        | st.binary(max_size=16)
    )
    changed = content[:begin] + replacement + (b"" if data.draw(st.booleans()) else content[end:])
    folder = tmp_path_factory.mktemp("damaged")
    for other in NAMES:
        (folder / other).write_bytes(changed if other == name else guard_files[other])
    problem = ""
    try:
        checked = check_folder(folder)
    except ArtefactError as error:
        problem = str(error)
    else:
        assert checked.config == make_guard().config
        assert checked.weights == guard_files["guard.safetensors"]
    assert problem.isprintable()


def rename(folder: Path) -> None:
    """The right file under another name."""
    (folder / "guard.json").rename(folder / "Guard.json")


def exchange(folder: Path) -> None:
    """Each file in the other's place."""
    (folder / "guard.json").rename(folder / "spare")
    (folder / "guard.safetensors").rename(folder / "guard.json")
    (folder / "spare").rename(folder / "guard.safetensors")


def weights_of_another_guard(folder: Path) -> None:
    """The weights of a guard that differs in a multiplier."""
    make_guard(multiplier=-5.0).save(folder.parent / "other")
    (folder.parent / "other" / "guard.safetensors").replace(folder / "guard.safetensors")


def grow(name: str, size: int) -> Change:
    """A file of ``size`` bytes, most of them a hole."""
    return lambda folder: os.truncate(folder / name, size)


def link_out(name: str) -> Change:
    """A link to the very same bytes elsewhere."""

    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return change


def link_to(name: str, target: str) -> Change:
    """A link to something that is no file, or nothing."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def other_kind(name: str, make: Callable[[Path], object]) -> Change:
    """Something in the place of a file that is none."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "renamed": (rename, "no guard.json"),
    "exchanged": (exchange, "guard.json: not a guard's configuration"),
    "weights of another": (weights_of_another_guard, "belongs to another guard"),
    "json of 65 MiB": (grow("guard.json", 65 << 20), "guard.json: has 68157440 bytes, expected at most 67108864"),
    "weights of 20 GiB": (grow("guard.safetensors", 20 << 30), "guard.safetensors: has 21474836480 bytes"),
    "weights too long": (grow("guard.safetensors", 100_000), "bytes of tensors, expected"),
    "json linked out": (link_out("guard.json"), "leads outside"),
    "weights linked out": (link_out("guard.safetensors"), "leads outside"),
    "linked to a device": (link_to("guard.safetensors", "/dev/zero"), "leads outside"),
    "linked to nothing": (link_to("guard.json", "nowhere"), "not a readable guard folder"),
    "linked to itself": (link_to("guard.json", "guard.json"), "not a readable guard folder"),
    "extra file": (lambda folder: (folder / "notes.txt").write_text(""), "holds other files than a guard's"),
    "extra name": (lambda folder: (folder / "\x1b[2J\n").write_text(""), r"'\x1b[2J\n'"),
    "extra folder": (lambda folder: (folder / "older").mkdir(), "'older'"),
    "pipe": (other_kind("guard.json", os.mkfifo), "not a regular file"),
    "pipe of weights": (other_kind("guard.safetensors", os.mkfifo), "not a regular file"),
    "folder for a file": (other_kind("guard.json", Path.mkdir), "guard.json: cannot be read (Is a directory)"),
    "json for all to write": (lambda folder: (folder / "guard.json").chmod(0o646), "every account may change it"),
    "weights for all to write": (lambda folder: (folder / "guard.safetensors").chmod(0o666), "every account may"),
    "folder for all to write": (lambda folder: folder.chmod(0o777), "every account may change it"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_that_is_not_as_compiled_is_refused(guard_folder: Path, name: str) -> None:
    """Each is told from the others, and taken for no guard."""
    change, expected = CHANGES[name]
    change(guard_folder)
    assert expected in refusal(guard_folder)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    """Nothing, and a file."""
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        assert f"{name}: not a readable guard folder" in refusal(tmp_path / name)


def test_a_guard_that_may_not_be_read_is_refused(guard_folder: Path) -> None:
    """Files without a right to read end in a message."""
    for name in NAMES:
        (guard_folder / name).chmod(0)
    with without_privileges():
        message = refusal(guard_folder)
    assert "Permission denied" in message


@contextmanager
def without_privileges() -> Iterator[None]:
    """As an account for which permissions count."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_link_to_the_folder_is_followed(guard_folder: Path) -> None:
    """The folder that an operator names may be a link, such as one to the current release; only files may not be."""
    (guard_folder.parent / "current").symlink_to(guard_folder)
    assert Guard.load(guard_folder.parent / "current").config == make_guard().config


@pytest.mark.parametrize(("name", "size"), [("guard.json", 4 << 30), ("guard.safetensors", 20 << 30)])
def test_a_huge_file_takes_no_memory(guard_folder: Path, name: str, size: int) -> None:
    """It is refused by its length, before any of it is read."""
    os.truncate(guard_folder / name, size)
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match="expected at most"):
            check_folder(guard_folder)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
