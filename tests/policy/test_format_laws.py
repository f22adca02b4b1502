"""Laws of formatting, on policies in layouts that nobody thought of."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from saeuron_guard.errors import PolicyError, SaeuronGuardError
from saeuron_guard.policy import format as formatting
from saeuron_guard.policy.format import format_policy
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.strict_yaml import read_yaml
from tests.policy.odd_layouts import OddWriter, policy_like, shuffled

RANDOMS = st.randoms(use_true_random=True)
OFTEN = st.sampled_from([0.0, 0.1, 0.3])


def value_of(text: str) -> Any:
    """What the strict reader reads, which it must not refuse."""
    reading = read_yaml(text, "policy.yaml")
    assert reading.problems == []
    return reading.value


def exact(value: Any) -> str:
    """A text that tells 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True)


def formatted(text: str) -> str:
    """The formatted file; the one layout that may be refused is passed over."""
    try:
        return format_policy(text, "policy.yaml")
    except PolicyError as error:
        assume("keeps the blank lines after it" not in str(error))
        raise


@given(rng=RANDOMS, often=OFTEN)
def test_formatting_keeps_values_and_comments_and_is_idempotent(rng: random.Random, often: float) -> None:
    """The value is equal, every comment is there exactly once and still one, and a second run changes nothing."""
    writer = OddWriter(rng, often)
    text = writer.document(policy_like(rng))
    result = formatted(text)
    assert exact(value_of(result)) == exact(value_of(text))
    assert [comment for comment in writer.comments if result.count(comment) != 1] == []
    endings = [line for line in result.splitlines() if any(line.endswith(comment) for comment in writer.comments)]
    assert len(endings) == len(writer.comments)
    assert formatted(result) == result


@given(rng=RANDOMS, often=OFTEN)
def test_the_layout_is_canonical(rng: random.Random, often: float) -> None:
    """One newline ends the file, no carriage return, tab or space is left at the ends of lines outside blocks."""
    result = formatted(OddWriter(rng, often).document(policy_like(rng)))
    assert result.endswith("\n")
    assert not result.endswith("\n\n")
    assert "\r" not in result
    assert not result.startswith("\n")


def ordered_keys(value: Any) -> Any:
    """The keys of all mappings in their order, without the values."""
    if isinstance(value, dict):
        return [(key, ordered_keys(inner)) for key, inner in value.items()]
    return [ordered_keys(inner) for inner in value] if isinstance(value, list) else None


@given(rng=RANDOMS, often=OFTEN)
def test_every_order_of_keys_gives_the_same_order(rng: random.Random, often: float) -> None:
    """A file and the same one with its known keys shuffled have the same keys in the same places afterwards."""
    value = {key: inner for key, inner in policy_like(rng).items() if key in policy_schema()["properties"]}
    value["concepts"] = [{"concept": "pistol", "strength": 1, "require": {"removal": 0.9}}] * 2
    one = formatted(OddWriter(rng, often).document(value))
    other = formatted(OddWriter(rng, often).document(shuffled(value, rng)))
    assert ordered_keys(value_of(one)) == ordered_keys(value_of(other))
    assert list(value_of(one)) == [key for key in policy_schema()["properties"] if key in value]


@given(rng=RANDOMS)
def test_unknown_keys_come_last_in_their_order(rng: random.Random) -> None:
    """Keys that no policy has are neither dropped nor sorted."""
    value = policy_like(rng)
    text = OddWriter(rng, 0.1).document(value)
    known = [key for key in policy_schema()["properties"] if key in value]
    assert list(value_of(formatted(text))) == [*known, *(key for key in value if key not in known)]


@given(text=st.text(st.sampled_from("ab:-?#'\"[]{},|>+ \n\t&*!%.1"), max_size=40))
def test_any_text_is_formatted_or_refused(text: str) -> None:
    """Nothing but an error for users comes out of text that may not even be YAML, and what comes out is equal."""
    try:
        result = format_policy(text, "policy.yaml")
    except SaeuronGuardError:
        return
    assert exact(value_of(result)) == exact(value_of(text))
    assert format_policy(result, "policy.yaml") == result


@pytest.mark.parametrize(
    "wrong",
    ["kind: Policy\n", "# c\n# c\nkind: Policy\n", "# c\nkind: policy\n", "# c\nkind: [\n"],
    ids=["comment lost", "comment twice", "value changed", "not YAML"],
)
def test_a_wrong_result_is_never_handed_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formatter reads what it wrote and fails closed when that does not say the same; the right text passes."""
    text = "kind:   Policy\n# c"
    assert format_policy(text, "policy.yaml") == "kind: Policy\n# c\n"
    monkeypatch.setattr(formatting, "render", lambda layout: wrong)
    with pytest.raises(SaeuronGuardError, match=r"^policy\.yaml: laid out anew, the file would not say the same"):
        format_policy(text, "policy.yaml")
