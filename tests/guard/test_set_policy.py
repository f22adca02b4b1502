"""Replacing what an attached guard does: whole images only, after every check, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from saeuron_guard.errors import ArtefactError, GuardNotEffective, ModelMismatch, SaeuronGuardError
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.guard import Guard
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_guard, make_pipeline, make_point, make_rule

Attach = Callable[..., Guard]
OTHER_BLOCK = "unet.up_blocks.1.attentions.0"


def make_other(hookpoint: str = OTHER_BLOCK, **settings: Any) -> Guard:
    """A guard with another concept at another hookpoint than that of ``make_guard``."""
    coder = make_coder(3)
    config = make_config([make_point(hookpoint, coder, [make_rule("cat", range(30, 40))])], **settings)
    return Guard(config, {hookpoint: coder})


def hooks(pipe: Any) -> int:
    """How many hooks the denoiser carries."""
    modules = pipe.unet.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.fixture
def guard(attach: Attach) -> Guard:
    """The guard that is active at first."""
    return attach()


@pytest.fixture(scope="module")
def pictures(shared_pipe: Any) -> dict[str, torch.Tensor]:
    """What is drawn without a guard, with the first, and with the other."""
    drawn = {"none": draw(shared_pipe)}
    for name, guard in (("first", make_guard()), ("other", make_other())):
        guard.attach(shared_pipe)
        drawn[name] = draw(shared_pipe)
        guard.detach()
    assert not torch.equal(drawn["first"], drawn["other"])
    assert not torch.equal(drawn["other"], drawn["none"])
    return drawn


@pytest.mark.parametrize("kind", ["folder", "text", "guard"])
def test_the_next_image_is_guarded_by_the_new_policy(
    pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor], tmp_path: Path, kind: str
) -> None:
    """Given as a folder or loaded: picture, status, report and configuration are the new guard's, hooks no more."""
    other = make_other()
    other.save(tmp_path / "other")
    assert torch.equal(draw(pipe), pictures["first"])
    before = hooks(pipe)
    chosen = {"folder": tmp_path / "other", "text": str(tmp_path / "other"), "guard": other}[kind]
    assert guard.set_policy(chosen) is guard
    assert torch.equal(draw(pipe), pictures["other"])
    status = guard.status()
    assert (status.ready, status.digest, status.hookpoints) == (True, other.config.digest, (OTHER_BLOCK,))
    assert (status.calls, status.finishing) == (3, 0)
    assert (guard.config, guard.concepts) == (other.config, ("cat",))
    assert guard.report().concept("cat").fired
    assert hooks(pipe) == before - 1
    assert not other.status().attached
    guard.detach()
    assert torch.equal(draw(pipe), pictures["none"])


def test_policies_can_be_replaced_again_and_again(pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor]) -> None:
    """There and back, and by itself: nothing piles up in the model."""
    before = hooks(pipe)
    for name, other in (("other", make_other()), ("first", make_guard()), ("first", make_guard())):
        guard.set_policy(other)
        assert torch.equal(draw(pipe), pictures[name])
    assert hooks(pipe) == before


def test_an_image_under_way_keeps_its_guard(pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor]) -> None:
    """Replaced between two steps, even with an image drawn inside by the new guard: each image is one guard's."""
    inside: list[Any] = []

    def replace_guard(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            guard.set_policy(make_other())
            inside.extend([guard.status(), draw(pipe), guard.status()])
        return kwargs

    before = hooks(pipe)
    assert torch.equal(draw(pipe, callback_on_step_end=replace_guard), pictures["first"])
    assert torch.equal(inside[1], pictures["other"])
    assert [status.finishing for status in (inside[0], inside[2], guard.status())] == [1, 1, 0]
    assert inside[0].digest == make_other().config.digest
    assert inside[0].ready
    assert hooks(pipe) == before - 1
    assert torch.equal(draw(pipe), pictures["other"])


def test_an_image_under_way_that_fails_leaves_no_hooks(
    pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor]
) -> None:
    """An exception ends the former guard's last call as well."""

    def replace_and_fail(_pipe: Any, _step: int, _timestep: Any, _kwargs: dict[str, Any]) -> dict[str, Any]:
        guard.set_policy(make_other())
        raise ZeroDivisionError

    before = hooks(pipe)
    with pytest.raises(ZeroDivisionError):
        draw(pipe, callback_on_step_end=replace_and_fail)
    assert hooks(pipe) == before - 1
    assert torch.equal(draw(pipe), pictures["other"])


def test_a_former_guard_that_is_bypassed_withholds_its_image(pipe: Any, guard: Guard) -> None:
    """The image that it began is still watched to its end, although another guard is active by then."""

    def replace_and_bypass(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            guard.set_policy(make_other())
            pipe.unet.get_submodule(HOOKPOINTS[0].removeprefix("unet."))._forward_hooks.clear()
        return kwargs

    with pytest.raises(GuardNotEffective, match="without passing"):
        draw(pipe, callback_on_step_end=replace_and_bypass)
    draw(pipe)


def damaged_folder(pipe: Any, folder: Path) -> Path:
    """A guard with a bit flipped."""
    make_other().save(folder)
    path = folder / "guard.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    return folder


def stubborn_guard(pipe: Any, folder: Path) -> Guard:
    """A guard whose feature cannot be made to fire."""
    coder = make_coder()
    with torch.no_grad():
        coder.encoder.bias[:8] = 1e6
    return Guard(make_config([make_point(HOOKPOINTS[0], coder, [make_rule("pistol", [20])])]), {HOOKPOINTS[0]: coder})


def spare_denoiser(pipe: Any, folder: Path) -> Guard:
    """A guard for a second denoiser of the same pipeline."""
    pipe.spare = make_pipeline(folder).unet
    return make_other(OTHER_BLOCK.replace("unet", "spare"))


REFUSALS: dict[str, tuple[Callable[[Any, Path], Any], type[SaeuronGuardError], str]] = {
    "no folder": (lambda _pipe, folder: folder / "none", ArtefactError, "not a readable guard folder"),
    "damaged": (damaged_folder, ArtefactError, "not the SAE that the guard was compiled for"),
    "other model": (lambda *_: make_other(fingerprint="sha256:0"), ModelMismatch, "holds another model"),
    "no such block": (lambda *_: make_other("unet.up_blocks.7"), ModelMismatch, "has no unet.up_blocks.7"),
    "no denoiser": (lambda *_: make_other("vae.encoder.mid_block"), ModelMismatch, "takes no timestep"),
    "other denoiser": (spare_denoiser, ModelMismatch, "is for pipe.spare, the active one for pipe.unet"),
    "canary": (stubborn_guard, GuardNotEffective, "can be made to fire"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_guard_that_fails_a_check_changes_nothing(
    pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor], tmp_path: Path, name: str
) -> None:
    """The error names the guard that is still active; it guards the image under way and the next, as if unasked."""
    make, kind, message = REFUSALS[name]
    other = make(pipe, tmp_path)
    before = hooks(pipe)

    def try_to_replace(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            with pytest.raises(kind, match=message) as caught:
                guard.set_policy(other)
            assert f"Guard {make_guard().config.digest} (policy tiny 1) is still active" in str(caught.value)
        return kwargs

    assert torch.equal(draw(pipe, callback_on_step_end=try_to_replace), pictures["first"])
    assert torch.equal(draw(pipe), pictures["first"])
    status = guard.status()
    assert (status.ready, status.digest, status.calls) == (True, make_guard().config.digest, 6)
    assert hooks(pipe) == before
    vars(pipe).pop("spare", None)


@pytest.fixture
def compiled(pipe: Any) -> Iterator[None]:
    """The denoiser is compiled as a whole for the length of a test, which does not call it."""
    pipe.unet.compile(backend="eager")
    yield
    pipe.unet._compiled_call_impl = None


def test_hooks_that_would_be_ignored_are_refused(pipe: Any, guard: Guard, compiled: None) -> None:
    """What torch.compile has seen once it does not look at again, so another guard's hooks would never run."""
    with pytest.raises(GuardNotEffective, match=r"compiled as a whole.*is still active"):
        guard.set_policy(make_other())
    assert guard.status().digest == make_guard().config.digest


def test_a_guard_in_the_models_graph_is_not_replaced(pipe: Any) -> None:
    """With the gate threshold nothing tells in whose image the model is called; it also keeps others off the model."""
    guard = make_guard().attach(pipe, gate="threshold")
    with pytest.raises(GuardNotEffective, match=r"with the gate 'threshold'.*is still active"):
        guard.set_policy(make_other())
    twin = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(GuardNotEffective, match="already carries a guard"):
        make_other().attach(twin)
    draw(pipe)
    assert guard.report().calls == 3
    guard.detach()


def test_a_guard_that_is_not_in_place_is_not_replaced(pipe: Any, guard: Guard) -> None:
    """Whatever removed its hooks may remove the next one's; that is to be looked into first."""
    pipe.unet.get_submodule(HOOKPOINTS[0].removeprefix("unet."))._forward_hooks.clear()
    with pytest.raises(GuardNotEffective, match="removed"):
        guard.set_policy(make_other())
    assert not guard.status().ready


def test_only_an_attached_guard_can_be_replaced(pipe: Any) -> None:
    """Before attaching and after detaching there is nothing to replace."""
    guard = make_guard()
    with pytest.raises(GuardNotEffective, match="not attached"):
        guard.set_policy(make_other())
    guard.attach(pipe).detach()
    with pytest.raises(GuardNotEffective, match="not attached"):
        guard.set_policy(make_other())


def test_the_log_goes_on_under_the_new_guard(pipe: Any, tmp_path: Path) -> None:
    """Lines name the guard that an image was drawn with, that of a call under way its own."""
    log = DecisionLog(tmp_path / "log.jsonl")
    guard = make_guard().attach(pipe, log=log)
    first, other = guard.config.digest, make_other().config.digest

    def replace_guard(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            guard.set_policy(make_other())
        return kwargs

    draw(pipe, callback_on_step_end=replace_guard)
    draw(pipe)
    guard.detach()
    lines = log.path.read_text().splitlines()
    assert [first in line for line in lines] == [True, False]
    assert [other in line for line in lines] == [False, True]


def test_threads_that_overlap_keep_their_guards(pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor]) -> None:
    """One thread waits in the middle of an image while the guard is replaced and another thread draws a whole one."""
    begun, replaced = threading.Event(), threading.Event()
    drawn: dict[str, torch.Tensor] = {}

    def wait(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            begun.set()
            assert replaced.wait(60)
        return kwargs

    def draw_slowly() -> None:
        drawn["slow"] = draw(pipe, callback_on_step_end=wait)

    def draw_quickly() -> None:
        drawn["quick"] = draw(pipe)

    slow, quick = threading.Thread(target=draw_slowly), threading.Thread(target=draw_quickly)
    slow.start()
    assert begun.wait(60)
    guard.set_policy(make_other())
    quick.start()
    quick.join()
    assert guard.status().finishing == 1
    replaced.set()
    slow.join()
    assert torch.equal(drawn["slow"], pictures["first"])
    assert torch.equal(drawn["quick"], pictures["other"])
    assert guard.status().finishing == 0


def test_threads_that_draw_all_the_time_never_mix_guards(
    pipe: Any, guard: Guard, pictures: dict[str, torch.Tensor]
) -> None:
    """While one thread replaces the guard over and over, every image of two others is entirely the one's or other's."""
    guards = [make_other(), make_guard()]
    drawn: list[torch.Tensor] = []
    done = threading.Event()

    def draw_on() -> None:
        drawn.extend(draw(pipe) for _ in range(5))

    def replace_on() -> None:
        swaps = 0
        while not done.is_set() or swaps < 2:
            guard.set_policy(guards[swaps % 2])
            swaps += 1

    threads = [threading.Thread(target=draw_on) for _ in range(2)]
    swapping = threading.Thread(target=replace_on)
    for thread in (swapping, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    swapping.join()
    assert len(drawn) == 10
    assert all(torch.equal(image, pictures["first"]) or torch.equal(image, pictures["other"]) for image in drawn)
    assert guard.status().ready
