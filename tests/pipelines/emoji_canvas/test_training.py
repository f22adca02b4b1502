"""The training loop: what it ends with does not depend on whether it was stopped on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saeuron_guard.pipelines.emoji_canvas import training
from saeuron_guard.pipelines.emoji_canvas.training import Loss, Recipe, fit

RECIPE = Recipe(steps=23, peak=0.02, seed=3, warmup=4, average=0.9, save_every=5)


class _Stopped(Exception):
    """Raised by a loss in the middle of a run."""


def network(seed: int = 0) -> nn.Module:
    """A small network with float and integer buffers beside its weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def regression(
    module: nn.Module, *, stop_after: int | None = None, seen: list[dict[str, Tensor]] | None = None
) -> Loss:
    """The loss of learning a product; stops a run after some steps, and keeps the weights each step begins with."""
    count = 0

    def loss(generator: torch.Generator) -> Tensor:
        nonlocal count
        if count == stop_after:
            raise _Stopped
        count += 1
        if seen is not None:
            seen.append({name: value.clone() for name, value in module.state_dict().items()})
        x = torch.randn(16, 3, generator=generator)
        error: Tensor = module(x)[:, 0] - x[:, 0] * x[:, 1]
        return error.square().mean()

    return loss


def silent(line: str) -> None:
    """A log that nobody reads."""


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all weights and buffers are the same, to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def uninterrupted(folder: Path, recipe: Recipe = RECIPE) -> dict[str, Tensor]:
    """What a run that nothing stops ends with."""
    module = network()
    return fit(module, regression(module), recipe, folder / "uninterrupted.safetensors", silent).state_dict()


@pytest.mark.parametrize("stop_after", [0, 3, 5, 13, 20, 22])
def test_a_resumed_run_ends_with_exactly_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    """Stopped before, at and between checkpoints, a run goes on from the last one, and nothing tells it apart."""
    checkpoint = tmp_path / "run.safetensors"
    stopped = network()
    with pytest.raises(_Stopped):
        fit(stopped, regression(stopped, stop_after=stop_after), RECIPE, checkpoint, silent)
    resumed = network(seed=99)  # its first weights must not matter when there is a checkpoint
    if stop_after < RECIPE.save_every:
        assert not checkpoint.exists()
        resumed = network()
    seen: list[dict[str, Tensor]] = []
    fit(resumed, regression(resumed, seen=seen), RECIPE, checkpoint, silent)
    assert len(seen) == RECIPE.steps - stop_after // RECIPE.save_every * RECIPE.save_every
    assert same(resumed.state_dict(), uninterrupted(tmp_path))


def test_a_run_stopped_again_and_again_ends_the_same(tmp_path: Path) -> None:
    """Six steps at a time, of which one is lost each time, lead to the same weights."""
    checkpoint = tmp_path / "run.safetensors"
    for _ in range(4):
        module = network()
        with pytest.raises(_Stopped):
            fit(module, regression(module, stop_after=6), RECIPE, checkpoint, silent)
    module = network()
    fit(module, regression(module), RECIPE, checkpoint, silent)
    assert same(module.state_dict(), uninterrupted(tmp_path))


def test_seed_optimizer_and_average_all_count(tmp_path: Path) -> None:
    """Controls: another seed ends elsewhere, and so does a run resumed without its moments or without its average."""
    wanted = uninterrupted(tmp_path)
    assert same(uninterrupted(tmp_path / "again"), wanted)
    assert not same(uninterrupted(tmp_path / "other", replace(RECIPE, seed=4)), wanted)
    for lost in ("optimizer.", "average."):
        checkpoint = tmp_path / f"without-{lost}safetensors"
        module = network()
        with pytest.raises(_Stopped):
            fit(module, regression(module, stop_after=10), RECIPE, checkpoint, silent)
        tensors = load_file(checkpoint)
        assert any(name.startswith(lost) for name in tensors)
        save_file(
            {name: value for name, value in tensors.items() if not name.startswith(lost)}, checkpoint, {"step": "10"}
        )
        resumed = network()
        fit(resumed, regression(resumed), RECIPE, checkpoint, silent)
        assert not same(resumed.state_dict(), wanted), lost


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    """Called again, it gives the same weights from the checkpoint without a single batch."""
    wanted = uninterrupted(tmp_path)
    module = network(seed=99)
    fit(module, regression(module, stop_after=0), RECIPE, tmp_path / "uninterrupted.safetensors", silent)
    assert same(module.state_dict(), wanted)


def test_a_run_killed_while_saving_keeps_its_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a checkpoint never takes the place of a whole one: the run goes on from the one before."""
    checkpoint = tmp_path / "run.safetensors"
    saved: list[Path] = []

    def save_one(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        if saved:
            Path(path).write_bytes(b"half")
            raise _Stopped
        saved.append(path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr(training, "save_file", save_one)
    module = network()
    with pytest.raises(_Stopped):
        fit(module, regression(module), RECIPE, checkpoint, silent)
    monkeypatch.undo()
    resumed = network()
    seen: list[dict[str, Tensor]] = []
    fit(resumed, regression(resumed, seen=seen), RECIPE, checkpoint, silent)
    assert len(seen) == RECIPE.steps - RECIPE.save_every
    assert same(resumed.state_dict(), uninterrupted(tmp_path))


def test_a_run_ends_with_the_averaged_weights(tmp_path: Path) -> None:
    """The result is the running average, young ones weighted less: keep = min(average, (1 + step) / (10 + step))."""
    seen: list[dict[str, Tensor]] = []
    module = network()
    average = {name: value.clone() for name, value in module.state_dict().items()}
    checkpoint = tmp_path / "run.safetensors"
    fit(module, regression(module, seen=seen), RECIPE, checkpoint, silent)
    last = {
        name.removeprefix("module."): value
        for name, value in load_file(checkpoint).items()
        if name.startswith("module.")
    }
    for step, weights in enumerate([*seen[1:], last]):
        keep = min(RECIPE.average, (1 + step) / (10 + step))
        for name, value in weights.items():
            average[name] = keep * average[name] + (1 - keep) * value if value.is_floating_point() else value
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(module.state_dict()["0.weight"], last["0.weight"], rtol=1e-3)
    assert module.state_dict()["1.num_batches_tracked"] == RECIPE.steps


def test_an_average_of_nothing_is_the_last_weights(tmp_path: Path) -> None:
    """With ``average`` 0 a run ends with the weights of its last step."""
    module = network()
    fit(module, regression(module), replace(RECIPE, average=0.0), tmp_path / "run.safetensors", silent)
    stored = load_file(tmp_path / "run.safetensors")
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, stored[f"module.{name}"])


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    """More steps explain more of the product than few, and far more than none."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))

    def error(steps: int) -> float:
        module = network()
        recipe = replace(RECIPE, steps=steps, save_every=1000)
        fit(module, regression(module), recipe, tmp_path / f"{steps}.safetensors", silent)
        with torch.no_grad():
            return float((module.eval()(x)[:, 0] - x[:, 0] * x[:, 1]).square().mean())

    assert error(200) < 0.7 * error(0)


def test_the_rate_warms_up_and_decays() -> None:
    """Linear up to the peak, then half a cosine down to a hundredth of it, and no lower afterwards."""
    recipe = Recipe(steps=1100, peak=2.0, seed=0, warmup=100)
    rates = [recipe.rate(step) for step in range(1101)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[49] == pytest.approx(1.0)
    assert rates[99] == rates[100] == pytest.approx(2.0)
    assert rates[600] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[1100] == recipe.rate(5000) == pytest.approx(0.02)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize("warmup", [0, 5, 10, 20])
def test_the_rate_is_positive_and_never_above_the_peak(warmup: int) -> None:
    """Also without a warm-up, and with one that is as long as the run or longer."""
    recipe = Recipe(steps=10, peak=0.5, seed=0, warmup=warmup)
    rates = [recipe.rate(step) for step in range(11)]
    assert min(rates) > 0
    assert max(rates) <= 0.5


def test_the_optimizer_steps_at_the_given_rate(tmp_path: Path) -> None:
    """Adam's first step moves every weight by the rate: a tenth of the peak here; the average shows 9/10 of it."""
    module = nn.Linear(4, 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def loss(generator: torch.Generator) -> Tensor:
        return 3 * module.weight.sum() - 2 * module.bias.sum()

    recipe = Recipe(steps=1, peak=0.1, seed=0, warmup=10, weight_decay=0.0)
    fit(module, loss, recipe, tmp_path / "run.safetensors", silent)
    torch.testing.assert_close(module.weight.detach(), before["weight"] - 0.009)
    torch.testing.assert_close(module.bias.detach(), before["bias"] + 0.009)


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    """Each step gets a generator of its own: draws differ between steps and seeds, and nothing global changes them."""

    def draws(seed: int, spoil: Callable[[], object]) -> list[float]:
        module, drawn = nn.Linear(1, 1), []

        def loss(generator: torch.Generator) -> Tensor:
            spoil()
            drawn.append(float(torch.rand((), generator=generator)))
            return module.weight.sum()

        fit(module, loss, Recipe(steps=5, peak=0.1, seed=seed), tmp_path / f"{len(runs)}.safetensors", silent)
        return drawn

    runs: list[list[float]] = []
    for seed, spoil in ((1, lambda: None), (1, lambda: torch.rand(3)), (2, lambda: None)):
        runs.append(draws(seed, spoil))
    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == 10


def test_progress_is_reported(tmp_path: Path) -> None:
    """A line every 50 steps and at the end gives the mean loss since the line before."""
    module = nn.Linear(1, 1)
    lines: list[str] = []

    def loss(generator: torch.Generator) -> Tensor:
        step = generator.initial_seed() - 7 * 1_000_003
        return module.weight.sum() * 0 + (1.0 if step < 50 else 3.0)

    fit(module, loss, Recipe(steps=60, peak=0.1, seed=7), tmp_path / "run.safetensors", lines.append)
    assert [line.split("  ")[:2] for line in lines] == [["step 50/60", "loss 1.0000"], ["step 60/60", "loss 3.0000"]]
