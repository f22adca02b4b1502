"""``python -m saeuron_guard`` is the same program as ``saeuron-guard``."""

from __future__ import annotations

from saeuron_guard.cli.main import run

run()
