"""What ``import saeuron_guard`` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import saeuron_guard


def test_every_public_name_can_be_had() -> None:
    """Each name of __all__ resolves to the object of its home module, also by ``from``-import."""
    assert sorted(dir(saeuron_guard)) == sorted(saeuron_guard.__all__)
    for name in saeuron_guard.__all__:
        assert getattr(saeuron_guard, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'guard_pipeline'"):
        saeuron_guard.guard_pipeline  # noqa: B018 - the access is what is tested


def test_importing_the_package_loads_no_heavy_library() -> None:
    """The package and its policy half come without torch, diffusers and SQLAlchemy; the guard brings torch."""
    code = (
        "import sys, saeuron_guard\n"
        "saeuron_guard.load_policy\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
