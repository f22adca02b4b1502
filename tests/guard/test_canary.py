"""attach() finds out by itself when the installed hooks don't compute what the policy says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard import runtime
from saeuron_guard.guard.guard import Guard, guarded
from saeuron_guard.guard.intervention import Edit, edit
from saeuron_guard.guard.tables import HookpointTables, RowTables
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_guard, make_point, make_rule


def nothing(x: torch.Tensor, tables: HookpointTables, rows: RowTables, grid: Any = None) -> Edit:
    """A hook that runs and does nothing."""
    return edit(x, tables, rows, grid)._replace(output=x)


def halved(x: torch.Tensor, tables: HookpointTables, rows: RowTables, grid: Any = None) -> Edit:
    """A hook that does half of what it should."""
    result = edit(x, tables, rows, grid)
    return result._replace(output=(x + result.output) / 2)


def mirrored_error(x: torch.Tensor, tables: HookpointTables, rows: RowTables, grid: Any = None) -> Edit:
    """What the published code of the method does: it adds the SAE's error with the wrong sign."""
    result = edit(x, tables, rows, grid)
    return result._replace(output=result.output + 2 * (tables.coder(x) - x))


@pytest.mark.parametrize("broken", [nothing, halved, mirrored_error])
def test_a_wrong_computation_is_found(pipe: Any, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Edit]) -> None:
    """A hook that computes anything else is refused at once, and the pipeline is left as it was."""
    make_guard().attach(pipe).detach()
    before = draw(pipe)
    monkeypatch.setattr(runtime, "edit", broken)
    guard = make_guard()
    with pytest.raises(GuardNotEffective, match="the canary failed"):
        guard.attach(pipe)
    assert not guard.status().attached
    assert torch.equal(draw(pipe), before)


def test_a_hook_that_could_not_be_installed_is_found(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When registering has no effect the canary says so."""
    block = pipe.unet.get_submodule("up_blocks.1.attentions.2")
    register = block.register_forward_hook

    def useless(hook: Any) -> Any:
        handle = register(hook)
        handle.remove()
        return handle

    monkeypatch.setattr(block, "register_forward_hook", useless)
    with pytest.raises(GuardNotEffective, match="could not be installed"):
        make_guard().attach(pipe)


def test_features_that_cannot_fire_are_found(pipe: Any) -> None:
    """Features that are never active, or never among the top k, would make a guard that does nothing: refused."""
    coder = make_coder()
    with torch.no_grad():
        coder.encoder.bias[:8] = 1e6  # eight latents that always come first, of which the guard edits none
    guard = Guard(make_config([make_point(HOOKPOINTS[0], coder, [make_rule("pistol", [20])])]), {HOOKPOINTS[0]: coder})
    with pytest.raises(GuardNotEffective, match="none of the guard's features can be made to fire"):
        guard.attach(pipe)


def test_guarded_restores_the_pipeline(pipe: Any, tmp_path: Any) -> None:
    """The context manager loads the SAEs from disk, guards inside, and restores the pipeline, after an error, too."""
    before = draw(pipe)
    guard = make_guard()
    for seed, point in enumerate(guard.config.hookpoints):
        assert make_coder(seed).save(tmp_path / point.sae_path) == point.sae_digest
    with guarded(pipe, guard.config, tmp_path) as live:
        assert live.status().ready
        assert not torch.equal(draw(pipe), before)
    assert torch.equal(draw(pipe), before)
    with pytest.raises(ZeroDivisionError), guarded(pipe, guard.config, tmp_path):
        raise ZeroDivisionError
    assert torch.equal(draw(pipe), before)
