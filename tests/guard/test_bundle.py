"""A compiled guard's folder: what is loaded is what was saved, and anything else is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from saeuron_guard.compiler.files import guard_digest, guard_json
from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.folder import ABOUT
from saeuron_guard.guard.guard import Guard
from saeuron_guard.sae.sparse_coder import SparseCoder
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_guard, make_point, make_rule


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_a_loaded_guard_does_the_same(pipe: Any, tmp_path: Path, dtype: torch.dtype | None) -> None:
    """Save and load: the same configuration, the same image, also from SAEs that are stored in half precision."""
    coder = make_coder()
    coder.save(tmp_path / "sae", dtype)
    coder = SparseCoder.load(tmp_path / "sae")
    config = make_config([make_point(HOOKPOINTS[0], coder, [make_rule("pistol", range(8))])])
    guard = Guard(config, {HOOKPOINTS[0]: coder})
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard")
    assert loaded.config == config
    guard.attach(pipe)
    wanted = draw(pipe)
    guard.detach()
    loaded.attach(pipe)
    assert torch.equal(draw(pipe), wanted)
    loaded.detach()
    assert not torch.equal(draw(pipe), wanted)


def test_the_tensors_go_by_hookpoint_and_sparsify_name(tmp_path: Path) -> None:
    """guard.safetensors is a plain safetensors file with speaking names."""
    make_guard().save(tmp_path)
    with safe_open(tmp_path / "guard.safetensors", "pt") as stream:
        assert set(stream.keys()) == {
            f"{hookpoint}/{name}"
            for hookpoint in HOOKPOINTS
            for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
        }


def test_the_same_guard_is_the_same_files(tmp_path: Path) -> None:
    """Another process writes the same bytes, so a release can be compared with its digest; another guard does not."""
    make_guard().save(tmp_path / "here")
    program = "import sys, pathlib, tests.tiny as t; t.make_guard().save(pathlib.Path(sys.argv[1]))"
    for number in range(3):
        folder = tmp_path / str(number)
        subprocess.run([sys.executable, "-c", program, str(folder)], check=True, cwd=Path(__file__).parents[2])
        for name in ("guard.json", "guard.safetensors"):
            assert (folder / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    coder = make_coder(9)
    config = make_config([make_point(HOOKPOINTS[0], coder, [make_rule("pistol", range(8))])])
    Guard(config, {HOOKPOINTS[0]: coder}).save(tmp_path / "other")
    assert (tmp_path / "other/guard.safetensors").read_bytes() != (tmp_path / "here/guard.safetensors").read_bytes()


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    """Flip a bit anywhere in either file (here at 120 places): the guard does not load; restored, it does."""
    make_guard().save(tmp_path)
    for name in ("guard.json", "guard.safetensors"):
        path = tmp_path / name
        data = path.read_bytes()
        for place in range(0, len(data), len(data) // 60):
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(ArtefactError):
                Guard.load(tmp_path)
        path.write_bytes(data)
    Guard.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["guard.json", "guard.safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, name: str, share: float) -> None:
    """A file that ends early, or is missing, is an ArtefactError that names it."""
    make_guard().save(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ArtefactError, match=name):
        Guard.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtefactError, match=name):
        Guard.load(tmp_path)


def swap_hookpoints(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Exchange the SAEs of the two hookpoints, headers and all."""
    for store in (tensors, metadata):
        for name in [name for name in store if name.startswith(HOOKPOINTS[0])]:
            other = name.replace(HOOKPOINTS[0], HOOKPOINTS[1])
            store[name], store[other] = store[other], store[name]  # type: ignore[index, assignment]


def reshape_encoder(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """The same bytes as another matrix."""
    name = f"{HOOKPOINTS[0]}/encoder.weight"
    tensors[name] = tensors[name].reshape(32, 64)


def reinterpret_bias(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """The same bytes as another dtype."""
    name = f"{HOOKPOINTS[0]}/encoder.bias"
    tensors[name] = tensors[name].view(torch.int32)


def drop_tensor(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A weight less."""
    del tensors[f"{HOOKPOINTS[0]}/b_dec"]


def add_tensor(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A weight more."""
    tensors["extra"] = torch.zeros(1)


def drop_header(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Without the original header there is nothing to compare with the digest."""
    del metadata[f"{HOOKPOINTS[0]}/header"]


def name_another_guard(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Weights of another compiled guard."""
    metadata["guard"] = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (swap_hookpoints, "not the SAE that the guard was compiled for"),
        (reshape_encoder, "expected .*64, 32"),
        (reinterpret_bias, "stored as .I32., expected one of"),
        (drop_tensor, "missing or unexpected"),
        (add_tensor, "missing or unexpected"),
        (drop_header, "the header of its SAE's file is missing"),
        (name_another_guard, "belongs to another guard"),
    ],
)
def test_tampered_weights_are_refused(tmp_path: Path, tamper: Callable[..., None], message: str) -> None:
    """Well-formed files with other contents are refused with what is wrong."""
    make_guard().save(tmp_path)
    path = tmp_path / "guard.safetensors"
    with safe_open(path, "pt") as stream:
        tensors, metadata = {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata()  # noqa: SIM118
    about = json.loads(metadata[ABOUT])
    save_file(tensors, path, {ABOUT: json.dumps(about)})
    Guard.load(tmp_path)
    tamper(tensors, about)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {ABOUT: json.dumps(about)})
    with pytest.raises(ArtefactError, match=message):
        Guard.load(tmp_path)


def test_another_policy_with_these_weights_is_refused(tmp_path: Path) -> None:
    """A guard.json that is sound in itself, but was not compiled with these weights, is refused."""
    make_guard().save(tmp_path)
    other = replace(make_guard().config, policy_version="2")
    (tmp_path / "guard.json").write_text(guard_json(replace(other, digest=guard_digest(other))))
    with pytest.raises(ArtefactError, match="belongs to another guard"):
        Guard.load(tmp_path)


def test_saes_that_the_configuration_does_not_pin_are_refused(tmp_path: Path) -> None:
    """In memory, too: an SAE with another digest, one too few, and one on disk that was replaced."""
    config = make_guard().config
    right = {hookpoint: make_coder(seed) for seed, hookpoint in enumerate(HOOKPOINTS)}
    Guard(config, right)
    with pytest.raises(ArtefactError, match="has digest"):
        Guard(config, right | {HOOKPOINTS[0]: make_coder(9)})
    with pytest.raises(ArtefactError, match="expected one each"):
        Guard(config, {HOOKPOINTS[0]: right[HOOKPOINTS[0]]})
    for point in config.hookpoints:
        right[point.hookpoint].save(tmp_path / point.sae_path)
    Guard.from_config(config, tmp_path)
    make_coder(9).save(tmp_path / config.hookpoints[0].sae_path)
    with pytest.raises(ArtefactError, match="not the pinned file"):
        Guard.from_config(config, tmp_path)


def test_a_path_outside_the_registry_is_refused(tmp_path: Path) -> None:
    """A configuration cannot name files outside the folder that it was given."""
    coder = make_coder()
    coder.save(tmp_path / "outside")
    point = replace(make_point(HOOKPOINTS[0], coder, [make_rule("pistol", [1])]), sae_path="../outside")
    with pytest.raises(ArtefactError, match="leads outside"):
        Guard.from_config(make_config([point]), tmp_path / "registry")
