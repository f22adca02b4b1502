"""Lets the judge look at the drawn pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.interface import Images, ImageTextJudge, Judge
from saeuron_guard.verify.figures import JudgedPair
from saeuron_guard.verify.metrics import cmmd
from saeuron_guard.verify.plan import Shot
from saeuron_guard.verify.result import PairedImages, Quality


def check_labels(judge: Judge, shots: Sequence[Shot], domains: Mapping[str, str]) -> None:
    """Raise CannotEvaluate unless the judge knows every concept that the shots' prompts ask for.

    ``domains``: the domain of each concept that the policy removes; a prompt that files it elsewhere is refused.
    """
    for shot in shots:
        for domain, concept in shot.prompt.labels:
            if concept not in judge.labels(domain):
                raise CannotEvaluate(
                    f"prompt {shot.prompt.id!r} asks for the {domain} {concept!r}, which judge {judge.name} does not "
                    f"know; it knows {', '.join(judge.labels(domain))}"
                )
            if domains.get(concept, domain) != domain:
                raise CannotEvaluate(
                    f"prompt {shot.prompt.id!r} files {concept!r} under the domain {domain!r}, the registry under "
                    f"{domains[concept]!r}; correct the prompt set"
                )


def judge_pairs(judge: Judge, shots: Sequence[Shot], images: PairedImages) -> tuple[JudgedPair, ...]:
    """Name what both images of each shot show, in every domain of which its prompt names a concept."""
    base, guarded = _classify(judge, shots, images.base), _classify(judge, shots, images.guarded)
    return tuple(
        JudgedPair(
            prompt_id=shot.prompt.id,
            prompt=shot.prompt.text,
            seed=shot.seed,
            targets=shot.targets,
            expected=shot.prompt.labels,
            base=tuple(sorted(base[index].items())),
            guarded=tuple(sorted(guarded[index].items())),
        )
        for index, shot in enumerate(shots)
    )


def quality_of(judge: Judge, shots: Sequence[Shot], images: PairedImages) -> Quality:
    """CLIP scores and CMMD on the retain prompts' images; nothing for a judge that compares no texts.

    Target prompts are left out: their images are meant to change and to leave their text.
    """
    kept = [index for index, shot in enumerate(shots) if not shot.targets]
    if not isinstance(judge, ImageTextJudge) or not kept:
        return Quality()
    texts = [shots[index].prompt.text for index in kept]
    base, guarded = images.base[kept], images.guarded[kept]
    enough = len(kept) >= 2
    return Quality(
        clip_score=_clip_score(judge, guarded, texts),
        clip_score_base=_clip_score(judge, base, texts),
        cmmd=cmmd(judge.image_features(base), judge.image_features(guarded)) if enough else None,
    )


def _classify(judge: Judge, shots: Sequence[Shot], images: Images) -> list[dict[str, str]]:
    named: list[dict[str, str]] = [{} for _ in shots]
    domains = sorted({domain for shot in shots for domain, _ in shot.prompt.labels})
    for domain in domains:
        rows = [index for index, shot in enumerate(shots) if shot.prompt.concept(domain) is not None]
        for row, label in zip(rows, judge.classify(images[rows], domain), strict=True):
            named[row][domain] = label
    return named


def _clip_score(judge: ImageTextJudge, images: Images, texts: Sequence[str]) -> float:
    return float(100 * np.maximum(judge.text_similarity(images, texts), 0).mean())
