"""Several policies in one batch: every image is as if its policy were alone, and no image goes without being asked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saeuron_guard.errors import (
    ArtefactError,
    GuardNotEffective,
    GuardWarning,
    ImageRefused,
    ModelMismatch,
    SaeuronGuardError,
)
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.guard_set import GuardSet
from tests.guard.logbook import decisions_of
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_point, make_rule

PROMPTS = ["a pistol", "a cat", "a dog"]
SEEDS = (11, 12, 13)


def make_policy(
    concept: str, features: range, *hookpoints: str, branches: str = "all", seed: int = 0, **changes: Any
) -> Guard:
    """A guard of one concept; equal hookpoints have equal SAEs unless ``seed`` differs."""
    places = hookpoints or HOOKPOINTS[:1]
    coders = {name: make_coder(seed + HOOKPOINTS.index(name)) for name in places}
    rule = replace(make_rule(concept, features), **changes)
    points = [make_point(name, coder, [rule]) for name, coder in coders.items()]
    return Guard(make_config(points, branches=branches), coders)


def make_policies(branches: str = "all") -> dict[str, Guard]:
    """Three policies: two share a feature and one a concept's name, each acts at other hookpoints in another way."""
    return {
        "kids": make_policy("pistol", range(8), branches=branches),
        "office": make_policy("pistol", range(4, 12), *HOOKPOINTS, branches=branches, multiplier=-2.0),
        "art": make_policy("Neon", range(20, 28), HOOKPOINTS[1], branches=branches, action="reflect"),
    }


@pytest.fixture
def guards(pipe: Any) -> Iterator[GuardSet]:
    """The three policies on the tiny pipeline."""
    guards = GuardSet(make_policies()).attach(pipe)
    yield guards
    guards.detach()


def batch(pipe: Any, prompts: list[str] = PROMPTS, seeds: tuple[int, ...] = SEEDS, guidance: float = 5.0) -> Any:
    """An image of each prompt, from noise of its own."""
    return pipe(
        prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=3,
        guidance_scale=guidance,
        output_type="pt",
    ).images


@pytest.fixture(scope="module")
def alone(shared_pipe: Any) -> Callable[..., torch.Tensor]:
    """The images of the batch under one policy, or without any."""

    def drawn(name: str | None, branches: str = "all", guidance: float = 5.0, gate: str = "exact") -> torch.Tensor:
        guard = make_policies(branches)[name].attach(shared_pipe, gate=gate) if name else None
        images = batch(shared_pipe, guidance=guidance)
        if guard:
            guard.detach()
        return images

    return drawn


@pytest.mark.parametrize("gate", ["exact", "threshold"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("branches", ["all", "conditional"])
def test_each_image_is_as_if_its_policy_were_alone(
    pipe: Any, alone: Callable[..., torch.Tensor], gate: str, guidance: float, branches: str
) -> None:
    """Every policy in every place of the batch, and none: bit for bit unguarded there."""
    choices: list[list[str | None]] = [["kids", None, "art"], ["art", "office", "kids"], [None, "kids", "office"]]
    unguarded = alone(None, branches, guidance)
    wanted = {name: alone(name, branches, guidance, gate) for name in ("kids", "office", "art")}
    guards = GuardSet(make_policies(branches)).attach(pipe, gate=gate)
    for chosen in choices:
        with guards.serving(chosen):
            images = batch(pipe, guidance=guidance)
        for place, name in enumerate(chosen):
            if name is None:
                assert torch.equal(images[place], unguarded[place])
            else:
                torch.testing.assert_close(images[place], wanted[name][place], atol=1e-5, rtol=0)
                assert not torch.allclose(images[place], unguarded[place], atol=1e-3)
    guards.detach()


def test_one_policy_for_all_images(pipe: Any, alone: Callable[..., torch.Tensor]) -> None:
    """Whatever their number, also several of one prompt; None leaves all of them alone."""
    wanted = {name: alone(name) for name in ("kids", "office", None)}
    guards = GuardSet(make_policies()).attach(pipe)
    for name in ("kids", "office"):
        with guards.serving(name):
            torch.testing.assert_close(batch(pipe), wanted[name], atol=1e-5, rtol=0)
    with guards.serving(None):
        assert torch.equal(batch(pipe), wanted[None])
    with guards.serving("kids"):
        assert draw(pipe, num_images_per_prompt=2).shape[0] == 2
    guards.detach()


def test_images_of_one_prompt_come_in_a_row(pipe: Any, guards: GuardSet) -> None:
    """With two images a prompt, an entry for each image, the first prompt's first; the report says which was which."""
    with guards.serving(["kids", "kids", None, "art"]):
        draw(pipe, prompt=["a pistol", "a cat"], num_images_per_prompt=2)
    assert [image.policy for image in guards.report().images] == ["kids", "kids", None, "art"]
    fired = [{found.concept for found in image.concepts if found.fired} for image in guards.report().images]
    assert fired == [{"pistol"}, {"pistol"}, set(), {"Neon"}]


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ("kid", r"policy 'kid' is not loaded; loaded: kids, office, art\. Did you mean 'kids'"),
        (["kids", "Art", None], r"policy 'Art' is not loaded"),
        ([], "no policies were given"),
    ],
)
def test_unknown_policies_are_refused(pipe: Any, guards: GuardSet, policies: Any, message: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(GuardNotEffective, match=message), guards.serving(policies):
        raise AssertionError("unreachable")


def test_a_call_without_policies_is_refused(pipe: Any, guards: GuardSet) -> None:
    """Also after a block that said some, in another thread, and when the model is called by itself."""
    with pytest.raises(GuardNotEffective, match="nobody said which of them the images have"):
        batch(pipe)
    caught: list[BaseException] = []

    def in_thread() -> None:
        try:
            batch(pipe)
        except GuardNotEffective as error:
            caught.append(error)

    with guards.serving("kids"):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        batch(pipe)
    assert len(caught) == 1
    with pytest.raises(GuardNotEffective, match="nobody said"):
        batch(pipe)
    with guards.serving("kids"), pytest.raises(GuardNotEffective, match="outside of the guarded pipeline"):
        pipe.unet(torch.zeros(1, 4, 8, 8), 981, torch.zeros(1, 16, 32))


@pytest.mark.parametrize("gate", ["exact", "threshold"])
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_another_number_of_images_is_withheld(pipe: Any, gate: str, count: int) -> None:
    """Policies for fewer or more images than there are: which image has which would be a guess."""
    guards = GuardSet(make_policies()).attach(pipe, gate=gate)
    with guards.serving(["kids"] * count), pytest.raises(GuardNotEffective, match="images"):
        batch(pipe)
    with guards.serving(["kids"] * 3):
        assert batch(pipe).shape[0] == 3
    guards.detach()


def test_rows_of_an_unknown_layout_are_not_guessed_at(pipe: Any, guards: GuardSet) -> None:
    """In a pipeline that nobody knows, several policies are refused under guidance, where rows could be mixed up."""
    guards.detach()

    class Own(type(pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    own = Own(**pipe.components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    others = GuardSet(make_policies()).attach(own)
    with others.serving(["kids", None, "art"]), pytest.raises(GuardNotEffective, match="nobody knows which row"):
        batch(own)
    with others.serving(["kids", None, "art"]):
        batch(own, guidance=1.0)
    with others.serving("kids"):
        batch(own)
    others.detach()


def test_threads_have_policies_of_their_own(pipe: Any, guards: GuardSet, alone: Callable[..., torch.Tensor]) -> None:
    """Two threads with other policies at the same time draw what each would draw by itself."""
    guards.detach()
    wanted = {name: alone(name) for name in ("kids", "art")}
    guards.attach(pipe)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    barrier = threading.Barrier(2, timeout=60)

    def work(name: str) -> None:
        for _ in range(3):
            with guards.serving(name):
                barrier.wait()
                found[name].append(batch(pipe))

    threads = [threading.Thread(target=work, args=(name,)) for name in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, images in found.items():
        assert len(images) == 3
        for image in images:
            torch.testing.assert_close(image, wanted[name], atol=1e-5, rtol=0)


def test_policies_are_replaced_added_and_removed_while_attached(
    pipe: Any, guards: GuardSet, alone: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    """The next call has the new ones; what cannot be loaded changes nothing and says so."""
    other = make_policies()["art"]
    guards.set_policy("kids", other)
    with guards.serving(["kids", "office", None]):
        images = batch(pipe)
    guards.set_policy("new", make_policies()["kids"])
    with guards.serving(["new", None, "kids"]):
        again = batch(pipe)
    guards.remove_policy("office")
    assert guards.policies == ("kids", "art", "new")
    with pytest.raises(GuardNotEffective, match="'office' is not loaded"), guards.serving("office"):
        pass
    before = guards.status()
    with pytest.raises(ArtefactError, match="are still active"):
        guards.set_policy("kids", tmp_path / "missing")
    with pytest.raises(GuardNotEffective, match=r"'office' is not loaded.*still active"):
        guards.remove_policy("office")
    assert guards.status() == before
    assert before.policies["kids"] == other.config.digest
    guards.detach()
    torch.testing.assert_close(images[0], alone("art")[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(again[0], alone("kids")[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(again[2], alone("art")[2], atol=1e-5, rtol=0)


def test_decisions_name_the_policy_of_each_image(pipe: Any, tmp_path: Path) -> None:
    """Guard, modes and concepts are those of the image's own policy; of none, nothing is said but that it left."""
    policies = make_policies()
    log = DecisionLog(tmp_path / "log.jsonl")
    guards = GuardSet(policies).attach(pipe, log=log)
    with guards.serving(["kids", None, "art"]):
        batch(pipe)
    guards.detach()
    lines = decisions_of(log.path)
    assert [line.guard for line in lines] == [policies["kids"].config.digest, "", policies["art"].config.digest]
    assert [[found.concept for found in line.concepts] for line in lines] == [["pistol"], [], ["Neon"]]
    assert [line.modes for line in lines] == [("enforce",), (), ("enforce",)]
    assert {line.outcome for line in lines} == {"released"}


@pytest.mark.parametrize("asked", [["watch"], ["watch"] * 3, None], ids=["too few", "too many", "nothing said"])
def test_a_set_that_enforces_nothing_never_withholds(pipe: Any, tmp_path: Path, asked: list[str] | None) -> None:
    """Whatever is wrong with what was said: images leave, with a warning and a line that says what."""
    wanted = batch(pipe, ["a pistol", "a cat"], (1, 2))
    policies = {
        "watch": make_policy("pistol", range(8), mode="warn", share=1.0),
        "look": make_policy("cat", range(8), mode="observe"),
    }
    log = DecisionLog(tmp_path / "log.jsonl")
    guards = GuardSet(policies).attach(pipe, log=log)
    with (
        guards.serving(asked) if asked else nullcontext(),
        pytest.warns(GuardWarning, match="nothing is enforced, so images left") as told,
    ):
        images = batch(pipe, ["a pistol", "a cat"], (1, 2))
    assert torch.equal(images, wanted)
    assert not any("withheld" in str(warning.message) for warning in told)
    assert len(guards.report().images) == 2
    guards.detach()
    (line,) = decisions_of(log.path)
    assert line.outcome == "released-unguarded"
    assert "withheld" not in line.why


def test_what_was_said_stays_said(pipe: Any, guards: GuardSet) -> None:
    """A list that is changed inside the block takes no policy off."""
    chosen: list[str | None] = ["kids"] * 3
    with guards.serving(chosen):
        chosen[:] = [None] * 3
        batch(pipe)
    assert [image.policy for image in guards.report().images] == ["kids"] * 3


def test_a_call_without_policies_has_its_line(pipe: Any, tmp_path: Path) -> None:
    """Nothing was drawn, and the log says why."""
    log = DecisionLog(tmp_path / "log.jsonl")
    guards = GuardSet(make_policies()).attach(pipe, log=log)
    with pytest.raises(GuardNotEffective):
        batch(pipe)
    guards.detach()
    (line,) = decisions_of(log.path)
    assert (line.outcome, line.image, line.guard) == ("withheld", None, guards.status().digest)
    assert "nobody said which of them the images have" in line.why


def test_only_the_policy_that_refuses_refuses(pipe: Any) -> None:
    """The same concept is edited by one policy and refused by another; an image without a policy has it."""
    policies = make_policies()
    policies["strict"] = make_policy("pistol", range(8), action="detect", share=0.01)
    guards = GuardSet(policies).attach(pipe, refuse="blank")
    with guards.serving(["kids", None, "strict"]):
        assert [bool(image.any()) for image in batch(pipe)] == [True, True, False]
    with guards.serving(["kids", "strict", None]):
        assert [bool(image.any()) for image in batch(pipe)] == [True, False, True]
    guards.detach()
    guards.attach(pipe)
    with guards.serving(["kids", None, "strict"]), pytest.raises(ImageRefused) as caught:
        batch(pipe)
    assert caught.value.refused == {2: ("pistol",)}
    guards.detach()


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (make_policy("cat", range(8), seed=5), ArtefactError, "different SAEs or timesteps"),
        (make_policy("cat", range(8), branches="conditional"), ArtefactError, "different branches of guidance"),
    ],
)
def test_policies_that_cannot_share_a_model_are_refused(
    other: Guard, error: type[SaeuronGuardError], message: str
) -> None:
    """Tables of different SAEs, timesteps or branches cannot be one."""
    with pytest.raises(error, match=message):
        GuardSet({"one": make_policies()["kids"], "two": other})
    with pytest.raises(ArtefactError, match="cannot be a policy's id"):
        GuardSet({"": make_policies()["kids"]})
    with pytest.raises(ArtefactError, match="no policies were given"):
        GuardSet({})


def test_another_model_is_refused(pipe: Any) -> None:
    """If any policy was compiled for another model, none is attached."""
    coder = make_coder()
    config = make_config([make_point(HOOKPOINTS[0], coder, [make_rule("cat", range(8))])], fingerprint="sha256:other")
    guards = GuardSet({**make_policies(), "other": Guard(config, {HOOKPOINTS[0]: coder})})
    with pytest.raises(ModelMismatch, match="holds another model"):
        guards.attach(pipe)


def test_policies_come_from_folders_too(pipe: Any, tmp_path: Path, alone: Callable[..., torch.Tensor]) -> None:
    """Each is checked as a single guard's folder is."""
    for name, guard in make_policies().items():
        guard.save(tmp_path / name)
    guards = GuardSet({"kids": tmp_path / "kids", "art": str(tmp_path / "art")}).attach(pipe)
    with guards.serving(["kids", "art", None]):
        images = batch(pipe)
    guards.detach()
    torch.testing.assert_close(images[1], alone("art")[1], atol=1e-5, rtol=0)
    (tmp_path / "art" / "guard.json").write_text("{}")
    with pytest.raises(ArtefactError, match="not a sound guard"):
        GuardSet({"art": tmp_path / "art"})


COMPILE = """
import sys
from pathlib import Path
import torch
from saeuron_guard.guard.guard_set import GuardSet
from tests.guard.test_guard_set import batch, make_policies
from tests.tiny import make_pipeline

graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

pipe = make_pipeline(Path(sys.argv[1]))
choices = (["kids", None, "art"], ["art", "office", "kids"], [None, None, "office"])
guards = GuardSet(make_policies()).attach(pipe, gate="threshold")

def drawn():
    for chosen in choices:
        with guards.serving(chosen):
            yield batch(pipe)

eager = list(drawn())
pipe.unet.compile(backend=backend, fullgraph=True)
counts = []
for found, wanted in zip(drawn(), eager):
    assert torch.allclose(found, wanted, atol=1e-5)
    counts.append(len(graphs))
print(*counts)
"""


def test_other_policies_compile_nothing_anew(tmp_path: Path) -> None:
    """One graph of the whole denoiser serves every choice of policies for a batch.

    In a process of its own: the checks of shapes that tests put around every function would break the graph.
    """
    done = subprocess.run([sys.executable, "-c", COMPILE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "2", "2"], done.stderr
