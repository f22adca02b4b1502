"""What a judge is: something that tells which concept of a domain an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from saeuron_guard.errors import CannotEvaluate

Images = NDArray[np.uint8]
"""RGB images, uint8 [n, height, width, 3]."""


@runtime_checkable
class Judge(Protocol):
    """Names the concept of a domain that an image shows; ``digest`` pins the judge's weights and settings."""

    @property
    def name(self) -> str:
        """What reports call the judge."""
        ...

    @property
    def digest(self) -> str:
        """``sha256:...`` over everything that decides what the judge says."""
        ...

    def labels(self, domain: str) -> tuple[str, ...]:
        """The concepts of ``domain`` that the judge tells apart; CannotEvaluate when it knows no such domain."""
        ...

    def scores(self, images: Images, domain: str) -> NDArray[np.float32]:
        """One score per image and label, float32 [n, labels]; the largest one names the concept."""
        ...

    def classify(self, images: Images, domain: str) -> list[str]:
        """The label with the largest score, per image."""
        ...


@runtime_checkable
class ImageTextJudge(Judge, Protocol):
    """A judge that also embeds images and compares them with texts, as CLIP does."""

    def image_features(self, images: Images) -> NDArray[np.float32]:
        """Unit-norm image features, float32 [n, features]."""
        ...

    def text_similarity(self, images: Images, texts: Sequence[str]) -> NDArray[np.float32]:
        """Cosine between image i and text i, float32 [n]."""
        ...


def check_images(images: Images) -> None:
    """Raise CannotEvaluate unless ``images`` are uint8 [n, height, width, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise CannotEvaluate(
            f"a judge needs RGB images as uint8 [n, height, width, 3], got {images.dtype} {list(images.shape)}"
        )


def best_labels(scores: NDArray[np.float32], labels: Sequence[str]) -> list[str]:
    """The label of the largest score of each row; raises CannotEvaluate when a score is not a finite number."""
    if not np.isfinite(scores).all():
        raise CannotEvaluate("the judge gave scores that are not finite numbers; its weights are damaged")
    return [labels[index] for index in scores.argmax(axis=1)] if len(scores) else []


def unknown_domain(judge: str, domain: str, known: Sequence[str]) -> CannotEvaluate:
    """The error of a judge that is asked for a domain that it was not made for."""
    return CannotEvaluate(
        f"judge {judge} cannot judge the domain {domain!r}; it knows: {', '.join(known) or 'none'}. "
        'List the registry\'s concepts and domains with "saeuron-guard registry list"'
    )
