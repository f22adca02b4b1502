"""Fetches the pinned icon packages and renders their icons.

Runs only when the embedded model is rebuilt; needs ``npm`` and the ``build`` extra (resvg).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from saeuron_guard.errors import ArtefactError
from saeuron_guard.pipelines.emoji_canvas.world import ICON_SETS, IconSet, Style, Thing

BASE_SIZE = 192
"""Pixels of a base render: three times the picture, so that transforms work on sub-pixel detail."""


def fetch_icons(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the parsed ``icons.json`` of every icon set, downloading what ``folder`` lacks.

    Raises ArtefactError when a package cannot be fetched or its digest is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _read_icons(_tarball(icon_set, folder), icon_set) for name, icon_set in ICON_SETS.items()}


def _tarball(icon_set: IconSet, folder: Path) -> Path:
    stem = icon_set.package.removeprefix("@").replace("/", "-")
    path = folder / f"{stem}-{icon_set.version}.tgz"
    if not path.exists():
        wanted = f"{icon_set.package}@{icon_set.version}"
        try:
            run = subprocess.run(  # fixed argument list, no shell
                ["npm", "pack", "--silent", wanted], cwd=folder, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise ArtefactError(f"could not fetch {wanted}: npm is not installed; install Node.js") from None
        if run.returncode != 0 or not path.exists():
            raise ArtefactError(f"could not fetch {wanted} with npm pack: {run.stderr.strip() or 'no file came'}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != icon_set.sha256:
        raise ArtefactError(f"{path}: expected sha256 {icon_set.sha256}, got {digest}; delete the file and try again")
    return path


def _read_icons(tarball: Path, icon_set: IconSet) -> dict[str, Any]:
    with tarfile.open(tarball) as archive:
        try:
            member = archive.extractfile("package/icons.json")
        except KeyError:  # no such file, or a link to one
            member = None
        if member is None:
            raise ArtefactError(f"{tarball}: no package/icons.json in {icon_set.package}")
        icons: dict[str, Any] = json.load(member)
    return icons


def render_icon(icons: dict[str, Any], name: str, size: int = BASE_SIZE) -> Image.Image:
    """Render one icon of an Iconify set to a ``size`` x ``size`` RGBA picture."""
    import resvg_py

    icon = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{size}" height="{size}" color="black">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def base_render(icons: dict[str, dict[str, Any]], thing: Thing, style: Style) -> Image.Image:
    """Render the icon that ``thing`` has in the icon set of ``style``."""
    return render_icon(icons[style.icon_set], thing.icons[style.icon_set])
