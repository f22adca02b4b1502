"""The autoencoder's formula, and that it is computed from checked weights alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.sparse_coder import SparseCoder
from tests.tiny import make_coder


def dense_latents(coder: SparseCoder, x: torch.Tensor) -> np.ndarray:
    """The formula, one position after another, in double precision."""
    state = {name: tensor.double().numpy() for name, tensor in coder.state_dict().items()}
    latents = np.zeros((*x.shape[:2], coder.config.num_latents))
    for row in range(x.shape[0]):
        for position in range(x.shape[1]):
            centred = x[row, position].double().numpy() - state["b_dec"]
            pre = np.maximum(state["encoder.weight"] @ centred + state["encoder.bias"], 0)
            best = np.argsort(-pre)[: coder.config.k]
            latents[row, position, best] = pre[best]
    return latents


@given(
    seed=st.integers(0, 999),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 9), st.integers(2, 24)),
    k=st.integers(1, 24),
)
def test_encode_is_the_formula(seed: int, sizes: tuple[int, int, int, int], k: int) -> None:
    """encode() agrees with the formula written out, for any sizes."""
    batch, pos, d_in, latents = sizes
    coder = make_coder(seed, d_in=d_in, num_latents=latents, k=min(k, latents))
    x = torch.randn(batch, pos, d_in, generator=torch.Generator().manual_seed(seed))
    expected = dense_latents(coder, x)
    torch.testing.assert_close(coder.encode(x).double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    assert int((coder.encode(x) != 0).sum(-1).max()) <= coder.config.k


def test_decode_of_no_latents_is_the_decoder_bias() -> None:
    """x_hat = z W_dec + b_dec, so no latents give b_dec, and one gives its row besides."""
    coder = make_coder()
    z = torch.zeros(1, 2, coder.config.num_latents)
    z[0, 1, 3] = 2.0
    decoded = coder.decode(z)
    assert torch.equal(decoded[0, 0], coder.b_dec)
    torch.testing.assert_close(decoded[0, 1], coder.b_dec + 2 * coder.W_dec[3])


def test_selected_rows_agree_with_the_whole() -> None:
    """Pre-activations of selected features are those of the full product."""
    coder = make_coder()
    x, features = torch.randn(2, 5, 32), torch.tensor([9, 0, 63])
    torch.testing.assert_close(coder.selected_pre_activations(x, features), coder.pre_activations(x)[..., features])


def test_decoder_rows_start_with_unit_norm() -> None:
    """A new SAE's decoder rows have unit norm and lie along the encoder's."""
    coder = make_coder()
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(64))
    cosine = torch.nn.functional.cosine_similarity(coder.W_dec, coder.encoder.weight)
    torch.testing.assert_close(cosine, torch.ones(64))


def test_half_precision_inputs_are_computed_in_float32() -> None:
    """A float16 activation gives exactly the latents of its float32 copy."""
    coder, x = make_coder(), torch.randn(1, 4, 32).half()
    assert torch.equal(coder.encode(x), coder.encode(x.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_weights_load_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    """Save and load keep every weight, the stored dtype and the digest; computing is in float32 whatever is stored."""
    coder = make_coder()
    digest = coder.save(tmp_path / "sae", dtype)
    loaded = SparseCoder.load(tmp_path / "sae", digest)
    assert digest == digest_of_file(tmp_path / "sae" / "sae.safetensors") == loaded.digest
    assert loaded.config == coder.config
    assert loaded.encoder.weight.dtype == torch.float32
    for name, tensor in coder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(dtype).float())
    assert loaded.save(tmp_path / "again") == digest


def test_keys_are_those_of_sparsify(tmp_path: Path) -> None:
    """The file holds sparsify's four tensors under sparsify's names."""
    make_coder().save(tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "sae.safetensors").items()} == {
        "encoder.weight": (64, 32),
        "encoder.bias": (64,),
        "W_dec": (64, 32),
        "b_dec": (32,),
    }


def test_reads_the_configuration_of_published_checkpoints(tmp_path: Path) -> None:
    """A cfg.json with an expansion factor instead of a number of latents, and fields of training, is understood."""
    coder = make_coder()
    coder.save(tmp_path)
    published = {
        "expansion_factor": 2,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": 8,
        "batch_topk": True,
        "sample_topk": False,
        "input_unit_norm": False,
        "multi_topk": False,
        "d_in": 32,
    }
    (tmp_path / "cfg.json").write_text(json.dumps(published))
    loaded = SparseCoder.load(tmp_path)
    assert loaded.config == SparseCoderConfig(32, 64, 8, batch_topk=True)
    x = torch.randn(1, 3, 32)
    assert torch.equal(loaded.encode(x), coder.encode(x))


@pytest.mark.parametrize("place", [3, 40, 700, 5000, -1])
def test_a_flipped_bit_is_refused(tmp_path: Path, place: int) -> None:
    """Wherever a bit of the weights' file flips, loading with the digest fails; the intact file loads."""
    digest = make_coder().save(tmp_path)
    SparseCoder.load(tmp_path, digest)
    path = tmp_path / "sae.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="not the pinned file"):
        SparseCoder.load(tmp_path, digest)


@pytest.mark.parametrize("length", [0, 7, 8, 100, 9000])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    """A file that ends early gives an ArtefactError even without a digest."""
    make_coder().save(tmp_path)
    path = tmp_path / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArtefactError, match=r"sae\.safetensors"):
        SparseCoder.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_latents": 63}, r"encoder\.weight has shape \[64, 32\]|encoder\.bias has shape"),
        ({"k": 65}, "only 64 latents"),
        ({"k": "8"}, "k is '8'"),
        ({"d_in": None}, "d_in is None"),
        ({"input_unit_norm": True}, "normalised position by position"),
        ({"activation": "groupmax"}, "only TopK"),
        ({"transcode": True}, "transcoder"),
        ({"skip_connection": True}, "skip weights"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A cfg.json that is at odds with the weights, or asks for another forward pass, is refused with the reason."""
    make_coder().save(tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtefactError, match=message):
        SparseCoder.load(tmp_path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a cfg.json that is no JSON, foreign tensors, doubles and NaNs all give an ArtefactError."""
    with pytest.raises(ArtefactError, match="cannot be read"):
        SparseCoder.load(tmp_path)
    coder = make_coder()
    coder.save(tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    for changed, message in [
        (tensors | {"W_skip": torch.zeros(2)}, "W_skip"),
        ({name: tensor for name, tensor in tensors.items() if name != "b_dec"}, "b_dec"),
        ({name: tensor.double() for name, tensor in tensors.items()}, "F64"),
        (tensors | {"b_dec": torch.full((32,), float("nan"))}, "not finite"),
    ]:
        save_file(changed, tmp_path / "sae.safetensors")
        with pytest.raises(ArtefactError, match=message):
            SparseCoder.load(tmp_path)
    (tmp_path / "cfg.json").write_text("k: 8")
    with pytest.raises(ArtefactError, match="not JSON"):
        SparseCoder.load(tmp_path)


def test_values_too_large_for_the_stored_dtype_are_refused(tmp_path: Path) -> None:
    """A weight that float16 cannot hold is an error when saving, not an infinity in the file."""
    coder = make_coder()
    with torch.no_grad():
        coder.b_dec[0] = 1e6
    with pytest.raises(ArtefactError, match="not finite"):
        coder.save(tmp_path, torch.float16)
    coder.save(tmp_path, torch.bfloat16)


def test_loading_weights_draws_none(tmp_path: Path) -> None:
    """A fresh process that loads an SAE does without the parts of torch that trace and compile: they take seconds."""
    make_coder().save(tmp_path)
    program = (
        "import sys; from saeuron_guard.sae.sparse_coder import SparseCoder; coder = SparseCoder.load(sys.argv[1]); "
        "print(coder.W_dec.shape[0], 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["64", "False"]
