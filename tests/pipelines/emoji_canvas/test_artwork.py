"""Artwork is used only when it is, byte for byte, the pinned package; nothing of a package is ever unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeuron_guard.errors import ArtefactError
from saeuron_guard.pipelines.emoji_canvas import artwork
from saeuron_guard.pipelines.emoji_canvas.artwork import base_render, fetch_icons, render_icon
from saeuron_guard.pipelines.emoji_canvas.world import IconSet, Style, Thing

FILE = "made-up-icons-1.0.0.tgz"
ICONS: dict[str, Any] = {
    "prefix": "made-up",
    "width": 16,
    "height": 16,
    "icons": {
        "halves": {"body": '<path fill="#f00" d="M0 0h8v16H0z"/><path fill="#00f" d="M8 0h8v16H8z"/>'},
        "moved": {"body": '<path fill="#0f0" d="M100 200h32v32h-32z"/>', "left": 100, "top": 200, "width": 64},
        "dot": {"body": '<path d="M4 4h8v8H4z" fill="currentColor"/>'},
    },
    "aliases": {"two-halves": {"parent": "halves"}},
}


def file_member(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """An ordinary file of an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def other_member(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A folder or a link of an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A packed archive of ``members``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


GOOD = archive(file_member("package/icons.json", json.dumps(ICONS).encode()))


@pytest.fixture
def pin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Makes the given archive the one pinned package."""

    def pin_archive(packed: bytes) -> None:
        digest = hashlib.sha256(packed).hexdigest()
        icon_set = IconSet("@made-up/icons", "1.0.0", digest, "MIT", "Made up by nobody, https://example.org")
        monkeypatch.setattr(artwork, "ICON_SETS", {"made-up": icon_set})

    return pin_archive


@pytest.fixture
def put_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the place of npm; gives the file to which it writes its arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    def write(script: str) -> Path:
        asked = tmp_path / "asked.txt"
        npm = programs / "npm"
        npm.write_text(f'#!/bin/sh\necho "$@" >>"{asked}"\n{script}\n', encoding="utf-8")
        npm.chmod(0o755)
        return asked

    return write


def test_an_archive_with_the_pinned_digest_is_read(
    pin: Callable[[bytes], None], put_npm: Callable[[str], Path], tmp_path: Path
) -> None:
    """The pinned package that lies there gives its icons, and npm is not asked."""
    asked = put_npm("exit 1")
    pin(GOOD)
    (tmp_path / FILE).write_bytes(GOOD)
    assert fetch_icons(tmp_path) == {"made-up": ICONS}
    assert not asked.exists()


@pytest.mark.parametrize(
    "packed",
    [
        GOOD + b"\0",
        GOOD[:-1],
        b"",
        b"not an archive",
        archive(file_member("package/icons.json", b'{"icons": {"halves": {"body": "<image/>"}}}')),
    ],
    ids=["byte more", "byte less", "empty", "no archive", "other icons"],
)
def test_an_archive_with_another_digest_is_refused(
    pin: Callable[[bytes], None], tmp_path: Path, packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything but the pinned bytes is refused unopened, naming the file, both digests and what to do."""
    opened: list[Path] = []
    monkeypatch.setattr(artwork, "_read_icons", lambda tarball, icon_set: opened.append(tarball))
    pin(GOOD)
    path = tmp_path / FILE
    path.write_bytes(packed)
    with pytest.raises(ArtefactError) as caught:
        fetch_icons(tmp_path)
    expected, got = (hashlib.sha256(content).hexdigest() for content in (GOOD, packed))
    assert str(caught.value) == f"{path}: expected sha256 {expected}, got {got}; delete the file and try again"
    assert opened == []
    path.write_bytes(GOOD)
    fetch_icons(tmp_path)
    assert opened == [path]


def test_a_missing_archive_is_fetched_and_then_kept(
    pin: Callable[[bytes], None], put_npm: Callable[[str], Path], tmp_path: Path
) -> None:
    """Exactly the pinned version is asked for, once, into the folder, which is made; its file counts from then."""
    (tmp_path / "source.tgz").write_bytes(GOOD)
    asked = put_npm(f'cp "{tmp_path}/source.tgz" {FILE}')
    pin(GOOD)
    folder = tmp_path / "new" / "artwork"
    for _ in range(2):
        assert fetch_icons(folder) == {"made-up": ICONS}
    assert asked.read_text(encoding="utf-8") == "pack --silent @made-up/icons@1.0.0\n"
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_what_npm_brings_has_to_have_the_pinned_digest(
    pin: Callable[[bytes], None], put_npm: Callable[[str], Path], tmp_path: Path
) -> None:
    """A package that changed under its version number is refused like a changed file."""
    put_npm(f"echo something else >{FILE}")
    pin(GOOD)
    with pytest.raises(ArtefactError, match=r"expected sha256 .*, got "):
        fetch_icons(tmp_path / "artwork")


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo no such package >&2; exit 1", "no such package"), ("exit 0", "no file came"), ("exit 4", "no file came")],
)
def test_a_package_that_cannot_be_fetched_is_said_to_be(
    pin: Callable[[bytes], None], put_npm: Callable[[str], Path], tmp_path: Path, script: str, reason: str
) -> None:
    """When npm fails or brings nothing, the error names the package and npm's own reason."""
    put_npm(script)
    pin(GOOD)
    with pytest.raises(ArtefactError) as caught:
        fetch_icons(tmp_path / "artwork")
    assert str(caught.value) == f"could not fetch @made-up/icons@1.0.0 with npm pack: {reason}"


def test_a_machine_without_npm_is_told_so(
    pin: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an npm program the error is the package's own, and names npm; with the file there, none is needed."""
    pin(GOOD)
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    with pytest.raises(ArtefactError, match="npm"):
        fetch_icons(tmp_path)
    (tmp_path / FILE).write_bytes(GOOD)
    assert fetch_icons(tmp_path) == {"made-up": ICONS}


def test_members_that_lead_outside_are_never_written(pin: Callable[[bytes], None], tmp_path: Path) -> None:
    """Members with parent, absolute and linked paths leave no trace; the control shows that they could have."""
    outside = tmp_path / "outside"
    outside.mkdir()
    packed = archive(
        file_member("../escaped", b"up"),
        file_member(str(outside / "absolute"), b"away"),
        other_member("package/link", tarfile.SYMTYPE, str(outside)),
        file_member("package/link/through", b"through"),
        file_member("package/icons.json", json.dumps(ICONS).encode()),
    )
    folder = tmp_path / "artwork"
    folder.mkdir()
    (folder / FILE).write_bytes(packed)
    pin(packed)
    assert fetch_icons(folder) == {"made-up": ICONS}
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artwork", "outside"]
    assert list(outside.iterdir()) == []
    with tarfile.open(folder / FILE) as tar:
        tar.extractall(folder, filter="fully_trusted")  # noqa: S202 - the control: these members do lead outside
    assert sorted(path.name for path in outside.iterdir()) == ["absolute", "through"]
    assert (tmp_path / "escaped").read_bytes() == b"up"


@pytest.mark.parametrize(
    "member",
    [
        file_member("package/other.json", b"{}"),
        other_member("package/icons.json", tarfile.DIRTYPE),
        other_member("package/icons.json", tarfile.SYMTYPE, "../../secret.json"),
        other_member("package/icons.json", tarfile.LNKTYPE, "../../secret.json"),
    ],
    ids=["missing", "folder", "symbolic link", "hard link"],
)
def test_an_archive_without_the_icons_is_refused(
    pin: Callable[[bytes], None], tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]
) -> None:
    """No icons file, or something else in its place: an error that names it, and no file outside is read instead."""
    (tmp_path / "secret.json").write_text("{}", encoding="utf-8")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    packed = archive(member)
    pin(packed)
    (folder / FILE).write_bytes(packed)
    with pytest.raises(ArtefactError, match=r"no package/icons\.json in @made-up/icons"):
        fetch_icons(folder)
    pin(GOOD)
    (folder / FILE).write_bytes(GOOD)
    assert fetch_icons(folder) == {"made-up": ICONS}


def test_icons_are_rendered_where_their_paths_lie() -> None:
    """A red and a blue half fill their halves; an alias is its parent; an icon's own origin and width are kept."""
    pytest.importorskip("resvg_py", reason="renders artwork only when the model is rebuilt: the extra 'build'")
    picture = render_icon(ICONS, "halves", 64)
    assert (picture.mode, picture.size) == ("RGBA", (64, 64))
    pixels = np.asarray(picture)
    assert (pixels[:, :31] == (255, 0, 0, 255)).all()
    assert (pixels[:, 33:] == (0, 0, 255, 255)).all()
    assert render_icon(ICONS, "two-halves", 64).tobytes() == picture.tobytes()
    moved = np.asarray(render_icon(ICONS, "moved", 64))
    assert moved[..., 3].max() == 255
    assert (moved[moved[..., 3] == 255] == (0, 255, 0, 255)).all()
    assert not moved[:, 40:, 3].any()


def test_an_object_is_rendered_from_the_set_of_its_style() -> None:
    """The same object takes another icon in another set, at the base size, black where no colour is given."""
    pytest.importorskip("resvg_py", reason="renders artwork only when the model is rebuilt: the extra 'build'")
    thing = Thing("thing", {"one": "halves", "two": "dot"})
    first, second = (
        base_render({"one": ICONS, "two": ICONS}, thing, Style("S", name, "plain")) for name in ("one", "two")
    )
    assert first.size == second.size == (artwork.BASE_SIZE, artwork.BASE_SIZE)
    assert first.tobytes() == render_icon(ICONS, "halves").tobytes()
    pixels = np.asarray(second)
    assert tuple(pixels[96, 96]) == (0, 0, 0, 255)
    assert tuple(pixels[10, 10]) == (0, 0, 0, 0)
