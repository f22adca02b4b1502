"""The gate by thresholds on a pipeline: the same promises, without host synchronisation and in one compiled graph."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.guard import Guard
from tests.tiny import (
    HOOKPOINTS,
    LATENTS,
    draw,
    make_coder,
    make_config,
    make_guard,
    make_pipeline,
    make_point,
    make_rule,
)


def wide_guard(branches: str = "all", **settings: float) -> Guard:
    """A guard whose SAE lets every latent fire, so that both gates say the same."""
    coder = make_coder(0, k=LATENTS)
    rule = make_rule("pistol", range(8), **{"threshold": 1.5, **settings})
    return Guard(make_config([make_point(HOOKPOINTS[0], coder, [rule])], branches=branches), {HOOKPOINTS[0]: coder})


@pytest.mark.parametrize("branches", ["all", "conditional"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_both_gates_draw_the_same_picture(pipe: Any, branches: str, guidance: float) -> None:
    """Where the top k leaves nothing out, picture and report are those of the exact gate."""
    before = draw(pipe, guidance=guidance)
    pictures, reports = [], []
    for gate in ("exact", "threshold"):
        guard = wide_guard(branches).attach(pipe, gate=gate)
        pictures.append(draw(pipe, guidance=guidance))
        reports.append(guard.report())
        guard.detach()
    assert torch.allclose(pictures[0], pictures[1], atol=1e-4)
    assert not torch.allclose(pictures[0], before, atol=1e-2)
    exact, quick = (report.concept("pistol") for report in reports)
    assert (quick.steps, quick.positions) == (exact.steps, pytest.approx(exact.positions, abs=1e-3))
    assert quick.peak == pytest.approx(exact.peak, rel=1e-3)
    assert reports[1].calls == reports[0].calls == 3


def test_nothing_fires_and_not_a_bit_changes(pipe: Any) -> None:
    """The image is the unguarded one, bit for bit, and comes back after detaching."""
    before = draw(pipe)
    guard = wide_guard(threshold=1e4).attach(pipe, gate="threshold")
    assert torch.equal(draw(pipe), before)
    guard.detach()
    assert torch.equal(draw(pipe), before)


COMPILE = """
import sys
from pathlib import Path
import torch
from tests.guard.test_threshold_gate import wide_guard
from tests.tiny import draw, make_pipeline

graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

pipe = make_pipeline(Path(sys.argv[1]))
guard = wide_guard().attach(pipe, gate="threshold")
eager = draw(pipe, steps=4)
pipe.unet.compile(backend=backend, fullgraph=True)
assert torch.allclose(draw(pipe, steps=4), eager, atol=1e-5)
first = len(graphs)
draw(pipe, steps=7)
largest = max(len(graph.graph.nodes) for graph in graphs)
print(first, len(graphs), guard.report().calls, largest)
"""


def test_one_graph_serves_all_steps(tmp_path: Path) -> None:
    """The whole denoiser with the guard inside compiles without a break, once for all steps and further pictures.

    One graph is the denoiser's, with the edit in it, the other the hook's that notes the timestep.
    In a process of its own: the checks of shapes that tests put around every function would break the graph.
    """
    done = subprocess.run([sys.executable, "-c", COMPILE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split()[:3] == ["2", "2", "15"], done.stderr
    assert int(done.stdout.split()[3]) > 900  # nodes; 837 without a guard


def test_a_skipped_block_withholds_the_image(tmp_path: Path) -> None:
    """Counted in tensors, found before the image leaves: here the block is called past its hooks in one step."""
    pipe = make_pipeline(tmp_path)
    guard = make_guard().attach(pipe, gate="threshold")
    draw(pipe)
    block = pipe.unet.get_submodule("up_blocks.1")
    inner = block.attentions[1]

    def past_the_hooks(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            block.attentions[1] = Bypass(inner)
        else:
            block.attentions[1] = inner
        return kwargs

    with pytest.raises(GuardNotEffective, match=r"attentions\.1 \(2 of 3\)"):
        draw(pipe, callback_on_step_end=past_the_hooks)
    assert guard.status().attached
    draw(pipe)


class Bypass(torch.nn.Module):
    """Calls a block's forward directly, as some caches do."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Past all hooks."""
        return self.block.forward(*args, **kwargs)


def test_far_timesteps_withhold_the_image(tmp_path: Path) -> None:
    """The same check as the exact gate's, at the end of the pipeline call."""
    pipe = make_pipeline(tmp_path)
    coder = make_coder(0)
    point = make_point(HOOKPOINTS[0], coder, [make_rule("pistol", [1])], gap=0)
    Guard(make_config([point]), {HOOKPOINTS[0]: coder}).attach(pipe, gate="threshold")
    with pytest.raises(GuardNotEffective, match="farther from the calibrated ones"):
        draw(pipe)


def test_one_pipeline_call_at_a_time(tmp_path: Path) -> None:
    """A second thread is refused while the first one draws, and may draw afterwards."""
    pipe = make_pipeline(tmp_path)
    wide_guard().attach(pipe, gate="threshold")
    refused: list[BaseException] = []

    def other(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        def work() -> None:
            try:
                pipe("a cat", num_inference_steps=2)
            except GuardNotEffective as error:
                refused.append(error)

        if step == 0:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return kwargs

    draw(pipe, callback_on_step_end=other)
    assert len(refused) == 1
    assert "one at a time" in str(refused[0])
    draw(pipe)


def test_an_unknown_gate_is_refused(pipe: Any) -> None:
    """Before anything is installed."""
    with pytest.raises(ValueError, match="expected exact or threshold"):
        wide_guard().attach(pipe, gate="fast")
