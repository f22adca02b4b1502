"""Settings of all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# No deadline: on a busy machine the first example pays for imports. Fixed examples in CI: a red run must be repeatable.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "person")

# Workers share the cores: torch's threads wait actively for each other, so with too many of them all is several times
# slower. Before anything imports torch, which reads this once; programs that tests start inherit it.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# The shapes in the signatures of the tensor packages are checked at every call. Before anything imports them.
install_import_hook(["saeuron_guard.sae", "saeuron_guard.guard"], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of most minutes: whichever begins last, alone on its worker, is what all others wait for."""
    items.sort(key=minutes, reverse=True)


def minutes(item: pytest.Item) -> float:
    """How long a test says that it takes; for most tests nothing worth a number."""
    mark = item.get_closest_marker("slow")
    return mark.kwargs.get("minutes", 0.0) if mark else 0.0
