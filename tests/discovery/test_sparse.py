"""Sparse statistics hold every bit of the dense ones, in memory and on disk; what is no such file is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from saeuron_guard.digests import canonical_json, digest_of_file
from saeuron_guard.discovery.artefact import write_statistics
from saeuron_guard.discovery.concept_statistics import ConceptStatistics
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.sparse import MOST_POSITIONS, dense_of, narrow, sparse_of
from saeuron_guard.discovery.sparse_files import SPARSE_FORMAT, _content_digest, read_sparse, write_sparse
from saeuron_guard.errors import ArtefactError, CannotEvaluate

TABLE = ConceptTable(("object", "style"), (("bomb", "cat"), ("Neon", "Pixel")))
PROVENANCE = {"hookpoint": "unet.mid_block", "seeds": [0, 1], "by": "tester", "when": "2025-01-02T03:04:05Z"}
FIGURES = ("count", "mean", "second", "rate")


def statistics_of(seed: int, *, latents: int = 9, positions: int = 40, share: float = 0.4) -> ConceptStatistics:
    """Latents of random sparse codes: ``share`` of the cells fire at some of the positions."""
    random = np.random.default_rng(seed)
    shape = (len(TABLE.names), 3, latents)
    count = random.integers(1, positions + 1, shape[:2])
    fired = random.integers(1, count[:, :, None] + 1, shape) * (random.random(shape) < share)
    mean = (fired * random.lognormal(size=shape) / count[:, :, None]).astype(np.float32)
    second = (mean * random.lognormal(size=shape)).astype(np.float32)
    rate = fired.astype(np.float32) / count[:, :, None].astype(np.float32)
    return ConceptStatistics(TABLE, (901, 501, 1), count, mean, second, rate)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound file."""
    path = tmp_path / "sound.safetensors"
    write_sparse(sparse_of(statistics_of(0)), path, PROVENANCE)
    return path


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    latents=st.sampled_from([1, 2, 9, 65_537]),
    positions=st.sampled_from([1, 40, 70_000, MOST_POSITIONS]),
    share=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, seed: int, latents: int, positions: int, share: float
) -> None:
    """Dense to sparse to disk and back gives every bit, at any sparsity and size, and equal bytes each time."""
    dense = statistics_of(seed, latents=latents, positions=positions, share=share)
    path = tmp_path_factory.mktemp("sparse") / "statistics.safetensors"
    digest = write_sparse(sparse_of(dense), path, PROVENANCE)
    assert digest == digest_of_file(path)
    found = read_sparse(path, digest)
    assert (found.hookpoint, found.provenance) == ("unet.mid_block", PROVENANCE)
    again = dense_of(found.statistics)
    assert (again.table, again.timesteps) == (dense.table, dense.timesteps)
    for name in FIGURES:
        np.testing.assert_array_equal(getattr(again, name), getattr(dense, name), strict=name != "count")
    assert write_sparse(found.statistics, path, dict(reversed(PROVENANCE.items()))) == digest


def test_a_cell_takes_twelve_bytes(path: Path) -> None:
    """The file is as large as its cells, not as its latents: whole numbers are as narrow as they can be."""
    tensors = load_file(path)
    cells = int((statistics_of(0).rate > 0).sum())
    assert sum(tensors[name].nbytes for name in ("index", "mean", "second", "fired")) == 12 * cells
    assert (narrow(65_535), narrow(65_536)) == (np.uint16, np.uint32)


@pytest.mark.parametrize("method", ["paper", "difference", "firing_rate", "gaussian_auroc"])
def test_scores_from_the_file_are_those_from_memory(path: Path, tmp_path: Path, method: str) -> None:
    """Bit for bit, by each method, down to the last feature."""
    digests = [
        write_statistics(statistics, method, tmp_path / f"{number}.safetensors", PROVENANCE, top=9)
        for number, statistics in enumerate((statistics_of(0), read_sparse(path).statistics))
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mean": lambda mean: -mean}, "'bomb' are not of latents"),
        ({"mean": lambda mean: mean + 1}, "not of latents"),
        ({"second": lambda second: second + 1}, "not of latents"),
        ({"rate": lambda rate: rate * np.float32(0.999)}, "shares of the positions"),
        ({"rate": lambda rate: rate * 2}, "not of latents"),
        ({"count": lambda count: count + MOST_POSITIONS}, "expected at most 8388608"),
    ],
)
def test_other_statistics_are_not_taken_for_latents(
    change: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]], expected: str
) -> None:
    """Means below zero, cells that fired nowhere and are not 0, rates of no whole count: each would be lost."""
    dense = statistics_of(0)
    assert sparse_of(dense)
    with pytest.raises(CannotEvaluate, match=expected):
        sparse_of(replace(dense, **{name: made(getattr(dense, name)) for name, made in change.items()}))


def test_any_flipped_bit_is_noticed(path: Path) -> None:
    """One bit of header or tensors: the file no longer has the digest that it states, whoever knows another or not."""
    data = path.read_bytes()
    assert read_sparse(path)
    for place in (*range(0, len(data), 7), len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ArtefactError, match=r"sound file of sparse statistics|not a safetensors file"):
            read_sparse(path)


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 1000, -1])
def test_a_truncated_file_is_refused(path: Path, kept: int) -> None:
    """However little or much of it is there."""
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtefactError, match="collect the statistics anew"):
        read_sparse(path)


def test_another_file_than_the_pinned_one_is_refused(path: Path, tmp_path: Path) -> None:
    """A sound file of other statistics has another digest; both are named. A missing one is told as such."""
    other = write_sparse(sparse_of(statistics_of(1)), tmp_path / "other.safetensors", PROVENANCE)
    assert read_sparse(tmp_path / "other.safetensors", other)
    with pytest.raises(ArtefactError, match=f"digest {other}, got {digest_of_file(path)}"):
        read_sparse(path, other)
    with pytest.raises(ArtefactError, match=r"none\.safetensors: the statistics cannot be read .*sae collect"):
        read_sparse(tmp_path / "none.safetensors")


def test_text_that_is_no_text_is_refused(path: Path) -> None:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot: a sentence, not a traceback."""
    data = path.read_bytes()
    assert b"tester" in data
    path.write_bytes(data.replace(b"tester", b"\\\\ud80", 1))
    with pytest.raises(ArtefactError, match="sound file"):
        read_sparse(path)


Spoil = Callable[[dict[str, npt.NDArray[Any]], dict[str, str]], object]


def rewritten(path: Path, spoil: Spoil) -> None:
    """The file with other tensors or metadata, and the digest that belongs to them."""
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load_file(path)
    spoil(tensors, metadata)
    names = {"int64": "I64", "int32": "I32", "float64": "F64", "float32": "F32", "float16": "F16"}
    names |= {"uint32": "U32", "uint16": "U16", "uint8": "U8"}
    layout, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entry = {"dtype": names[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [start, end]}
        layout[name] = entry
    body = b"".join(tensor.tobytes() for tensor in tensors.values())
    del metadata["digest"]
    metadata["digest"] = _content_digest(layout, metadata, [memoryview(body)])
    header = canonical_json({**layout, "__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)


def tensor(name: str, make: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Spoil:
    """Replaces a tensor by what ``make`` makes of it."""
    return lambda tensors, _: tensors.update({name: np.ascontiguousarray(make(tensors[name].copy()))})


def entry(name: str, place: int, value: float) -> Spoil:
    """Replaces one value of a tensor."""

    def apply(tensors: dict[str, npt.NDArray[Any]], _: dict[str, str]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].flat[place] = value

    return apply


def said(name: str, value: str) -> Spoil:
    """Replaces an entry of the metadata."""
    return lambda _, metadata: metadata.update({name: value})


def test_a_rewritten_file_is_read(path: Path) -> None:
    """Control: what the next test spoils is sound as long as nothing is spoiled."""
    rewritten(path, lambda *_: None)
    assert read_sparse(path).statistics.share > 0


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (tensor("mean", lambda mean: mean.astype(np.float16)), "mean is float16, expected float32"),
        (tensor("index", lambda index: index.astype(np.uint32)), "index is uint32, expected uint16"),
        (tensor("fired", lambda fired: fired.astype(np.uint8)), "fired is uint8, expected uint16"),
        (tensor("count", lambda count: count.astype(np.float64) * np.nan), "count is float64, expected int64"),
        (tensor("mean", lambda mean: mean[:-1]), "mean has shape"),
        (tensor("count", lambda count: count.T), "count has shape"),
        (tensor("indptr", lambda indptr: indptr[:-1]), "indptr has shape"),
        (lambda tensors, _: tensors.pop("second"), "tensors are .*, expected"),
        (entry("index", 0, 9), r"index holds 9, expected 0 to 8"),
        (entry("indptr", 1, 10**6), "indptr does not rise"),
        (entry("indptr", 0, 1), "indptr goes from 1"),
        (entry("indptr", -1, 1), "indptr goes from 0 to 1, expected 0 to"),
        (tensor("index", np.zeros_like), "repeats a feature"),
        (tensor("index", np.sort), "repeats a feature or does not rise"),
        (entry("mean", 0, np.nan), "mean has a value that is not a finite"),
        (entry("second", 0, np.inf), "second has a value that is not a finite"),
        (entry("mean", 0, -1), "mean has a value below 0"),
        (entry("fired", 0, 0), "fired is outside"),
        (entry("fired", 0, 41), "fired is outside"),
        (entry("count", 0, 0), "count goes from 0"),
        (tensor("timesteps", lambda timesteps: timesteps[::-1]), "timesteps do not count down"),
        (said("format", "saeuron-guard/sparse-statistics-v2"), f"expected '{SPARSE_FORMAT}'"),
        (said("num_latents", "-9"), "num_latents is '-9'"),
        (said("num_latents", "8388608"), "num_latents is '8388608'"),
        (said("domains", "[]"), "domains is no JSON object"),
        (said("domains", "{"), "domains is not JSON"),
        (said("domains", '{"object":["cat","bomb"],"style":["Neon","Pixel"]}'), "alphabetical"),
        (said("domains", '{"object":["bomb","cat"],"style":["Neon","cat"]}'), "named twice"),
        (said("domains", '{"object":["bomb"],"style":["Neon","Pixel"]}'), "count has shape"),
        (said("provenance", "[]"), "provenance is no JSON object"),
        (said("provenance", '{"hookpoint":"../../etc"}'), "hookpoint is '../../etc', expected a dotted"),
        (said("more", ""), "metadata are"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(path: Path, spoil: Spoil, expected: str) -> None:
    """A file whose digest is right can still be wrong; each way has its sentence, with what to do."""
    rewritten(path, spoil)
    with pytest.raises(ArtefactError, match=expected) as caught:
        read_sparse(path)
    assert str(path) in str(caught.value)
    assert "anew" in str(caught.value)


def test_reading_and_scoring_need_no_torch(path: Path) -> None:
    """A fresh process scores a file with numpy alone."""
    program = (
        "import sys; from pathlib import Path; from saeuron_guard.discovery.sparse_files import read_sparse; "
        "from saeuron_guard.discovery.artefact import write_statistics; path = Path(sys.argv[1]); "
        "read = read_sparse(path); write_statistics(read.statistics, 'paper', path.with_name('out'), read.provenance); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
