"""What a guard costs at run time, as Markdown for README.md, from the files in which it was measured."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from saeuron_guard.cli.tables import markdown
from saeuron_guard.resources import data_folder

_BENCHMARKS = data_folder("registry") / "benchmarks"
_OVERHEAD = _BENCHMARKS / "overhead.json"
"""What ``benchmark overhead`` found."""
_GATES = _BENCHMARKS / "emoji-canvas-gates.json"
"""What ``benchmark gates`` found with the shipped policies."""


def overhead_table() -> str:
    """Time of a step, and what one hookpoint adds to it."""
    found = _read(_OVERHEAD)
    hookpoints = len(found["hookpoints"])
    rows = [
        [
            one["name"],
            f"{one['step']:.2f} s ({min(one['steps']):.2f}-{max(one['steps']):.2f})",
            "" if one["gate"] is None else f"{median(one['hooks']) * 1000 / hookpoints:.1f} ms",
            "" if one["gate"] is None else f"{one['share_a_hookpoint']:.3%}",
        ]
        for one in found["variants"]
    ]
    return markdown(["variant", "a step (fastest-slowest)", "a hookpoint", "of a step without a guard"], rows)


def overhead_sentence() -> str:
    """On what it was measured, and memory."""
    found = _read(_OVERHEAD)
    machine, resident, seconds = found["machine"], found["resident"], found["seconds"]
    repeats = len(found["variants"][0]["steps"])
    held = found["held"]["weights of the SAEs"] + found["held"]["tables"]
    cores, tables = f"{machine['cores']} cores of an {machine['processor']}", found["held"]["tables"]
    return (
        f"Measured on {cores} with torch {machine['libraries']['torch']}, float32, {repeats} steps of each variant by "
        f"turns in one process: {found['parameters'] / 1e6:.0f} million parameters, {found['size']['sample']} x "
        f"{found['size']['sample']} latents, both branches of guidance, {found['positions']} positions at each of two "
        f"hookpoints.\n"
        f"The guard holds {held / 1e6:.0f} MB, all but {tables / 1e6:.1f} MB of them weights of the two SAEs; the "
        f"process grew from {resident['first step'] / 1e9:.1f} GB with the bare model to "
        f"{resident['guarded step'] / 1e9:.1f} GB.\n"
        f"Loading the SAEs from checkpoints in SAeUron's layout took {seconds['load the SAEs']:.1f} s, attaching "
        f"{seconds['attach']:.2f} s, detaching {seconds['detach'] * 1000:.0f} ms; afterwards a step gave what it gave "
        f"before, bit for bit."
    )


def gates_table() -> str:
    """How often the two gates differ, for each shipped policy."""
    rows = [
        [
            one["policy"],
            one["threshold"],
            str(sum(concept["both"] + concept["threshold_only"] for concept in one["concepts"])),
            f"{one['disagreement']:.3%}",
            f"{one['identical']} of {one['images']}",
            f"{one['largest_difference']} of 255",
        ]
        for one in _read(_GATES)["policies"]
    ]
    header = ["policy", "`target.threshold`", "firings", "by one gate alone", "same pictures", "largest difference"]
    return markdown(header, rows)


def _read(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
