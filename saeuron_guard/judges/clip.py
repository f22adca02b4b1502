"""The CLIP judge: an open_clip model that names concepts by comparing images with captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from saeuron_guard.digests import digest_of
from saeuron_guard.errors import ArtefactError, CannotEvaluate
from saeuron_guard.judges.folder import folder_digest, read_settings
from saeuron_guard.judges.interface import Images, best_labels, check_images, unknown_domain
from saeuron_guard.judges.templates import captions_of, templates_from

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
STOCK = "open_clip:"
"""Prefix of a published model's name, ``open_clip:ARCHITECTURE:WEIGHTS``."""
_BATCH = 64


class ClipJudge:
    """Names the concept whose mean caption feature lies nearest to the image's feature (cosine).

    ``concepts`` maps each domain to its labels. A concept's feature is the normalised mean of the unit-norm features
    of its captions (Radford et al., arXiv 2103.00020, section 3.1.4).
    """

    def __init__(
        self,
        name: str,
        digest: str,
        model: torch.nn.Module,
        *,
        tokenizer: Callable[[Sequence[str]], Tensor],
        concepts: Mapping[str, Sequence[str]],
        templates: Mapping[str, Sequence[str]],
    ) -> None:
        self._name = name
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._concepts = {domain: tuple(labels) for domain, labels in concepts.items()}
        self._templates = {domain: tuple(captions) for domain, captions in templates.items()}
        # What an image is taken for depends on the labels it is compared with and on their captions.
        self._digest = digest_of({"weights": digest, "concepts": self._concepts, "templates": self._templates})
        preprocess = PreprocessCfg(**model.visual.preprocess_cfg)  # type: ignore[union-attr,arg-type]
        self._transform: Callable[[Image.Image], Tensor] = image_transform_v2(preprocess, is_train=False)
        self._device = next(model.parameters()).device
        self._text: dict[str, NDArray[np.float32]] = {}

    @classmethod
    def load(cls, folder: Path, concepts: Mapping[str, Sequence[str]], *, name: str | None = None) -> ClipJudge:
        """Load an open_clip model from a local folder; nothing is ever fetched.

        Raises ArtefactError when a file is missing or malformed, or when the settings ask for something to download.
        """
        digest = folder_digest(folder)
        settings = read_settings(folder / CONFIG)
        if not (folder / WEIGHTS).is_file():
            raise ArtefactError(f"{folder} holds no {WEIGHTS}; an open_clip judge needs {CONFIG} and {WEIGHTS}")
        _refuse_downloads(settings, folder)
        place = f"local-dir:{folder}"
        try:
            model = open_clip.create_model(place, require_pretrained=True)
            tokenizer = open_clip.get_tokenizer(place)
        except Exception as error:  # open_clip lets anything through, from KeyError to SafetensorError
            raise ArtefactError(f"{folder}: open_clip cannot load it: {error}") from error
        templates = templates_from(settings.get("zero_shot_templates"), str(folder / CONFIG))
        return cls(name or folder.name, digest, model, tokenizer=tokenizer, concepts=concepts, templates=templates)

    @classmethod
    def stock(cls, architecture: str, pretrained: str, concepts: Mapping[str, Sequence[str]]) -> ClipJudge:
        """One of open_clip's published models, for example ``ViT-B-32`` and ``laion2b_s34b_b79k``; may download it."""
        if (architecture, pretrained) not in open_clip.list_pretrained():
            raise CannotEvaluate(
                f"open_clip publishes no {architecture!r} with weights {pretrained!r}; "
                "see open_clip.list_pretrained(), and write open_clip:ARCHITECTURE:WEIGHTS"
            )
        try:
            model = open_clip.create_model(architecture, pretrained=pretrained, require_pretrained=True)
            tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:  # the hub's client raises its own zoo of errors
            raise CannotEvaluate(f"open_clip cannot load {architecture}:{pretrained}: {error}") from error
        name = f"{STOCK}{architecture}:{pretrained}"
        templates = templates_from(None, name)
        return cls(name, _state_digest(model), model, tokenizer=tokenizer, concepts=concepts, templates=templates)

    @property
    def name(self) -> str:
        """The folder's name, or ``open_clip:ARCHITECTURE:WEIGHTS``."""
        return self._name

    @property
    def digest(self) -> str:
        """Covers weights, settings, labels and captions."""
        return self._digest

    def labels(self, domain: str) -> tuple[str, ...]:
        """The registry's concepts of ``domain``; raises CannotEvaluate when it has none."""
        labels = self._concepts.get(domain, ())
        if not labels:
            raise unknown_domain(self._name, domain, sorted(self._concepts))
        return labels

    def scores(self, images: Images, domain: str) -> NDArray[np.float32]:
        """Cosine between each image and each concept of ``domain``, float32 [n, labels]."""
        labels = self.labels(domain)
        if domain not in self._text:
            self._text[domain] = np.stack([self._concept_feature(label, domain) for label in labels])
        if not len(images):
            return np.zeros((0, len(labels)), np.float32)
        scores: NDArray[np.float32] = self.image_features(images) @ self._text[domain].T
        return scores

    def classify(self, images: Images, domain: str) -> list[str]:
        """The concept of ``domain`` nearest to each image."""
        return best_labels(self.scores(images, domain), self.labels(domain))

    @torch.inference_mode()
    def image_features(self, images: Images) -> NDArray[np.float32]:
        """Unit-norm image features, float32 [n, features]."""
        check_images(images)
        parts = [
            self._model.encode_image(  # type: ignore[operator]
                torch.stack([self._transform(Image.fromarray(image)) for image in images[start : start + _BATCH]]).to(
                    self._device
                ),
                normalize=True,
            )
            for start in range(0, len(images), _BATCH)
        ]
        return _array(parts)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-norm text features, float32 [n, features]."""
        tokens = (self._tokenizer(list(texts[start : start + _BATCH])) for start in range(0, len(texts), _BATCH))
        return _array(
            [self._model.encode_text(part.to(self._device), normalize=True) for part in tokens]  # type: ignore[operator]
        )

    def text_similarity(self, images: Images, texts: Sequence[str]) -> NDArray[np.float32]:
        """Cosine between image i and text i, float32 [n]."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images for {len(texts)} texts")
        unique = list(dict.fromkeys(texts))
        rows = dict(zip(unique, self.text_features(unique), strict=True)) if unique else {}
        image_features = self.image_features(images)
        return np.array([feature @ rows[text] for feature, text in zip(image_features, texts, strict=True)], np.float32)

    def _concept_feature(self, concept: str, domain: str) -> NDArray[np.float32]:
        captions = captions_of(concept, domain, self._templates, self._concepts)
        if not captions:
            raise CannotEvaluate(f"judge {self._name} has no caption for domain {domain!r}; add zero_shot_templates")
        mean: NDArray[np.float32] = self.text_features(captions).mean(axis=0)
        unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
        return unit


def _array(parts: list[Tensor]) -> NDArray[np.float32]:
    if not parts:
        return np.zeros((0, 0), np.float32)
    array: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    return array


def _refuse_downloads(settings: Mapping[str, object], folder: Path) -> None:
    """A text tower named by a hub id would be fetched by open_clip while it builds the model."""
    config = settings.get("model_cfg")
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("text_cfg", "vision_cfg")):
        raise ArtefactError(
            f"{folder / CONFIG}: expected model_cfg with text_cfg and vision_cfg, as open_clip writes it"
        )
    if "hf_model_name" in config["text_cfg"]:
        raise ArtefactError(
            f"{folder / CONFIG}: its text model would be downloaded; use a text tower of open_clip's own"
        )


def _state_digest(model: torch.nn.Module) -> str:
    """Digest of the loaded weights: a published model has no folder to pin."""
    tensors = sorted(model.state_dict().items())
    return digest_of({key: sha256(_bytes_of(value)).hexdigest() for key, value in tensors})


def _bytes_of(tensor: Tensor) -> bytes:
    raw: bytes = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw
