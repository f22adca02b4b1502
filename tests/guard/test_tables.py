"""Rules become tensors: the right row for a timestep, the right column for a feature, and no nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saeuron_guard.compiler.config import HookpointConfig
from saeuron_guard.errors import ArtefactError, GuardNotEffective
from saeuron_guard.guard.intervention import edit
from saeuron_guard.guard.tables import HookpointTables
from tests.tiny import HOOKPOINTS, make_coder, make_point, make_rule

TIMES = (900, 500, 100)


def point_with(**changes: object) -> HookpointConfig:
    """A sound hookpoint with some fields changed."""
    point = make_point(HOOKPOINTS[0], make_coder(), [make_rule("pistol", [3, 5], times=3)], timesteps=TIMES, gap=150)
    return replace(point, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("timestep", "row"), [(1000.0, 0), (701.0, 0), (700.0, 0), (699.5, 1), (500.0, 1), (299.0, 2), (0.0, 2)]
)
def test_the_nearest_calibrated_timestep_is_used(timestep: float, row: int) -> None:
    """Between two calibrated timesteps the nearer one counts, in the middle the noisier one."""
    rule = make_rule("pistol", [3], times=3, multiplier=2.0)
    edits = tuple(replace(edit, mean=(1.0, 2.0, 3.0), threshold=(0.1, 0.2, 0.3)) for edit in rule.features)
    tables = HookpointTables.build(point_with(rules=(replace(rule, features=edits),)), make_coder())
    rows = tables.at(torch.tensor([timestep]))
    assert rows.target.tolist() == [[2.0 * (row + 1)]]
    assert rows.threshold.tolist() == [[pytest.approx(0.1 * (row + 1))]]


@pytest.mark.parametrize(
    ("timestep", "refused"), [(1050.0, False), (1051.0, True), (700.0, True), (float("nan"), True)]
)
def test_the_largest_gap_is_kept(timestep: float, refused: bool) -> None:
    """A timestep within the declared gap passes; one beyond it, or none at all, is refused."""
    tables = HookpointTables.build(point_with(), make_coder())
    if not refused:
        tables.check_timestep(torch.tensor([500.0, timestep]))
        return
    with pytest.raises(GuardNotEffective, match="calibrated: 3 from 100 to 900"):
        tables.check_timestep(torch.tensor([500.0, timestep]))


def test_one_feature_may_serve_two_rules_at_different_timesteps() -> None:
    """After a merge a feature is edited for one concept early and for another late; each edit is its own rule's."""
    coder = make_coder()
    early, late = make_rule("pistol", [3], times=3, multiplier=-1.0), make_rule("knife", [3], times=3, multiplier=-5.0)
    early = replace(early, features=tuple(replace(edit, active=(True, False, False)) for edit in early.features))
    late = replace(late, features=tuple(replace(edit, active=(False, True, True)) for edit in late.features))
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))

    def run(rules: tuple[object, ...], timestep: float) -> torch.Tensor:
        tables = HookpointTables.build(point_with(rules=rules), coder)
        return edit(x, tables, tables.at(torch.tensor([timestep]))).output

    for timestep, rule in [(900.0, early), (500.0, late), (100.0, late)]:
        together = run((early, late), timestep)
        torch.testing.assert_close(together, run((rule,), timestep))
        assert not torch.equal(together, x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ()}, "no rule selects a feature"),
        ({"rules": (make_rule("pistol", [], times=3),)}, "no rule selects a feature"),
        ({"rules": (make_rule("pistol", [64], times=3),)}, "feature 64 of 'pistol'; the SAE has 64"),
        ({"rules": (make_rule("pistol", [1], times=2),)}, "not one entry for each of 3 timesteps"),
        (
            {"rules": (make_rule("pistol", [1], times=3), make_rule("knife", [1], times=3))},
            "two rules edit feature 1 at one timestep",
        ),
        (
            {"rules": (replace(make_rule("pistol", [1], times=3), action="bake"),)},
            "action 'bake' for 'pistol' is unknown",
        ),
        ({"k": 9}, r"has \(d_in, num_latents, k\) = \(32, 64, 8\), the guard was compiled for \(32, 64, 9\)"),
        ({"timesteps": ()}, "no calibrated timesteps"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    """What cannot be carried out as written is an ArtefactError before anything is attached."""
    HookpointTables.build(point_with(), make_coder())
    with pytest.raises(ArtefactError, match=message):
        HookpointTables.build(point_with(**changes), make_coder())
