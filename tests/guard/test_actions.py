"""What each action does to an activation, beyond the parity with the plain reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.intervention import Edit, edit
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.names import ACTIONS
from tests.tiny import CHANNELS, HOOKPOINTS, draw, make_coder, make_config, make_point, make_rule

FEATURE = 3
CODER = make_coder(5, k=8)


def edited(x: torch.Tensor, action: str, *, strength: float = 1.0, grid: tuple[int, int] | None = None) -> Edit:
    """``x`` edited by one rule on one feature."""
    rule = replace(make_rule("pistol", [FEATURE], strength=strength), action=action)
    tables = HookpointTables.build(make_point(HOOKPOINTS[0], CODER, [rule]), CODER)
    return edit(x, tables, tables.at(torch.tensor([500.0])), grid)


def activation(*fires: bool) -> torch.Tensor:
    """One image of as many positions; the feature fires strongly where asked for, and nothing like it elsewhere."""
    noise = torch.randn(1, len(fires), CHANNELS, generator=torch.Generator().manual_seed(1))
    direction = CODER.encoder.weight[FEATURE] / CODER.encoder.weight[FEATURE].norm()
    along = (noise @ direction)[..., None] * direction
    wanted = torch.tensor(fires)[None, :, None] * 60.0 - 10.0
    return CODER.b_dec + noise - along + wanted * direction


@pytest.mark.parametrize("action", ["scale", "reflect", "replace"])
def test_only_places_that_fire_change(action: str) -> None:
    """Others keep their bits; with detect, all do, though the feature is seen."""
    x = activation(False, True, False, True)
    output, firing = edited(x, action)
    assert [bool((output[0, position] != x[0, position]).any()) for position in range(4)] == [False, True, False, True]
    assert firing is not None
    watched = edited(x, "detect")
    assert torch.equal(watched.output, x)
    assert watched.firing is not None
    assert bool(watched.firing.fires.any())


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_reflecting_keeps_the_norm_and_turns_the_feature_around(strength: float) -> None:
    """At strength 1 the part along the feature changes its sign; twice is where it was."""
    x = activation(True)
    output = edited(x, "reflect", strength=strength).output
    assert torch.allclose(output.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    unit = CODER.W_dec[FEATURE]
    before, after = float(x[0, 0] @ unit), float(output[0, 0] @ unit)
    assert before > 0
    assert after < before
    if strength == 1.0:
        assert after == pytest.approx(-before, rel=1e-4)


def test_replacing_takes_the_nearest_position_without_the_concept() -> None:
    """Along the tokens, or on the map's plane: the two differ here."""
    x = activation(True, True, False, False, True, True, True, True, False)
    output = edited(x, "replace").output
    assert torch.allclose(output[0, 0], x[0, 2], atol=1e-5)
    assert torch.allclose(output[0, 4], x[0, 3], atol=1e-5)
    on_map = edited(x, "replace", grid=(3, 3)).output
    assert torch.allclose(on_map[0, 0], x[0, 3], atol=1e-5)  # right below, where token 2 is two columns away
    assert torch.allclose(on_map[0, 5], x[0, 2], atol=1e-5)


def test_where_nothing_is_clean_the_mean_takes_its_place() -> None:
    """An image that is all concept becomes the SAE's mean activation; half of the way at strength 0.5."""
    x = activation(True, True)
    assert torch.allclose(edited(x, "replace").output, CODER.b_dec.expand_as(x), atol=1e-4)
    half = (x + CODER.b_dec) / 2
    assert torch.allclose(edited(x, "replace", strength=0.5).output, half, atol=1e-4)


def test_images_of_a_batch_lend_each_other_nothing() -> None:
    """A clean neighbour in another image is not taken."""
    x = torch.cat([activation(True, True), activation(False, False)])
    output = edited(x, "replace").output
    assert torch.allclose(output[0], CODER.b_dec.expand(2, CHANNELS), atol=1e-4)
    assert torch.equal(output[1], x[1])


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_runs_on_a_pipeline(pipe: Any, action: str) -> None:
    """The canary is satisfied, the picture changes unless the action is detect, and detaching restores it.

    What detect does to images on which the concept is present has tests of its own.
    """
    before = draw(pipe)
    coder = make_coder(0)
    rule = replace(make_rule("pistol", range(8)), action=action, share=1.0)
    guard = Guard(make_config([make_point(HOOKPOINTS[0], coder, [rule])]), {HOOKPOINTS[0]: coder}).attach(pipe)
    changed = draw(pipe)
    assert guard.report().concept("pistol").fired
    guard.detach()
    assert torch.equal(changed, before) == (action == "detect")
    assert torch.equal(draw(pipe), before)
