"""The JSON Schema (2020-12) of ``registry/manifest.yaml``."""

from __future__ import annotations

from typing import Any, Final

from saeuron_guard.names import API_VERSION, PROMPT_ROLES, SLUG
from saeuron_guard.registry.records import VERDICTS

KIND: Final = "Registry"
JUDGE_KINDS: Final = ("clip", "classifier")
JUDGE_ROLES: Final = ("calibration", "audit")

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_NAME: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": f"^{SLUG.pattern}$",
    "x-expected": "a name of at most 63 letters, digits, spaces and ._- that starts with a letter or digit",
}
_SAE_NAME: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._/-]{0,126}$",
    "x-expected": "a name of letters, digits and ._/- without spaces or colons",
}
_PATH: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "x-expected": "a path"}
_FILE: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": r"^[^/\\:][^\\:]*$",
    "x-expected": "a path below the registry folder, with forward slashes",
}
_DIGEST: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": "^sha256:[0-9a-f]{64}$",
    "x-expected": "sha256: and 64 lower-case hexadecimal digits",
}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 1, "x-expected": "a whole number, 1 or more"}
_NUMBER: Final[dict[str, Any]] = {"type": "number"}
_NOT_NEGATIVE: Final[dict[str, Any]] = {"type": "number", "minimum": 0, "x-expected": "a number, 0 or more"}
_SHARE: Final[dict[str, Any]] = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "x-expected": "a number from 0 to 1",
}
_WORDS: Final[dict[str, Any]] = {"type": "string", "pattern": r"\S", "x-expected": "some text"}
_MOMENT: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
    "x-expected": "a time in UTC, such as '2025-01-31T12:00:00Z'",
}
_ANYTHING: Final[dict[str, Any]] = {"type": "object"}
_FILES: Final[dict[str, Any]] = {"type": "object", "propertyNames": _FILE, "additionalProperties": _DIGEST}


def _record(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list_of(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "array", "items": _record(properties, optional)}


_MODELS: Final = _list_of(
    {
        "name": _NAME,
        "family": _NAME,
        "path": _PATH,
        "fingerprint": _DIGEST,
        "resolution": _COUNT,
        "steps": _COUNT,
        "guidance": _NOT_NEGATIVE,
        "scheduler": _NAME,
        "licence": _TEXT,
        "files": _FILES,
        "provenance": _ANYTHING,
        "hookpoints": {"type": "object", "additionalProperties": _COUNT},
    },
    optional=("licence", "files", "provenance", "hookpoints"),
)

_SAES: Final = _list_of(
    {
        "name": _SAE_NAME,
        "model": _NAME,
        "hookpoint": _PATH,
        "path": _FILE,
        "digest": _DIGEST,
        "d_in": _COUNT,
        "num_latents": _COUNT,
        "k": _COUNT,
        "variant": _NAME,
        "fvu": _NOT_NEGATIVE,
        "dead_share": _SHARE,
        "l0": _NOT_NEGATIVE,
        "provenance": _ANYTHING,
    },
    optional=("fvu", "dead_share", "l0"),  # left out where nobody measured them
)

_CONCEPTS: Final = _list_of(
    {
        "name": _NAME,
        "domain": _NAME,
        "title": _TEXT,
        "description": _TEXT,
        "aliases": {"type": "array", "items": _NAME, "uniqueItems": True},
        "parent": _NAME,
    },
    optional=("aliases", "parent"),
)

_PROMPT_SETS: Final = _list_of(
    {"name": _NAME, "role": {"enum": list(PROMPT_ROLES)}, "model": _NAME, "digest": _DIGEST},
)

_SCORING_RUNS: Final = _list_of(
    {
        "name": _SAE_NAME,
        "sae": _SAE_NAME,
        "method": _NAME,
        "statistics_path": _FILE,
        "statistics_digest": _DIGEST,
        "timesteps": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "x-expected": "a whole number, 0 or more"},
            "minItems": 1,
            "uniqueItems": True,
            "x-expected": "at least one timestep",
        },
        "provenance": _ANYTHING,
    }
)

_POINTS: Final = _list_of({"sae": _SAE_NAME, "run": _SAE_NAME, "features": _COUNT, "multiplier": _NUMBER}) | {
    "minItems": 1,
    "x-expected": "at least one operating point",
}

_CALIBRATIONS: Final = _list_of(
    {
        "concept": _NAME,
        "model": _NAME,
        "points": _POINTS,
        "figures": {"type": "object", "additionalProperties": _NUMBER},
        "provenance": _ANYTHING,
    }
)

_JUDGES: Final = _list_of(
    {
        "name": _NAME,
        "kind": {"enum": list(JUDGE_KINDS)},
        "role": {"enum": list(JUDGE_ROLES)},
        "path": _FILE,
        "files": _FILES,
        "labels": {"type": "object", "additionalProperties": {"type": "array", "items": _NAME, "uniqueItems": True}},
        "provenance": _ANYTHING,
    },
    optional=("provenance",),
)

_REVIEWS: Final = _list_of(
    {
        "sae": _SAE_NAME,
        "index": {"type": "integer", "minimum": 0, "x-expected": "a whole number, 0 or more"},
        "sae_digest": _DIGEST,
        "verdict": {"enum": list(VERDICTS)},
        "by": _WORDS,
        "why": _WORDS,
        "when": _MOMENT,
        "page": _ANYTHING,
    },
    optional=("page",),
)

MANIFEST_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Feature registry",
    **_record(
        {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": KIND},
            "models": _MODELS,
            "saes": _SAES,
            "concepts": _CONCEPTS,
            "prompt_sets": _PROMPT_SETS,
            "scoring_runs": _SCORING_RUNS,
            "calibrations": _CALIBRATIONS,
            "judges": _JUDGES,
            "reviews": _REVIEWS,
        },
        optional=("prompt_sets", "scoring_runs", "calibrations", "judges", "reviews"),
    ),
}
