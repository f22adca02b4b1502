"""Every image that a guarded pipeline gives or withholds has its line, or, where the guard enforces, does not leave."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saeuron_guard.errors import DecisionLogError, GuardNotEffective, GuardWarning
from saeuron_guard.guard.decision_log import DecisionLog, hashed
from saeuron_guard.guard.guard import Guard
from tests.guard.logbook import START, decisions_of, ticking
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_guard, make_point, make_rule

Logged = Callable[..., tuple[Guard, DecisionLog]]


def make_mixed(*modes: str, threshold: float = 0.5, share: float = 1.0) -> Guard:
    """A guard with a concept in each of ``modes``, all of which fire, and count as present from ``share`` on."""
    coder = make_coder()
    rules = [
        replace(
            make_rule(f"c{place}", range(place * 8, place * 8 + 8), threshold=threshold),
            mode=mode,
            severity="low",
            share=share,
        )
        for place, mode in enumerate(modes)
    ]
    return Guard(make_config([make_point(HOOKPOINTS[0], coder, rules)]), {HOOKPOINTS[0]: coder})


@pytest.fixture
def logged(pipe: Any, tmp_path: Path) -> Iterator[Logged]:
    """Attaches a guard with a log in a folder of its own; gives both."""
    attached: list[Guard] = []
    (tmp_path / "logs").mkdir()

    def attach(guard: Guard, **settings: Any) -> tuple[Guard, DecisionLog]:
        log = DecisionLog(tmp_path / "logs" / "log.jsonl", clock=ticking(), **settings)
        attached.append(guard.attach(pipe, log=log))
        return guard, log

    yield attach
    for guard in attached:
        guard.detach()


def break_log(log: DecisionLog) -> Callable[[], None]:
    """Put a folder in the place of the log; gives what undoes it."""
    kept = log.path.with_suffix(".kept")
    log.path.rename(kept)
    log.path.mkdir()

    def mend() -> None:
        log.path.rmdir()
        kept.rename(log.path)

    return mend


def test_an_image_leaves_with_its_line(pipe: Any, logged: Logged) -> None:
    """The line says which guard, what fired and what was asked for, as the report and the arguments have it."""
    guard, log = logged(make_guard(threshold=0.5))
    draw(pipe, prompt="a pistol")
    (line,) = decisions_of(log.path)
    config, report = guard.config, guard.report().images[0]
    assert (line.guard, line.policy.name, line.policy.version) == (config.digest, "tiny", "1")
    assert (line.policy.digest, line.model, line.modes) == (config.policy_digest, "tiny", ("enforce",))
    assert (line.image, line.images, line.steps, line.outcome, line.why) == (0, 1, 3, "released", "")
    assert line.time == START.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert line.seed == 7
    salt = bytes.fromhex(log.path.with_name("log.jsonl.salt").read_text())
    assert [prompt.text for prompt in line.prompts] == [hashed("a pistol", salt)]
    found = [(one.concept, one.steps, one.positions, one.peak) for one in line.concepts]
    fired = [one for one in report.concepts if one.fired]
    assert found == [(one.concept, len(one.timesteps), one.positions, one.peak) for one in fired]
    assert {(one.domain, one.action, one.mode, one.severity) for one in line.concepts} == {
        ("object", "scale", "enforce", "medium")
    }
    assert "pistol" in [one.concept for one in line.concepts]
    assert "a pistol" not in log.path.read_text()


def test_each_image_of_a_call_has_its_own_line(pipe: Any, logged: Logged) -> None:
    """Two prompts, two images each, a generator for every image: lines in the images' order, and unique."""
    guard, log = logged(make_guard(threshold=1.0), prompts="plain")
    generators = [torch.Generator().manual_seed(seed) for seed in (11, 12, 13, 2**63 + 14)]
    pipe(
        ["a pistol", "a cat"],
        num_images_per_prompt=2,
        num_inference_steps=2,
        generator=generators,
        output_type="pt",
    )
    lines = decisions_of(log.path)
    assert [(line.image, line.images, line.seed) for line in lines] == [
        (0, 4, 11),
        (1, 4, 12),
        (2, 4, 13),
        (3, 4, 2**63 + 14),
    ]
    assert [[prompt.text for prompt in line.prompts] for line in lines] == [["a pistol"]] * 2 + [["a cat"]] * 2
    assert len({line.id for line in lines}) == 4
    assert len({line.call for line in lines}) == 1
    peaks = [[one.peak for one in line.concepts] for line in lines]
    assert peaks == [[one.peak for one in image.concepts if one.fired] for image in guard.report().images]
    assert peaks[0] != peaks[1]


def test_what_the_arguments_do_not_say_is_left_open(pipe: Any, logged: Logged) -> None:
    """Prompts as embeddings and no generator: no prompt, no seed, but a line."""
    _, log = logged(make_guard())
    embeddings = torch.zeros(1, 16, 32)
    pipe(prompt_embeds=embeddings, negative_prompt_embeds=embeddings, num_inference_steps=1, output_type="pt")
    (line,) = decisions_of(log.path)
    assert (line.seed, line.prompts, line.image) == (None, (), 0)


@pytest.mark.parametrize(
    ("modes", "threshold", "share", "outcome"),
    [
        (("enforce", "observe"), 0.5, 0.01, "released"),
        (("enforce", "warn"), 0.5, 0.01, "released-with-warning"),
        (("enforce", "warn"), 0.5, 1.0, "released"),
        (("enforce", "warn"), 1e4, 0.0, "released"),
        (("observe",), 0.5, 0.01, "released"),
    ],
)
def test_a_concept_that_only_warns_is_told(
    pipe: Any, logged: Logged, modes: tuple[str, ...], threshold: float, share: float, outcome: str
) -> None:
    """An image with a concept of mode warn leaves with a warning, in Python as in the log.

    Others leave without, also those in which it fires at fewer positions than make it present.
    """
    _, log = logged(make_mixed(*modes, threshold=threshold, share=share))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw(pipe)
    told = [str(warning.message) for warning in caught if warning.category is GuardWarning]
    assert len(told) == (outcome == "released-with-warning")
    assert all(f"policy tiny warns of image 0: c{modes.index('warn')} (fired at" in message for message in told)
    (line,) = decisions_of(log.path)
    assert line.outcome == outcome
    assert line.modes == tuple(mode for mode in ("observe", "warn", "enforce") if mode in modes)
    assert [found.mode for found in line.concepts] == ([] if threshold > 1 else list(modes))


def test_a_withheld_image_has_a_line_that_says_why(pipe: Any, logged: Logged) -> None:
    """A bypassed guard withholds the images and notes it, with the steps that it did see."""
    _, log = logged(make_guard())

    def bypass(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe.unet.get_submodule(HOOKPOINTS[0].removeprefix("unet."))._forward_hooks.clear()
        return kwargs

    with pytest.raises(GuardNotEffective) as caught:
        draw(pipe, prompt=["a pistol", "a cat"], callback_on_step_end=bypass)
    with pytest.raises(GuardNotEffective):
        draw(pipe)
    first, second = decisions_of(log.path)
    assert (first.outcome, first.why) == ("withheld", str(caught.value))
    assert (first.image, first.images, first.steps, len(first.prompts)) == (None, None, 2, 2)
    assert [found.concept for found in first.concepts] == ["pistol", "knife", "Neon"]
    assert (second.outcome, second.steps, second.concepts) == ("withheld", 0, ())


def test_errors_of_the_pipeline_are_no_decisions(pipe: Any, logged: Logged) -> None:
    """Where nothing could be drawn there is nothing to decide about."""
    _, log = logged(make_guard())
    with pytest.raises(TypeError, match="positional argument"):
        draw(pipe, callback_on_step_end=lambda _pipe: {})
    assert decisions_of(log.path) == []
    draw(pipe)
    assert len(decisions_of(log.path)) == 1


def test_an_image_that_cannot_be_logged_is_withheld(pipe: Any, logged: Logged) -> None:
    """A guard that enforces fails closed; when the log is mended the next image leaves as it would have before."""
    guard, log = logged(make_mixed("enforce", "observe"))
    wanted = draw(pipe)
    mend = break_log(log)
    with pytest.raises(DecisionLogError, match="The guard enforces, so the images were withheld") as caught:
        draw(pipe)
    assert caught.value.exit_code == 3
    assert guard.status().unlogged == 1
    mend()
    assert torch.equal(draw(pipe), wanted)
    assert len(decisions_of(log.path)) == 2


@pytest.mark.parametrize("modes", [("observe",), ("warn", "observe")])
def test_a_guard_that_only_watches_goes_on_without_a_log(pipe: Any, logged: Logged, modes: tuple[str, ...]) -> None:
    """It warns, and its status counts what is missing."""
    guard, log = logged(make_mixed(*modes))
    wanted = draw(pipe)
    assert guard.status().unlogged == 0
    break_log(log)
    with pytest.warns(GuardWarning, match="only observes or warns, so it goes on"):
        assert torch.equal(draw(pipe), wanted)
    assert guard.status().unlogged == 1


def test_a_withheld_image_stays_withheld_without_a_log(pipe: Any, logged: Logged) -> None:
    """The guard's error comes through, and says that it could not be logged."""
    guard, log = logged(make_guard())
    break_log(log)
    pipe.unet.get_submodule(HOOKPOINTS[0].removeprefix("unet."))._forward_hooks.clear()
    with pytest.raises(GuardNotEffective, match="removed") as caught:
        draw(pipe)
    assert "could not be logged" in caught.value.__notes__[0]
    assert guard.status().unlogged == 1


def test_a_log_that_cannot_be_written_is_found_when_attaching(pipe: Any, tmp_path: Path) -> None:
    """Before the first image: refused by a guard that enforces, warned of by one that watches."""
    log = DecisionLog(tmp_path / "none" / "log.jsonl")
    with pytest.raises(DecisionLogError, match="so the guard was not attached"):
        make_mixed("enforce").attach(pipe, log=log)
    with pytest.warns(RuntimeWarning, match="goes on"):
        guard = make_mixed("observe").attach(pipe, log=log)
    guard.detach()
    log.path.parent.mkdir()
    make_mixed("enforce").attach(pipe, log=log).detach()


def test_a_gate_that_does_not_tell_images_apart_has_no_log(pipe: Any, tmp_path: Path) -> None:
    """Refused at once, rather than a log that says that nothing fired; without a log the gate is taken."""
    with pytest.raises(DecisionLogError, match="needs the gate 'exact'"):
        make_guard().attach(pipe, gate="threshold", log=DecisionLog(tmp_path / "log.jsonl"))
    make_guard().attach(pipe, gate="threshold").detach()


def test_another_policy_is_refused_when_its_images_could_not_be_logged(pipe: Any, logged: Logged) -> None:
    """A guard that watches goes on without a log; one that enforces cannot take its place then."""
    guard, log = logged(make_mixed("observe"))
    mend = break_log(log)
    with pytest.raises(DecisionLogError, match="is still active"):
        guard.set_policy(make_mixed("enforce"))
    assert guard.status().digest == make_mixed("observe").config.digest
    mend()
    guard.set_policy(make_mixed("enforce"))
    assert guard.status().digest == make_mixed("enforce").config.digest


def test_threads_log_their_own_images(pipe: Any, logged: Logged) -> None:
    """Two threads with seeds of their own: each image has one line, with its seed."""
    _, log = logged(make_guard())

    def draw_on(seed: int) -> None:
        for number in range(2):
            generator = torch.Generator().manual_seed(seed + number)
            pipe("a pistol", num_inference_steps=2, generator=generator, output_type="pt")

    threads = [threading.Thread(target=draw_on, args=(seed,)) for seed in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line.seed or 0 for line in decisions_of(log.path)) == [10, 11, 20, 21]


def test_thresholds_of_zero_have_finite_peaks(pipe: Any, logged: Logged) -> None:
    """Relative to nothing a latent is infinite, which JSON cannot say."""
    _, log = logged(make_mixed("enforce", threshold=0.0))
    draw(pipe)
    (line,) = decisions_of(log.path)
    assert 1e30 < line.concepts[0].peak <= 3.4e38
