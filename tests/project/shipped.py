"""What tests of the shipped registry share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
"""The checkout."""

needs_manifest = pytest.mark.skipif(
    not (ROOT / "registry" / "manifest.yaml").is_file(), reason="registry/manifest.yaml has not been built yet"
)
