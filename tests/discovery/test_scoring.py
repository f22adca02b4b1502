"""Scores against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from saeuron_guard.digests import digest_of_file
from saeuron_guard.discovery.artefact import sorted_header, write_statistics
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.scoring import METHODS, Moments, moments_of, paper_score, score_features, threshold
from saeuron_guard.discovery.statistics import ConceptStatistics
from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.artefact import read_statistics

TABLE = ConceptTable(("object", "style"), (("bomb", "cat", "dog"), ("Neon", "Pixel")))


def _statistics() -> ConceptStatistics:
    """Five concepts, two timesteps, three latents; the first latent is the bomb's."""
    mean = np.tile(np.array([0.5, 1.0, 0.5], dtype=np.float32), (5, 2, 1))
    mean[0, :, 0] = [4.0, 2.0]
    count = np.array([[10, 10], [10, 10], [30, 30], [25, 25], [25, 25]], dtype=np.int64)
    mean[2, :, 1] = 3.0
    return ConceptStatistics(TABLE, (900, 100), count, mean, mean**2 + 0.5, np.minimum(mean / 4, 1))


def test_paper_score_by_hand() -> None:
    """The score is the difference of the two shares of the total mean activation."""
    score = paper_score(np.array([6.0, 2.0], dtype=np.float32), np.array([1.0, 4.0], dtype=np.float32))
    assert score == pytest.approx([6 / 8 - 1 / 5, 2 / 8 - 4 / 5])


def test_paper_score_of_silence_is_zero() -> None:
    """Where nothing fires the share is 0, not a division by zero."""
    silent, busy = np.zeros(2, dtype=np.float32), np.array([1.0, 3.0], dtype=np.float32)
    assert paper_score(silent, busy) == pytest.approx([-0.25, -0.75])
    assert (paper_score(silent, silent) == 0).all()


def test_others_are_the_pooled_other_concepts_of_the_domain() -> None:
    """Other concepts weigh by their positions; another domain's concepts do not count."""
    target, others = moments_of(_statistics(), "bomb")
    assert target.mean[:, 0] == pytest.approx([4, 2])
    # cat has 10 positions with mean 1, dog 30 with mean 3.
    assert others.mean[:, 1] == pytest.approx([(10 * 1 + 30 * 3) / 40] * 2)
    _, others_of_neon = moments_of(_statistics(), "Neon")
    assert others_of_neon.mean[0] == pytest.approx([0.5, 1, 0.5])


def test_threshold_is_the_mean_over_the_domains_concepts() -> None:
    """The threshold is the unweighted mean over concepts of the same domain."""
    assert threshold(_statistics(), "bomb")[0] == pytest.approx([(4 + 0.5 + 0.5) / 3, (1 + 1 + 3) / 3, 0.5])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_ranks_the_concepts_own_latent_first(method: str) -> None:
    """Each method puts the bomb's latent first for the bomb, and not for the cat."""
    scored = score_features(_statistics(), method, 3)
    assert (scored.index[0, :, 0] == 0).all()
    assert (scored.index[1, :, 0] != 0).all()
    assert (np.diff(scored.score, axis=-1) <= 0).all()


def test_gaussian_auroc_by_hand() -> None:
    """One unit apart with variances adding to one gives Phi(1); equal groups give one half."""
    half = np.float32(0.5)
    target = Moments(np.array([1.0], np.float32), np.array([1.0 + half]), np.array([half]))
    others = Moments(np.array([0.0], np.float32), np.array([half]), np.array([half]))
    assert METHODS["gaussian_auroc"](target, others)[0] == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))))
    assert METHODS["gaussian_auroc"](target, target)[0] == pytest.approx(0.5)


def test_statistics_file_holds_what_the_registry_reads(tmp_path: Path) -> None:
    """The file has the promised tensors, shapes, order and metadata, and answers to the digest given back."""
    path = tmp_path / "run" / "paper.safetensors"
    digest = write_statistics(_statistics(), "paper", path, {"seeds": [0]}, top=2)
    assert digest == digest_of_file(path)
    tensors = load_file(path)
    assert tensors["timesteps"].tolist() == [900, 100]
    assert {name: (tensor.shape, str(tensor.dtype)) for name, tensor in tensors.items() if name != "timesteps"} == {
        name: ((5, 2, 2), "int32" if name == "index" else "float32")
        for name in ("index", "score", "mean", "mean_others", "threshold", "firing_rate")
    }
    assert read_statistics(path, digest, num_latents=3).concepts == TABLE.names
    assert tensors["mean"][0, 0, 0] == pytest.approx(4)
    assert tensors["mean_others"][0, 0, 0] == pytest.approx(0.5)
    with safe_open(path, framework="np") as stored:
        metadata = stored.metadata()
    assert metadata["format"] == "saeuron-guard/statistics-v1"
    assert json.loads(metadata["concepts"]) == list(TABLE.names)
    provenance = json.loads(metadata["provenance"])
    assert (provenance["seeds"], provenance["method"]) == ([0], "paper")


def test_statistics_files_are_the_same_in_every_process(tmp_path: Path) -> None:
    """The header's keys are in order, whatever order they were written in; the tensors stay readable."""
    path = tmp_path / "paper.safetensors"
    write_statistics(_statistics(), "paper", path, {"seeds": [0]}, top=2)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == ["concepts", "format", "provenance"]
    shuffled = json.dumps({name: header[name] for name in sorted(header, reverse=True)}).encode()
    again = sorted_header(
        len(shuffled).to_bytes(8, "little") + shuffled + data[8 + int.from_bytes(data[:8], "little") :]
    )
    assert again == data


def test_statistics_file_that_cannot_be_written_is_an_artefact_error(tmp_path: Path) -> None:
    """A path below a file is refused with the path in the message."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot be written"):
        write_statistics(_statistics(), "paper", tmp_path / "file" / "x.safetensors", {})
