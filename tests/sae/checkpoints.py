"""Writes checkpoints as sparsify, SAeUron and SAELens lay them out, and computes what those libraries would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saeuron_guard.registry.manifest import Manifest, write_manifest
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.sae.importing import ImportRequest

D_IN, LATENTS, K = 32, 48, 5
HOOKPOINT = "unet.up_blocks.1.attentions.1"
OTHER = "unet.up_blocks.1.attentions.2"
WIDTHS = {HOOKPOINT: D_IN, OTHER: D_IN, "unet.mid_block.attentions.0": 64}
WHEN = "2025-01-02T03:04:05+00:00"

SPARSIFY = {
    "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": LATENTS, "k": K,
    "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_IN,
}  # fmt: skip
"""As EleutherAI/sparsify writes it, ``SparseCoderConfig.to_dict`` and ``d_in``."""

SAEURON = {
    "expansion_factor": 2, "normalize_decoder": True, "num_latents": 0, "k": K, "batch_topk": True,
    "sample_topk": False, "input_unit_norm": False, "multi_topk": False, "d_in": D_IN,
}  # fmt: skip
"""As cywinski/SAeUron writes it: the number of latents is ``d_in * expansion_factor``."""

SAELENS = {
    "d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
    "normalize_activations": "none", "reshape_activations": "none", "k": K, "rescale_acts_by_decoder_norm": False,
    "metadata": {"sae_lens_version": "6.30.1", "hook_name": "blocks.0.hook_resid_post"}, "architecture": "topk",
}  # fmt: skip
"""As SAELens 6 writes it, ``SAEConfig.to_dict``."""

SAELENS_5 = {
    "architecture": "standard", "d_in": D_IN, "d_sae": LATENTS, "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": True, "finetuning_scaling_factor": False,
    "context_size": 128, "model_name": "none", "hook_name": "blocks.0.hook_resid_post", "hook_layer": 0,
    "hook_head_index": None, "prepend_bos": True, "dataset_path": "none", "dtype": "torch.float32", "device": "cpu",
    "normalize_activations": "none", "sae_lens_training_version": "5.0.0",
}  # fmt: skip
"""As SAELens 5 wrote a TopK SAE: one flat mapping, architecture standard."""


def random_weights(latents: int = LATENTS, *, seed: int = 0, norms: tuple[float, float] = (1, 1)) -> dict[str, Tensor]:
    """Weights by sparsify's names; norms of the decoder's rows are spread evenly over ``norms``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows = normal(latents, D_IN)
    rows = rows / rows.norm(dim=1, keepdim=True) * torch.linspace(*norms, latents)[:, None]
    return {
        "encoder.weight": normal(latents, D_IN) / 4,
        "encoder.bias": normal(latents) / 10,
        "W_dec": rows,
        "b_dec": normal(D_IN) / 2,
    }


def write_sparsify(folder: Path, weights: dict[str, Tensor] | None = None, **fields: Any) -> dict[str, Tensor]:
    """A folder as sparsify and SAeUron save it; gives the tensors."""
    tensors = weights or random_weights()
    write_checkpoint(folder, {**SPARSIFY, **fields}, tensors, "sae.safetensors")
    return tensors


def write_saelens(
    folder: Path, weights: dict[str, Tensor] | None = None, config: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Tensor]:
    """A folder as SAELens saves it; gives the tensors by SAELens's names. Fields that are None are left out."""
    tensors = saelens_names(weights or random_weights())
    stated = {name: value for name, value in {**(config or SAELENS), **fields}.items() if value is not None}
    write_checkpoint(folder, stated, tensors, "sae_weights.safetensors")
    return tensors


def saelens_names(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as SAELens names and lays them out."""
    return {
        "W_enc": ours["encoder.weight"].T.contiguous(),
        "b_enc": ours["encoder.bias"],
        "W_dec": ours["W_dec"],
        "b_dec": ours["b_dec"],
        **{name: tensor for name, tensor in ours.items() if name in ("topk_threshold", "scaling_factor")},
    }


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], name: str) -> None:
    """Write ``cfg.json`` and the weights' file ``name``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / name)


def sparsify_reconstruction(tensors: dict[str, Tensor], x: Tensor, k: int = K) -> Tensor:
    """What sparsify's ``SparseCoder`` gives for ``x`` (n, d_in), in float64."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    pre = torch.relu((x.double() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    return _top(pre, k) @ w["W_dec"] + w["b_dec"]


def saelens_reconstruction(tensors: dict[str, Tensor], x: Tensor, *, k: int | None = K, subtract: bool = True,
                           rescale: bool = False) -> Tensor:  # fmt: skip
    """What SAELens's ``TopKSAE`` (``StandardSAE`` without ``k``) gives for ``x`` (n, d_in), in float64."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    pre = (x.double() - w["b_dec"] * subtract) @ w["W_enc"] + w["b_enc"]
    norms = w["W_dec"].norm(dim=1) if rescale else torch.ones(len(w["W_dec"]), dtype=torch.float64)
    pre = pre * norms
    acts = torch.relu(pre) if k is None else _top(pre, k).relu()
    return (acts / norms) @ w["W_dec"] + w["b_dec"]


def _top(pre: Tensor, k: int) -> Tensor:
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values)


def inputs() -> Tensor:
    """Activations (n, d_in) that an SAE of these sizes sees."""
    return torch.randn(200, D_IN, generator=torch.Generator().manual_seed(99))


def write_registry(folder: Path, hookpoints: dict[str, int] | None = None) -> Path:
    """A manifest with the model ``tiny`` alone; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    model = ModelRecord(
        name="tiny",
        family="sd1",
        path="owner/tiny",
        fingerprint="sha256:" + "ab" * 32,
        resolution=16,
        steps=2,
        guidance=5.0,
        scheduler="DDIMScheduler",
        hookpoints=WIDTHS if hookpoints is None else hookpoints,
    )
    write_manifest(Manifest(models=(model,)), folder / "manifest.yaml")
    return folder / "manifest.yaml"


def request(source: Path | str, manifest: Path, **more: Any) -> ImportRequest:
    """The request to import ``source`` at HOOKPOINT of the model ``tiny``."""
    fields: dict[str, Any] = {"model": "tiny", "hookpoint": HOOKPOINT, "manifest": manifest, "when": WHEN}
    return ImportRequest(source=str(source), **{**fields, **more})
