"""The figures of the embedded model's card as Markdown tables, from the files in which they were measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saeuron_guard.benchmark.files import read_outcomes
from saeuron_guard.benchmark.removal import summarise
from saeuron_guard.cli.tables import markdown
from saeuron_guard.registry.manifest import load_manifest
from saeuron_guard.resources import data_folder

_REGISTRY = data_folder("registry")
_REMOVAL = _REGISTRY / "benchmarks" / "emoji-canvas-removal.json"
"""What ``benchmark removal`` found with the shipped calibrations."""
_HELD_OUT = _REGISTRY / "benchmarks" / "emoji-canvas-held-out-removal.json"
"""The same on pairs of an object and a style that the model was never trained on."""


def pictures_table() -> str:
    """How many pictures each judge recognises, on trained and on held-out pairs."""
    found = _figures()["pictures"]
    groups = list(found["n"])
    rows = [[name, *(_percent(found[name][group]) for group in groups)] for name in sorted(set(found) - {"n"})]
    return markdown(["judge and domain", *(f"{group} (n={found['n'][group]})" for group in groups)], rows)


def autoencoder_sentence() -> str:
    """How closely the autoencoder gives back renders that it was not trained on."""
    found = _figures()["vae"]
    return (
        f"The autoencoder gives back held-out renders with a peak signal-to-noise ratio of {found['psnr_db']:.1f} dB "
        f"(n={found['n']})."
    )


def judges_table() -> str:
    """How well each judge reads held-out renders."""
    found = _figures()["judges"]
    rows = [[name, _percent(found[name])] for name in sorted(set(found) - {"n"})]
    return markdown(["judge and domain", f"right on held-out renders (n={found['n']})"], rows)


def saes_table() -> str:
    """Size and quality of each SAE."""
    rows = [
        [
            f"`{sae.name}`",
            f"`{sae.hookpoint}`",
            f"{sae.d_in} to {sae.num_latents}",
            str(sae.k),
            sae.variant,
            unknown_or(sae.fvu, "{:.3f}"),
            unknown_or(None if sae.dead_share is None else 100 * sae.dead_share, "{:.1f} %"),
            unknown_or(sae.l0, "{:.0f}"),
        ]
        for sae in load_manifest(_REGISTRY / "manifest.yaml").saes
    ]
    return markdown(["name", "hookpoint", "latents", "k", "variant", "fvu", "dead latents", "l0"], rows)


def removal_table() -> str:
    """Means of what each method does, by domain, and the worst single figure; retention is relative.

    Over the concepts that all methods were measured on.
    """
    return _comparison(_REMOVAL)


def held_out_table() -> str:
    """The same on pairs that the model never saw together."""
    return _comparison(_HELD_OUT)


def _comparison(path: Path) -> str:
    found = read_outcomes(path)
    methods = {each.method for each in found}
    common = [each for each in found if methods == {other.method for other in found if other.concept == each.concept}]
    rows = [
        [
            each.domain,
            each.method,
            str(each.concepts),
            *(_percent(share) for share in (each.ua, each.ira, each.cra, each.survival)),
            f"{_percent(each.worst)} ({each.worst_concept})",
        ]
        for each in summarise(common)
    ]
    return markdown(["domain", "method", "concepts", "UA", "IRA", "CRA", "survival", "worst of UA, IRA, CRA"], rows)


def concepts_table() -> str:
    """What the shipped guard does to each concept."""
    rows = []
    for each in read_outcomes(_REMOVAL):
        if each.method == "guard":
            effect = each.effect
            shares = [_percent(share) for share in (effect.ua.value, *effect.kept, effect.survived)]
            sizes = f"{effect.ua.n} / {effect.ira_base.n}"
            rows.append([each.concept, sizes, *shares, _became(each.became), f"`{each.setting}`"])
    return markdown(["concept", "n target / retain", "UA", "IRA", "CRA", "survival", "most became", "setting"], rows)


def _became(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in list(counts.items())[:3])


def _figures() -> dict[str, Any]:
    path = _REGISTRY / "models" / "emoji-canvas" / "figures.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def unknown_or(figure: float | None, form: str) -> str:
    """A figure in the ``form`` of ``str.format``; "unknown" where nobody measured it."""
    return "unknown" if figure is None else form.format(figure)
