"""Files of a guard that are well-formed or hostile, and say something else than was compiled: refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saeuron_guard.compiler.files import guard_digest
from saeuron_guard.guard.bundle import write_bundle
from saeuron_guard.guard.folder import ABOUT
from saeuron_guard.guard.guard import Guard
from tests.guard.refusal import Change, refusal
from tests.tiny import HOOKPOINTS, make_coder, make_config, make_guard, make_point, make_rule


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    """Although every digest fits; in each dtype in which weights are stored, whose largest number passes."""
    for name, weight in (("odd", value), ("sound", torch.finfo(dtype).max)):
        coder = make_coder()
        with torch.no_grad():
            coder.W_dec[3, 5] = weight
        stored = coder.stored(dtype)
        coder = type(coder).from_stored(coder.config, stored)
        config = make_config([make_point(HOOKPOINTS[0], coder, [make_rule("pistol", [1])])])
        write_bundle(tmp_path / name, config, {HOOKPOINTS[0]: coder})
    assert "W_dec holds values that are not finite numbers" in refusal(tmp_path / "odd")
    Guard.load(tmp_path / "sound")


def test_sizes_that_no_sae_has_are_refused(guard_folder: Path) -> None:
    """A configuration whose digest fits, with dimensions that would take terabytes."""
    config = make_guard().config
    points = (replace(config.hookpoints[0], num_latents=10**15), *config.hookpoints[1:])
    forged = replace(config, hookpoints=points)
    text = json.loads((guard_folder / "guard.json").read_text())
    text["hookpoints"][0]["num_latents"] = 10**15
    text["digest"] = guard_digest(forged)
    (guard_folder / "guard.json").write_text(json.dumps(text))
    assert "num_latents is 1000000000000000; expected 1 to" in refusal(guard_folder)


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Expecting value"),
    "no text": (b"\xff\xfe{}", "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "BOM"),
    "deep lists": (b"[" * 3_000_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 1_000_000, "nested too deeply"),
    "key twice": (b'{"digest": "", "digest": ""}', "key 'digest' occurs twice"),
    "key twice after many": (
        b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b',"199999":0}',
        "key '199999' occurs twice",
    ),
    "long key twice": (b'{"' + b"k" * 1_000_000 + b'":0,"' + b"k" * 1_000_000 + b'":0}', "occurs twice"),
    "long unknown key": (b'{"' + b"k" * 1_000_000 + b'":0}', "unknown key 'kkk"),
    "whole number of a million digits": (b'{"format": ' + b"9" * 1_000_000 + b"}", "has 1000000 digits"),
    "number beyond float64": (b'{"format": 1e999999}', "key 'policy_name' is missing"),
    "not a number": (b'{"format": -Infinity}', "-Infinity is not a number"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_configuration_that_is_none_is_refused(guard_folder: Path, name: str) -> None:
    """Malformed and hostile JSON ends in one short line."""
    content, expected = TEXTS[name]
    (guard_folder / "guard.json").write_bytes(content)
    assert expected in refusal(guard_folder)


def test_half_a_surrogate_pair_is_refused(guard_folder: Path, guard_files: dict[str, bytes]) -> None:
    """JSON can spell text that no file can hold; it has no digest."""
    (guard_folder / "guard.json").write_bytes(
        guard_files["guard.json"].replace(b'"model": "tiny"', b'"model": "\\ud800"')
    )
    assert "model is '" in refusal(guard_folder)


def rewrite(change: Callable[[dict[str, Any]], object]) -> Change:
    """Another header on the same tensors; ``change`` gives its text, or changes its fields."""

    def apply(folder: Path) -> None:
        path = folder / "guard.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        fields = json.loads(data[8 : 8 + length])
        text = change(fields)
        header = text if isinstance(text, bytes) else json.dumps(fields).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])

    return apply


def rewrite_length(length: int) -> Change:
    """Another length of the header, and room for it."""

    def apply(folder: Path) -> None:
        path = folder / "guard.safetensors"
        data = path.read_bytes()
        path.write_bytes(length.to_bytes(8, "little") + data[8:] + bytes((1 << 20) - 3000))

    return apply


def offsets(begin: Any, end: Any) -> Change:
    """Another place for one tensor."""
    return rewrite(lambda fields: fields[f"{HOOKPOINTS[0]}/b_dec"].update(data_offsets=[begin, end]))


def about(change: Callable[[dict[str, Any]], object]) -> Change:
    """Another account that the file gives of itself; ``change`` gives its text, or changes its fields."""

    def apply(fields: dict[str, Any]) -> None:
        inner = json.loads(fields["__metadata__"][ABOUT])
        text = change(inner)
        fields["__metadata__"][ABOUT] = text if isinstance(text, str) else json.dumps(inner)

    return rewrite(apply)


def repeat_key(fields: dict[str, Any]) -> bytes:
    """The same key a second time, for readers that take the first and readers that take the last."""
    text = json.dumps(fields)
    return (text[:-1] + ', "__metadata__": ' + json.dumps(fields["__metadata__"]) + "}").encode()


HEADERS: dict[str, tuple[Change, str]] = {
    "overlapping": (offsets(0, 128), "takes the bytes"),
    "short": (offsets(0, 4), "takes the bytes"),
    "beyond the file": (offsets(2**59, 2**59 + 128), "takes the bytes"),
    "beyond 64 bits": (offsets(0, 10**30), "its header is malformed"),
    "negative": (offsets(-128, 0), "its header is malformed"),
    "fractions": (offsets(0.0, 128.0), "its header is malformed"),
    "truth": (offsets(False, True), "its header is malformed"),
    "three offsets": (
        rewrite(lambda fields: fields[f"{HOOKPOINTS[0]}/b_dec"].update(data_offsets=[0, 1, 2])),
        "its header is malformed",
    ),
    "no list": (rewrite(lambda fields: fields.update({f"{HOOKPOINTS[0]}/b_dec": []})), "its header is malformed"),
    "huge shape": (rewrite(lambda fields: fields[f"{HOOKPOINTS[0]}/b_dec"].update(shape=[10**17] * 5)), "has shape"),
    "odd dtype": (rewrite(lambda fields: fields[f"{HOOKPOINTS[0]}/b_dec"].update(dtype="\x1b" * 999)), "stored as"),
    "key twice": (rewrite(repeat_key), "its header is malformed"),
    "deep": (rewrite(lambda _: b"[" * 500_000), "its header is malformed"),
    "no object": (rewrite(lambda _: b"7"), "its header is malformed"),
    "metadata no object": (rewrite(lambda fields: fields.update(__metadata__=[1])), "its header is malformed"),
    "no text": (rewrite(lambda _: b"\xff{}"), "its header is not text"),
    "longer than the limit": (rewrite(lambda _: b" " * (1 << 20) + b"{}"), "expected at most"),
    "longer than the file": (rewrite_length(1 << 63), "truncated, or not a safetensors file"),
    "longer than a header": (rewrite_length((1 << 20) + 1), "truncated, or not a safetensors file"),
    "account deep": (about(lambda _: "[" * 500_000), "its header is malformed"),
    "account no object": (about(lambda _: "[]"), "not a guard's weights"),
    "account of another": (about(lambda inner: inner.update(guard="\x1b" + "x" * 9999)), "belongs to another guard"),
    "account in another format": (about(lambda inner: inner.update(format="v9")), "not a guard's weights"),
    "SAE's header deep": (
        about(lambda inner: inner.update({f"{HOOKPOINTS[0]}/header": "[" * 500_000})),
        "its header is malformed",
    ),
    "SAE's header of another": (
        about(lambda inner: inner.update({f"{HOOKPOINTS[0]}/header": "{}"})),
        "missing and [] unexpected",
    ),
    "SAE's header half a surrogate pair": (
        about(lambda inner: inner.update({f"{HOOKPOINTS[0]}/header": inner[f"{HOOKPOINTS[0]}/header"] + "\ud800"})),
        "its header is malformed",
    ),
    "SAE's header with blanks": (
        about(lambda inner: inner.update({f"{HOOKPOINTS[0]}/header": inner[f"{HOOKPOINTS[0]}/header"] + " "})),
        "not the SAE that the guard was compiled for",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_says_something_else_is_refused(guard_folder: Path, name: str) -> None:
    """Offsets, shapes and accounts that do not fit the file are found before a tensor is made of it."""
    change, expected = HEADERS[name]
    change(guard_folder)
    assert expected in refusal(guard_folder)


def test_a_header_written_anew_is_read(guard_folder: Path) -> None:
    """Control: the same header put together by other hands passes, so the failures above are about what they say."""
    rewrite(lambda _: None)(guard_folder)
    about(lambda _: None)(guard_folder)
    assert Guard.load(guard_folder).config == make_guard().config
