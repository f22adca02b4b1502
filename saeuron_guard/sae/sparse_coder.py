"""The sparse autoencoder: activations at a hookpoint to latents, and back."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from saeuron_guard.errors import ArtefactError
from saeuron_guard.resources import read_limited
from saeuron_guard.sae import files
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.header import LARGEST_CONFIG, LARGEST_WEIGHTS, entries
from saeuron_guard.shapes import Activations, FeatureIndices, Latents, SelectedLatents

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"


class TopLatents(NamedTuple):
    """The latents that fire: ``values`` and ``indices``, each (batch, pos, k), in no particular order."""

    values: Float32[Tensor, "batch pos k"]
    indices: Int64[Tensor, "batch pos k"]


class SparseCoder(nn.Module):
    """``z = TopK(ReLU((x - b_dec) W_enc^T + b_enc))``, ``x_hat = z W_dec + b_dec`` (sparsify's, arXiv 2406.04093).

    ``x`` (batch, pos, d_in) may be of any floating dtype; everything is computed in float32.
    State-dict keys are sparsify's: ``encoder.weight`` and ``W_dec`` (num_latents, d_in), ``encoder.bias``
    (num_latents), ``b_dec`` (d_in).
    A new one starts as sparsify's do: the decoder is the encoder's copy with rows of unit norm, biases are zero.
    ``header`` is that of the file that the weights come from, if they do; it says in which dtypes they are stored.
    """

    def __init__(
        self, config: SparseCoderConfig, *, generator: torch.Generator | None = None, header: str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self._header = header
        # Made empty first: nn.Linear would draw from the global random state before we draw from ours.
        device = torch.get_default_device()
        self.encoder = nn.Linear(config.d_in, config.num_latents, device="meta")
        self.W_dec = nn.Parameter(torch.empty(config.num_latents, config.d_in))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        if device.type != "meta":  # else weights are about to be loaded; pretending to draw some takes torch seconds
            self._draw(device, generator)

    def _draw(self, device: torch.device, generator: torch.Generator | None) -> None:
        """First weights, on ``device``."""
        self.encoder.to_empty(device=device)
        bound = self.config.d_in**-0.5
        nn.init.uniform_(self.encoder.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.encoder.bias)
        self.W_dec = nn.Parameter(self.encoder.weight.detach().clone())
        if self.config.normalize_decoder:
            self.normalise_decoder()

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give each row of ``W_dec`` unit norm."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True) + torch.finfo(self.W_dec.dtype).eps)

    def pre_activations(self, x: Activations) -> Latents:
        """``(x - b_dec) W_enc^T + b_enc`` of every latent."""
        return F.linear(x.float() - self.b_dec, self.encoder.weight, self.encoder.bias)

    def selected_pre_activations(self, x: Activations, features: FeatureIndices) -> SelectedLatents:
        """``pre_activations`` of ``features`` alone, at the cost of their rows of the encoder."""
        return F.linear(x.float() - self.b_dec, self.encoder.weight[features], self.encoder.bias[features])

    def top_latents(self, x: Activations) -> TopLatents:
        """The ``k`` largest latents after ReLU at each position, among them zeros where fewer are positive."""
        values, indices = self.pre_activations(x).topk(self.config.k, dim=-1, sorted=False)
        return TopLatents(values.relu(), indices)

    def encode(self, x: Activations) -> Latents:
        """Latents ``z``, zero everywhere but at the ``k`` largest of each position."""
        pre = self.pre_activations(x)
        values, indices = pre.topk(self.config.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())

    def decode(self, z: Latents) -> Activations:
        """``z W_dec + b_dec``."""
        return z @ self.W_dec + self.b_dec

    def forward(self, x: Activations) -> Activations:
        """The reconstruction ``x_hat``; the SAE's error is ``x - x_hat``."""
        return self.decode(self.encode(x))

    def stored(self, dtype: torch.dtype | None = None) -> files.StoredWeights:
        """The weights as they stand in a file: in ``dtype``, else as they were loaded, else in float32."""
        state = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        if dtype is not None or self._header is None:
            return files.serialise({name: tensor.to(dtype).contiguous() for name, tensor in state.items()})
        described = entries(self._header, WEIGHTS_FILE)
        dtypes = {name: files.STORED_DTYPES[entry["dtype"]] for name, entry in described.items()}
        return files.StoredWeights(self._header, {name: state[name].to(dtypes[name]).contiguous() for name in dtypes})

    @property
    def digest(self) -> str:
        """Digest of the ``sae.safetensors`` that these weights stand in, or would; computed anew each time."""
        return files.digest_of_weights(self.stored(), WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: str | Path, digest: str | None = None) -> SparseCoder:
        """Read ``cfg.json`` and ``sae.safetensors`` of ``folder``, frozen and in float32.

        Raises ArtefactError when a file is missing, too large, malformed, at odds with the other, or not the one that
        ``digest`` pins. The bytes that are checked are the bytes that are used.
        """
        folder = Path(folder)
        text = read_limited(folder / CONFIG_FILE, LARGEST_CONFIG)
        config = SparseCoderConfig.parse(text.decode("utf-8", errors="replace"), str(folder / CONFIG_FILE))
        path = folder / WEIGHTS_FILE
        data = read_limited(path, LARGEST_WEIGHTS)
        if digest is not None:
            files.check_digest(data, digest, path)
        return cls.from_stored(config, files.parse_weights(data, config, path))

    @classmethod
    def from_stored(cls, config: SparseCoderConfig, stored: files.StoredWeights) -> SparseCoder:
        """A frozen coder with these weights."""
        with torch.device("meta"):
            coder = cls(config, header=stored.header)
        tensors = {name: tensor.float() for name, tensor in stored.tensors.items()}
        coder.load_state_dict(tensors, assign=True)
        return coder.requires_grad_(False)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> str:
        """Write ``cfg.json`` and ``sae.safetensors`` to ``folder`` (made if missing); gives the digest of the latter.

        ``dtype``: float32, float16 or bfloat16 for all weights. Raises ArtefactError when a weight isn't finite in it.
        """
        folder = Path(folder)
        stored = self.stored(dtype)
        files.check_finite(stored.tensors, str(folder / WEIGHTS_FILE))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG_FILE).write_text(self.config.text(), encoding="utf-8")
            with (folder / WEIGHTS_FILE).open("wb") as stream:
                stream.writelines(files.file_chunks(stored, WEIGHTS_FILE))
        except OSError as error:
            raise ArtefactError(f"{folder}: cannot be written ({error.strerror or error})") from None
        return files.digest_of_weights(stored, WEIGHTS_FILE)
