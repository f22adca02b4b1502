"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings
from jaxtyping import install_import_hook

# No deadline: on a busy machine the first example pays for imports. Fixed examples in CI: a red run must be repeatable.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "person")

# The shapes in the signatures of the tensor packages are checked at every call. Before anything imports them.
install_import_hook(["saeuron_guard.sae", "saeuron_guard.guard"], "beartype.beartype")
