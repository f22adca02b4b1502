"""An imported SAE reconstructs what the library that made it would; what cannot be so is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.records import SaeRecord
from saeuron_guard.sae.conversion import convert
from saeuron_guard.sae.files import serialise
from saeuron_guard.sae.foreign import plan_of
from saeuron_guard.sae.importing import import_sae
from saeuron_guard.sae.sparse_coder import SparseCoder
from tests.sae import checkpoints as made


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A registry with one model."""
    return made.write_registry(tmp_path / "registry")


def imported(source: Path, manifest: Path, **more: Any) -> tuple[SaeRecord, SparseCoder]:
    """The record, and the coder loaded from the registry by its digest."""
    record = import_sae(made.request(source, manifest, **more))
    return record, SparseCoder.load(manifest.parent / record.path, record.digest)


def reconstruct(coder: SparseCoder) -> torch.Tensor:
    """The imported SAE's reconstruction of the inputs."""
    return coder(made.inputs()[None])[0].double()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two reconstructions agree to the precision of float32."""
    return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-5))


def trained(record: SaeRecord) -> Any:
    """What provenance says of how k was chosen."""
    return record.provenance["trained_with"]


def test_sparsify_is_taken_as_it_is(tmp_path: Path, manifest: Path) -> None:
    """Weights keep their bits, and the reconstruction is sparsify's."""
    tensors = made.write_sparsify(tmp_path / "source")
    record, coder = imported(tmp_path / "source", manifest)
    assert close(reconstruct(coder), made.sparsify_reconstruction(tensors, made.inputs()))
    stored = load_file(manifest.parent / record.path / "sae.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    assert "conversion" not in record.provenance
    assert trained(record) == {"training_top_k": "position", "inference_top_k": "position"}


def test_saeuron_has_a_folder_for_each_hookpoint(tmp_path: Path, manifest: Path) -> None:
    """The hookpoint's own folder is read, sizes come from the expansion factor, BatchTopK training is recorded."""
    sources = {}
    for seed, hookpoint in enumerate((made.HOOKPOINT, made.OTHER)):
        weights = made.random_weights(2 * made.D_IN, seed=seed)
        folder = tmp_path / "source" / hookpoint
        made.write_checkpoint(folder, made.SAEURON, weights, "sae.safetensors")
        sources[hookpoint] = weights
    for hookpoint, weights in sources.items():
        record, coder = imported(tmp_path / "source", manifest, hookpoint=hookpoint)
        assert (record.num_latents, record.hookpoint) == (64, hookpoint)
        assert close(reconstruct(coder), made.sparsify_reconstruction(weights, made.inputs()))
        assert trained(record) == {"training_top_k": "batch", "inference_top_k": "position"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(tmp_path: Path, manifest: Path, dtype: torch.dtype) -> None:
    """Half precision stays as stored, though its rows are off unit norm a little; float64 becomes float32."""
    weights = {name: tensor.to(dtype) for name, tensor in made.random_weights().items()}
    made.write_sparsify(tmp_path / "source", weights)
    record, coder = imported(tmp_path / "source", manifest)
    stored = load_file(manifest.parent / record.path / "sae.safetensors")
    expected = torch.float32 if dtype == torch.float64 else dtype
    assert {tensor.dtype for tensor in stored.values()} == {expected}
    assert close(reconstruct(coder), made.sparsify_reconstruction(weights, made.inputs()))


@pytest.mark.parametrize("config", [made.SAELENS, made.SAELENS_5])
def test_saelens_topk_is_transposed(tmp_path: Path, manifest: Path, config: dict[str, Any]) -> None:
    """TopK SAEs of SAELens 6, and of SAELens 5, which called them standard, reconstruct the same."""
    tensors = made.write_saelens(tmp_path / "source", config=config)
    record, coder = imported(tmp_path / "source", manifest)
    assert record.k == made.K
    assert close(reconstruct(coder), made.saelens_reconstruction(tensors, made.inputs()))
    assert torch.equal(coder.encoder.weight, tensors["W_enc"].T)
    assert record.provenance["architecture"] == "topk"


def test_saelens_without_the_bias_at_the_input(tmp_path: Path, manifest: Path) -> None:
    """What SAELens does not subtract is added to the encoder's bias; without that, reconstructions would differ."""
    tensors = made.write_saelens(tmp_path / "source", apply_b_dec_to_input=False)
    record, coder = imported(tmp_path / "source", manifest)
    expected = made.saelens_reconstruction(tensors, made.inputs(), subtract=False)
    assert close(reconstruct(coder), expected)
    assert not close(made.saelens_reconstruction(tensors, made.inputs()), expected)
    assert "b_enc + b_dec W_enc in place of b_enc" in str(record.provenance["conversion"])


def test_saelens_that_rescales_by_decoder_norms_is_folded(tmp_path: Path, manifest: Path) -> None:
    """Norms that SAELens multiplies in at run time go into the encoder, and the same latents are chosen."""
    tensors = made.write_saelens(
        tmp_path / "source", made.random_weights(norms=(0.3, 3)), rescale_acts_by_decoder_norm=True
    )
    record, coder = imported(tmp_path / "source", manifest)
    expected = made.saelens_reconstruction(tensors, made.inputs(), rescale=True)
    assert close(reconstruct(coder), expected)
    assert not close(made.saelens_reconstruction(tensors, made.inputs()), expected)
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(made.LATENTS))
    assert record.provenance["decoder_norms"] == pytest.approx([0.3, 3])


def test_saelens_standard_lets_all_latents_fire(tmp_path: Path, manifest: Path) -> None:
    """A ReLU SAE is a TopK one whose k is all latents, and any decoder can be given unit rows; a row of 0 is dead."""
    weights = made.random_weights(norms=(0.3, 3))
    weights["W_dec"][7] = 0
    fields = {"architecture": "standard", "k": None, "rescale_acts_by_decoder_norm": None}
    tensors = made.write_saelens(tmp_path / "source", weights, **fields)
    record, coder = imported(tmp_path / "source", manifest)
    assert close(reconstruct(coder), made.saelens_reconstruction(tensors, made.inputs(), k=None))
    assert record.k == made.LATENTS
    assert trained(record)["training_top_k"] == "none"
    assert bool((coder.encode(made.inputs()[None])[..., 7] == 0).all())


def test_saelens_batchtopk_becomes_topk_at_each_position(tmp_path: Path, manifest: Path) -> None:
    """The training checkpoint of a BatchTopK SAE: k at each position, and its threshold in provenance only."""
    weights = made.random_weights() | {"topk_threshold": torch.tensor(0.25, dtype=torch.float64)}
    tensors = made.write_saelens(tmp_path / "source", weights, architecture="batchtopk", k=float(made.K))
    record, coder = imported(tmp_path / "source", manifest)
    assert close(reconstruct(coder), made.saelens_reconstruction(tensors, made.inputs()))
    assert trained(record) == {"training_top_k": "batch", "inference_top_k": "position"}
    assert record.provenance["topk_threshold_of_training"] == 0.25
    assert coder.config.batch_topk


def test_a_mean_of_latents_needs_a_whole_number(tmp_path: Path, manifest: Path) -> None:
    """BatchTopK may train with 4.5 latents on average; how many fire at a position has to be said."""
    made.write_saelens(tmp_path / "source", architecture="batchtopk", k=4.5)
    with pytest.raises(ArtefactError, match=r"k is 4\.5, expected a whole number; say .* with --k"):
        imported(tmp_path / "source", manifest)
    assert imported(tmp_path / "source", manifest, k=4)[0].k == 4


def test_another_k_is_taken_and_recorded(tmp_path: Path, manifest: Path) -> None:
    """--k goes before the checkpoint's, whose k stays in provenance; more latents than there are is an error."""
    tensors = made.write_sparsify(tmp_path / "source")
    with pytest.raises(ArtefactError, match="k is 49, but there are only 48 latents"):
        imported(tmp_path / "source", manifest, k=made.LATENTS + 1)
    record, coder = imported(tmp_path / "source", manifest, k=9)
    assert (record.k, record.provenance["k_of_source"]) == (9, made.K)
    assert close(reconstruct(coder), made.sparsify_reconstruction(tensors, made.inputs(), k=9))


def test_rows_of_one_norm_are_rescaled_under_topk(tmp_path: Path, manifest: Path) -> None:
    """When all rows are as long, rescaling changes no comparison, so the function stays; rows end with unit norm."""
    tensors = made.write_sparsify(tmp_path / "source", made.random_weights(norms=(2.5, 2.5)), normalize_decoder=False)
    _, coder = imported(tmp_path / "source", manifest)
    assert close(reconstruct(coder), made.sparsify_reconstruction(tensors, made.inputs()))
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(made.LATENTS))


def test_rows_of_several_norms_are_refused_under_topk(tmp_path: Path, manifest: Path) -> None:
    """Rescaling would choose other latents; the small drift of a last training step is left as it is."""
    made.write_sparsify(tmp_path / "off", made.random_weights(norms=(0.5, 2)), normalize_decoder=False)
    with pytest.raises(ArtefactError, match=r"decoder rows have norms from 0\.5 to 2, expected 1"):
        imported(tmp_path / "off", manifest)
    tensors = made.write_sparsify(tmp_path / "near", made.random_weights(norms=(0.995, 1.005)))
    _, coder = imported(tmp_path / "near", manifest)
    assert torch.equal(coder.W_dec, tensors["W_dec"])


@given(
    seed=st.integers(0, 2**31),
    norms=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
    subtract=st.booleans(),
    k=st.integers(1, made.LATENTS),
    architecture=st.sampled_from(["topk", "standard"]),
)
def test_conversion_keeps_the_function(
    seed: int, norms: tuple[float, float], subtract: bool, k: int, architecture: str
) -> None:
    """Whatever the norms, the bias and k: reconstructions agree, and decoder rows end with unit norm."""
    fields = {"architecture": architecture, "k": k, "apply_b_dec_to_input": subtract}
    config = {**made.SAELENS, **fields, "rescale_acts_by_decoder_norm": architecture == "topk"}
    plan = plan_of("saelens", json.dumps(config), "cfg.json", None)
    tensors = made.saelens_names(made.random_weights(seed=seed, norms=norms))
    coder = SparseCoder.from_stored(plan.config, serialise(convert(plan, tensors, "here").tensors))
    expected = made.saelens_reconstruction(
        tensors,
        made.inputs(),
        k=k if architecture == "topk" else None,
        subtract=subtract,
        rescale=architecture == "topk",
    )
    difference = (reconstruct(coder) - expected).abs().amax(dim=1)
    # Two pre-activations that differ in the last bit may change places at the k-th; that is one position in thousands.
    assert float(difference.median()) < 1e-4
    assert int((difference > 1e-3).sum()) <= 1
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(made.LATENTS))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "jumprelu"}, "architecture is 'jumprelu', expected topk, batchtopk or standard: each latent"),
        ({"architecture": "gated"}, "architecture is 'gated', .* a gate of its own"),
        ({"architecture": "transcoder"}, "predicts another activation"),
        ({"architecture": "matching_pursuit"}, "this package's SAE does not compute it"),
        ({"architecture": "standard", "activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu', expected relu"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm', expected"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations is"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z', expected 'none'"),
        ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input is 'no', expected true or false"),
        ({"d_sae": "many"}, "d_sae is 'many', expected a whole number"),
        ({"k": 0}, "k is 0; expected 1 to"),
        ({"k": True}, "k is True, expected a whole number"),
    ],
)
def test_what_saelens_has_and_we_have_not(tmp_path: Path, manifest: Path, fields: dict[str, Any], message: str) -> None:
    """Each is named with its value and the reason."""
    made.write_saelens(tmp_path / "source", **fields)
    with pytest.raises(ArtefactError, match=message):
        imported(tmp_path / "source", manifest)


@pytest.mark.parametrize(
    ("field", "value"),
    [("activation", "groupmax"), ("transcode", True), ("skip_connection", True), ("signed", True),
     ("embed_skip", True), ("gram_lookup", True), ("sample_topk", True), ("input_unit_norm", True)],
)  # fmt: skip
def test_what_sparsify_has_and_we_have_not(tmp_path: Path, manifest: Path, field: str, value: Any) -> None:
    """Each field of sparsify and SAeUron that changes the function is refused by name."""
    made.write_sparsify(tmp_path / "source", **{field: value})
    with pytest.raises(ArtefactError, match=f"{field} is {value!r}, expected"):
        imported(tmp_path / "source", manifest)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 60_000, "null"])
@pytest.mark.parametrize("weights", ["sae.safetensors", "sae_weights.safetensors"])
def test_a_configuration_that_is_none(tmp_path: Path, manifest: Path, text: str, weights: str) -> None:
    """Whatever stands in cfg.json in place of a JSON object, the error names the file."""
    made.write_sparsify(tmp_path / "source")
    (tmp_path / "source" / "sae.safetensors").rename(tmp_path / "source" / weights)
    (tmp_path / "source" / "cfg.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"cfg\.json: (not JSON|expected a JSON object)"):
        imported(tmp_path / "source", manifest)


def test_a_scaling_factor_is_refused_unless_it_is_one(tmp_path: Path, manifest: Path) -> None:
    """SAELens once wrote factors of 1 into every file; those mean nothing."""
    ones = torch.ones(made.LATENTS)
    made.write_saelens(tmp_path / "other", made.random_weights() | {"scaling_factor": ones * 1.5})
    with pytest.raises(ArtefactError, match="scaling_factor is not 1 everywhere"):
        imported(tmp_path / "other", manifest)
    made.write_saelens(tmp_path / "ones", made.random_weights() | {"scaling_factor": ones})
    assert imported(tmp_path / "ones", manifest)[0].num_latents == made.LATENTS


def test_every_wrong_tensor_is_told(tmp_path: Path, manifest: Path) -> None:
    """Shapes with expected and got, integers, missing and unknown tensors, all in one message."""
    weights = made.random_weights()
    del weights["encoder.bias"]
    weights |= {"W_dec": weights["W_dec"][:, :8].contiguous(), "W_skip": torch.zeros(2, 2)}
    weights["b_dec"] = torch.zeros(made.D_IN, dtype=torch.int64)
    made.write_sparsify(tmp_path / "source", weights)
    with pytest.raises(ArtefactError) as caught:
        imported(tmp_path / "source", manifest)
    assert str(caught.value).endswith(
        "sae.safetensors: encoder.bias is missing; W_skip is not known; W_dec has shape [48, 8], expected [48, 32]; "
        "b_dec is stored as I64, expected one of BF16, F16, F32, F64"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_must_be_finite(tmp_path: Path, manifest: Path, value: float) -> None:
    """Also those that are finite in float64 only."""
    weights = {name: tensor.double() for name, tensor in made.random_weights().items()}
    made.write_sparsify(tmp_path / "source", weights)
    assert imported(tmp_path / "source", manifest)[0].d_in == made.D_IN
    weights["encoder.weight"][3, 4] = value
    made.write_sparsify(tmp_path / "source", weights)
    with pytest.raises(ArtefactError, match=r"encoder\.weight holds values that are not finite numbers"):
        imported(tmp_path / "source", manifest, replace=True)
