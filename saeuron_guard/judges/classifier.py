"""The classifier judge: one residual network for each domain. Calibration may use it; ``verify`` does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saeuron_guard.digests import digest_of
from saeuron_guard.errors import ArtefactError
from saeuron_guard.judges.folder import folder_digest
from saeuron_guard.judges.interface import Images, best_labels, check_images, unknown_domain
from saeuron_guard.pipelines.emoji_canvas.classifier import ResidualClassifier

CONFIG = "config.json"


class ClassifierJudge:
    """Names the concept to which the domain's network gives the highest probability."""

    def __init__(self, name: str, digest: str, networks: Sequence[ResidualClassifier]) -> None:
        self._name, self._digest = name, digest
        self._networks = {network.domain: network.eval() for network in networks}

    @classmethod
    def load(cls, folder: Path, *, name: str | None = None) -> ClassifierJudge:
        """Load ``folder``, or each of its sub-folders, that holds ``config.json`` and ``model.safetensors``.

        Raises ArtefactError when there is none, one cannot be read, or two know the same domain.
        """
        folders = classifier_folders(folder)
        digest = digest_of({part.relative_to(folder).as_posix(): folder_digest(part) for part in folders})
        if not folders:
            raise ArtefactError(f"{folder} holds no classifier; expected {CONFIG} there or one folder further down")
        networks = [ResidualClassifier.load(part) for part in folders]
        domains = [network.domain for network in networks]
        if len(set(domains)) < len(domains):
            raise ArtefactError(f"{folder} holds two classifiers of one domain: {', '.join(sorted(domains))}")
        return cls(name or folder.name, digest, networks)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._name

    @property
    def digest(self) -> str:
        """Covers the settings and weights of all networks."""
        return self._digest

    def labels(self, domain: str) -> tuple[str, ...]:
        """The concepts that the domain's network was trained on; raises CannotEvaluate when there is no network."""
        return self._network(domain).labels

    def scores(self, images: Images, domain: str) -> NDArray[np.float32]:
        """Probability of each label, float32 [n, labels]."""
        check_images(images)
        probabilities: NDArray[np.float32] = self._network(domain).probabilities(images)
        return probabilities

    def classify(self, images: Images, domain: str) -> list[str]:
        """The most probable label of each image."""
        return best_labels(self.scores(images, domain), self.labels(domain))

    def _network(self, domain: str) -> ResidualClassifier:
        if domain not in self._networks:
            raise unknown_domain(self._name, domain, sorted(self._networks))
        return self._networks[domain]


def classifier_folders(folder: Path) -> list[Path]:
    """``folder`` itself if it holds a classifier, else those of its sub-folders that do, by name."""
    if (folder / CONFIG).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
