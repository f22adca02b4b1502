from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.artefact import read_statistics, verify_artefacts
from saeuron_guard.registry.manifest import load_manifest
from tests.registry.synthetic import Synthetic, file_digest, scores, write_statistics, write_synthetic_registry

Tensors = dict[str, npt.NDArray[np.generic]]
CONCEPTS = list(Synthetic().concepts)


def read(path: Path, digest: str) -> object:
    """Read statistics of the synthetic SAEs."""
    return read_statistics(path, digest, num_latents=64)


def test_statistics_arrive_as_written(tmp_path: Path) -> None:
    """Names, timesteps, features and figures come back, in half precision, too."""
    tensors = scores(Synthetic())
    tensors["score"] = tensors["score"].astype(np.float16)
    digest = write_statistics(tmp_path / "s.safetensors", tensors, CONCEPTS)
    statistics = read_statistics(tmp_path / "s.safetensors", digest, num_latents=64)
    assert statistics.concepts == tuple(CONCEPTS)
    assert statistics.timesteps == (901, 501, 101)
    assert statistics.index.tolist() == tensors["index"].tolist()
    assert statistics.figures["score"].tolist() == tensors["score"].astype(float).tolist()
    assert statistics.provenance == {"seed": 7}


def test_a_tampered_file_is_refused_with_both_digests(tmp_path: Path) -> None:
    """One changed bit: the message names what was expected and what was found; the untouched file is read."""
    path = tmp_path / "s.safetensors"
    expected = write_statistics(path, scores(Synthetic()), CONCEPTS)
    assert read(path, expected)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError) as caught:
        read(path, expected)
    actual = file_digest(path)
    assert f"expected {expected}, got {actual}" in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    """No traceback of the operating system's."""
    with pytest.raises(ArtefactError, match="missing; restore it"):
        read(tmp_path / "none.safetensors", "sha256:" + "0" * 64)


def changed(name: str, change: Callable[[npt.NDArray[np.generic]], object]) -> Callable[[Tensors], None]:
    """Replaces one tensor by what ``change`` makes of it."""

    def apply(tensors: Tensors) -> None:
        tensors[name] = np.ascontiguousarray(np.array(change(tensors[name].copy())))

    return apply


def with_value(value: float) -> Callable[[npt.NDArray[np.generic]], object]:
    """Sets the second-best entry of the first concept and timestep."""

    def apply(array: npt.NDArray[np.generic]) -> object:
        array[0, 0, 1] = value
        return array

    return apply


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda tensors: tensors.pop("mean"), "tensors are .*, expected"),
        (changed("mean", lambda array: array[:, :, :-1]), "mean has shape"),
        (changed("index", lambda array: array[:-1]), "index has shape"),
        (changed("index", lambda array: array.astype(np.float32)), "must be integers"),
        (changed("score", lambda array: (array * 100).astype(np.int32)), "score is int32, expected floating point"),
        (changed("mean", with_value(float("nan"))), "mean has a value that is not a finite number"),
        (changed("index", with_value(64)), r"index is outside 0\.\.63"),
        (changed("index", with_value(0)), "index repeats a feature"),
        (changed("score", with_value(5.0)), "score is not in falling order"),
        (changed("timesteps", lambda array: array[::-1]), "timesteps do not count down"),
    ],
)
def test_malformed_statistics_are_refused(tmp_path: Path, spoil: Callable[[Tensors], None], expected: str) -> None:
    """A file with the right digest can still be wrong; each way has its sentence."""
    tensors = scores(Synthetic())
    spoil(tensors)
    digest = write_statistics(tmp_path / "s.safetensors", tensors, CONCEPTS)
    with pytest.raises(ArtefactError, match=expected):
        read(tmp_path / "s.safetensors", digest)


@pytest.mark.parametrize("data", [b"", b"not safetensors at all", b"\x80\x02}q\x00."])
def test_other_formats_are_refused(tmp_path: Path, data: bytes) -> None:
    """An empty file, text, a pickle: none of them is opened as anything else."""
    path = tmp_path / "s.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="not a s"):
        read(path, file_digest(path))


def test_verify_artefacts_reports_what_differs(tmp_path: Path) -> None:
    """All pinned files pass at first; a changed and a missing one are told apart."""
    manifest = load_manifest(write_synthetic_registry(tmp_path))
    checks = verify_artefacts(manifest, tmp_path)
    assert len(checks) == 6
    assert all(check.passed for check in checks)
    (tmp_path / manifest.saes[0].path / "sae.safetensors").write_bytes(b"other")
    (tmp_path / "models/tiny-clip/open_clip_config.json").unlink()
    failed = {check.owner: check for check in verify_artefacts(manifest, tmp_path) if not check.passed}
    assert set(failed) == {"tiny-clip", "tiny.objects"}
    assert failed["tiny-clip"].actual is None
    assert failed["tiny.objects"].expected == manifest.saes[0].digest
    assert failed["tiny.objects"].actual not in {None, manifest.saes[0].digest}


def test_a_path_that_leads_outside_is_refused(tmp_path: Path) -> None:
    """A manifest cannot make anybody read files elsewhere."""
    manifest = load_manifest(write_synthetic_registry(tmp_path / "registry"))
    outside = dataclasses.replace(manifest.saes[0], path="../elsewhere")
    with pytest.raises(ArtefactError, match="leads outside"):
        verify_artefacts(dataclasses.replace(manifest, saes=(outside,)), tmp_path / "registry")
