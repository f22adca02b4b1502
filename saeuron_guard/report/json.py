"""A verification as one JSON object, for scripts."""

from __future__ import annotations

import json

from saeuron_guard.verify.result import VerifyResult


def render_json(result: VerifyResult) -> str:
    """``result.to_json()`` as indented text with a final newline; keys keep their order."""
    return json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
