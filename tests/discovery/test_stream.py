"""What is recorded from a running pipeline: rows, order, timesteps and labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from saeuron_guard.digests import image_seed
from saeuron_guard.discovery.recorder import Recorder
from saeuron_guard.discovery.stream import ActivationStream, Sampling, StepActivations
from saeuron_guard.errors import CannotEvaluate, ModelMismatch
from tests.discovery.labelled import PROMPTS
from tests.tiny import CHANNELS, HOOKPOINTS, make_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One small pipeline for all tests of this file; every test leaves it as it was."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline"))


def _steps(pipe: Any, *, batch_size: int = 4, guidance: float = 5.0, shuffle_seed: int = 0) -> list[StepActivations]:
    sampling = Sampling(3, guidance, batch_size)
    stream = ActivationStream(pipe, PROMPTS, HOOKPOINTS, seeds=(0, 1), sampling=sampling, shuffle_seed=shuffle_seed)
    return list(stream.passes())


def _by_image(steps: list[StepActivations], hookpoint: str) -> dict[tuple[str, int, int], torch.Tensor]:
    """Activations (pos, d_in) by prompt, seed and timestep."""
    return {
        (prompt.id, seed, step.timestep): step.activations[hookpoint][row]
        for step in steps
        for row, (prompt, seed) in enumerate(zip(step.prompts, step.seeds, strict=True))
    }


def test_rows_are_the_conditional_half(pipe: Any) -> None:
    """What is recorded is the second half of diffusers' batch, checked against a hook that sees all of it."""
    seen: list[torch.Tensor] = []
    module = pipe.unet.get_submodule(HOOKPOINTS[0].partition(".")[2])
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output[0].flatten(2).transpose(1, 2)))
    steps = _steps(pipe)
    handle.remove()
    for step, whole in zip(steps, seen, strict=True):
        rows = len(step.prompts)
        assert len(whole) == 2 * rows
        assert torch.equal(step.activations[HOOKPOINTS[0]], whole[rows:])
        assert not torch.allclose(whole[:rows], whole[rows:])


def test_every_image_is_seen_once_at_every_timestep_with_its_own_noise(pipe: Any) -> None:
    """A pass covers prompts x seeds x timesteps exactly, and different seeds give different activations."""
    steps = _steps(pipe)
    pipe.scheduler.set_timesteps(3)
    timesteps = [int(t) for t in pipe.scheduler.timesteps]
    images = _by_image(steps, HOOKPOINTS[1])
    assert images.keys() == {(prompt.id, seed, t) for prompt in PROMPTS for seed in (0, 1) for t in timesteps}
    assert Counter(step.timestep for step in steps) == dict.fromkeys(timesteps, 3)
    first = PROMPTS[0].id
    assert not torch.allclose(images[first, 0, timesteps[0]], images[first, 1, timesteps[0]])
    assert steps[0].activations[HOOKPOINTS[1]].shape == (4, 64, CHANNELS)
    assert steps[0].activations[HOOKPOINTS[1]].dtype == torch.float32


def test_activations_do_not_depend_on_batch_size_or_order(pipe: Any) -> None:
    """An image gives the same activations alone, in a batch, and in another order."""
    expected = _by_image(_steps(pipe), HOOKPOINTS[0])
    for other in (_steps(pipe, batch_size=1), _steps(pipe, batch_size=5, shuffle_seed=9)):
        found = _by_image(other, HOOKPOINTS[0])
        assert all(torch.allclose(found[image], expected[image], rtol=1e-3, atol=1e-4) for image in expected)


def test_unguided_rows_are_all_conditional(pipe: Any) -> None:
    """Without guidance every row is used, and the first step's equal those of the guided run."""
    guided, plain = (_by_image(_steps(pipe, guidance=scale), HOOKPOINTS[0]) for scale in (5.0, 1.0))
    start, end = max(t for _, _, t in guided), min(t for _, _, t in guided)
    assert plain.keys() == guided.keys()
    for prompt in PROMPTS:
        assert torch.allclose(plain[prompt.id, 0, start], guided[prompt.id, 0, start], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(plain[prompt.id, 0, end], guided[prompt.id, 0, end], rtol=1e-3, atol=1e-4)


def test_order_is_shuffled_by_its_seed(pipe: Any) -> None:
    """The same shuffle seed gives the same order, another one another, and passes differ from each other."""

    def order(seed: int, passes: int = 1) -> list[tuple[str, int]]:
        sampling = Sampling(1, 1.0, 12)
        stream = ActivationStream(pipe, PROMPTS, HOOKPOINTS, seeds=(0, 1), sampling=sampling, shuffle_seed=seed)
        steps = list(stream.passes(passes))
        return [(prompt.id, image) for step in steps for prompt, image in zip(step.prompts, step.seeds, strict=True)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    twice = order(0, passes=2)
    assert sorted(twice[:12]) == sorted(twice[12:])
    assert twice[:12] != twice[12:]


def test_noise_is_seeded_by_prompt_and_seed(pipe: Any) -> None:
    """An image starts from the generator that ``digests.image_seed`` seeds."""
    hook, seen = HOOKPOINTS[0].partition(".")[2], []
    handle = pipe.unet.get_submodule(hook).register_forward_hook(lambda _, __, output: seen.append(output[0]))
    generator = torch.Generator().manual_seed(image_seed(PROMPTS[2].id, 7))
    pipe(PROMPTS[2].text, num_inference_steps=2, guidance_scale=1.0, generator=generator, output_type="latent")
    handle.remove()
    stream = ActivationStream(pipe, [PROMPTS[2]], HOOKPOINTS, seeds=(7,), sampling=Sampling(2, 1.0, 1))
    for step, output in zip(stream.passes(), seen, strict=True):
        assert torch.equal(step.activations[HOOKPOINTS[0]], output.flatten(2).transpose(1, 2))


def test_nothing_stays_behind_on_the_pipeline(pipe: Any) -> None:
    """Hooks and progress-bar settings are as before, after a pass and after a failure in it."""
    modules = [pipe.unet, *(pipe.unet.get_submodule(name.partition(".")[2]) for name in HOOKPOINTS)]
    before = dict(pipe._progress_bar_config)
    failing = pipe.unet.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
    with pytest.raises(RuntimeError, match="stop"):
        _steps(pipe)
    failing.remove()
    assert _steps(pipe)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert pipe._progress_bar_config == before


def test_positions_tell_each_hookpoints_size(pipe: Any) -> None:
    """The number of positions is that of the recorded maps, for maps of different sizes."""
    hookpoints = (HOOKPOINTS[0], "unet.mid_block.attentions.0")
    stream = ActivationStream(pipe, PROMPTS, hookpoints, seeds=(0,), sampling=Sampling(2, 5.0, 2))
    assert stream.positions() == {hookpoints[0]: 64, hookpoints[1]: 16}


def test_what_cannot_be_recorded_is_refused(pipe: Any) -> None:
    """No prompts, an unknown module, a silent one and one that runs twice have a message each."""
    sampling = Sampling(2, 5.0, 2)
    with pytest.raises(CannotEvaluate, match="at least one prompt"):
        ActivationStream(pipe, [], HOOKPOINTS, seeds=(0,), sampling=sampling)
    for path in ("unet.up_blocks.7", "unet", "nothing.at.all"):
        with pytest.raises(ModelMismatch, match=path):
            ActivationStream(pipe, PROMPTS, [path], seeds=(0,), sampling=sampling)
    pipe.unet.idle = torch.nn.Identity()
    for path, message in (
        ("unet.idle", "did not run"),
        ("unet.up_blocks.1.resnets.0.nonlinearity", "ran twice"),
    ):
        stream = ActivationStream(pipe, PROMPTS, [path], seeds=(0,), sampling=sampling)
        with pytest.raises(CannotEvaluate, match=message):
            list(stream.passes())
    del pipe.unet.idle
    assert _steps(pipe)


def test_layouts_that_would_need_guessing_are_refused(pipe: Any) -> None:
    """Three rows for two prompts, and guidance by two calls a step, are refused; the same calls pass where clear."""

    def two_calls(rows: int, *, guided: bool) -> list[int]:
        """How many rows were kept of each of two calls at one timestep, on behalf of two prompts."""
        recorder = Recorder(HOOKPOINTS, 2, guided=guided)
        sample, text = torch.zeros(rows, 4, 8, 8), torch.zeros(rows, 16, 32)
        with recorder.attached(pipe), torch.no_grad():
            pipe.unet(sample, 500, encoder_hidden_states=text)
            pipe.unet(sample, 500, encoder_hidden_states=text)
        return [len(call.activations[HOOKPOINTS[0]]) for call in recorder.calls]

    with pytest.raises(CannotEvaluate, match="3 rows for 2 prompts"):
        two_calls(3, guided=True)
    with pytest.raises(CannotEvaluate, match="two calls"):
        two_calls(2, guided=True)
    # PNDM asks for one timestep twice; in one batch with the unconditional rows, or unguided, nothing is unclear.
    assert two_calls(4, guided=True) == [2, 2]
    assert two_calls(2, guided=False) == [2, 2]
