"""The published JSON Schema of a policy: the contract between the people who write one and this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("schema.json")


def policy_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a policy of this release; a new object at each call."""
    schema: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return schema
