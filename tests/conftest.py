"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: on a busy machine the first example pays for imports. Fixed examples in CI: a red run must be repeatable.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "person")
