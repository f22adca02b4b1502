"""Scores against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from saeuron_guard.digests import digest_of_file
from saeuron_guard.discovery.artefact import sorted_header, write_statistics
from saeuron_guard.discovery.concept_statistics import ConceptStatistics, Moments
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.scoring import (
    METHODS,
    best_first,
    moments_of_others,
    paper_score,
    score_features,
    threshold,
)
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
    statistics = _statistics()
    objects = slice(0, 3)
    others = moments_of_others(statistics.at(0).of(objects), statistics.count[objects, 0])
    # cat has 10 positions with mean 1, dog 30 with mean 3, bomb 10 with mean 1.
    assert others.mean[:, 1] == pytest.approx([(10 * 1 + 30 * 3) / 40, (10 * 1 + 30 * 3) / 40, 1])
    assert others.second[0, 1] == pytest.approx((10 * 1.5 + 30 * 9.5) / 40)
    scored = score_features(statistics, "paper", 3)
    assert scored.mean_others[3, 0] == pytest.approx(np.array([0.5, 1, 0.5])[scored.index[3, 0]])


def test_a_concept_alone_in_its_domain_has_no_others() -> None:
    """Its others' moments are zeros."""
    alone = Moments(*(np.ones((1, 2), np.float32),) * 3)
    assert moments_of_others(alone, np.array([10])).mean.tolist() == [[0, 0]]


def test_what_little_the_others_have_is_not_lost() -> None:
    """Beside a concept with almost all of a latent, the pooled mean of the others is exact; it is no difference."""
    mean = np.array([[1e12], [1e-12], [3e-12]], dtype=np.float32)
    others = moments_of_others(Moments(mean, mean, mean), np.array([10, 10, 10]))
    assert others.mean[0, 0] == pytest.approx(2e-12, rel=1e-6)


def test_threshold_is_the_mean_over_the_domains_concepts() -> None:
    """The threshold is the unweighted mean over concepts of the same domain."""
    expected = [(4 + 0.5 + 0.5) / 3, (1 + 1 + 3) / 3, 0.5]
    assert threshold(_statistics().mean[:3, 0]) == pytest.approx(expected)
    scored = score_features(_statistics(), "paper", 3)
    assert scored.threshold[0, 0] == pytest.approx(np.array(expected)[scored.index[0, 0]])


@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5, 1.0]), min_size=6, max_size=6), min_size=1),
    st.integers(1, 8),
)
def test_best_first_is_a_stable_sort(rows: list[list[float]], count: int) -> None:
    """Whatever the ties, the best are those that a stable sort of the whole row puts first."""
    score = np.array(rows, dtype=np.float32)
    assert best_first(score, count).tolist() == np.argsort(-score, axis=-1, kind="stable")[:, :count].tolist()


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
