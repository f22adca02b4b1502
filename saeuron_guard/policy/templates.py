"""Policies to start from: shipped ones under new names, and templates for models that do not ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from saeuron_guard.errors import ArtefactError
from saeuron_guard.policy.format import format_policy
from saeuron_guard.policy.scalars import scalar_value
from saeuron_guard.resources import data_folder

TEMPLATES: Final = {
    "weapons": ("no-weapons.yaml", "no pistols, knives and bombs, on the embedded model"),
    "substances": ("no-substances.yaml", "no tobacco, alcohol and drugs, on the embedded model"),
    "gore": ("no-gore.yaml", "no remains of the dead, on the embedded model"),
    "style-opt-out": ("style-opt-out.yaml", "an artist's style is not imitated, on the embedded model"),
    "sd1-nudity": ("templates/sd1-nudity.yaml", "no nudity, on Stable Diffusion 1.4 with SAeUron's SAE"),
    "sd1-violence": (
        "templates/sd1-violence.yaml",
        "no violence, on Stable Diffusion 1.4 with SAeUron's SAE",
    ),
}
"""File below the shipped policies, and what it is for, by the template's name."""

FIRST_VERSION: Final = "0.1.0"


def policy_from_template(template: str, *, name: str, owner: str, schema: str) -> str:
    """The text of a new policy: the template's rules, comments and tests under another name and owner.

    ``schema``: where editors find the JSON Schema, as written into the file's first line.
    The new policy is experimental, of version 0.1.0, and takes over no side effects or references.
    """
    file, _ = TEMPLATES[template]
    text = (data_folder("policies") / Path(file)).read_text(encoding="utf-8")
    first, rest = text.split("\n", 1)
    if not first.startswith("# yaml-language-server:"):
        raise ArtefactError(f"{file}: the template does not begin with its schema; restore it from the release")
    text = f"# yaml-language-server: $schema={schema}\n{rest}"
    for key, value in (("name", name), ("version", FIRST_VERSION), ("owner", owner)):
        text = _with_line(text, key, scalar_value(value))
    text = re.sub(r"^  status: .*\n", "", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^  side_effects:\n(?:    .*\n)+", "", text, count=1, flags=re.MULTILINE)
    return format_policy(text.replace(f"{Path(file).stem}.yaml", f"{name}.yaml"), f"template {template}")


def _with_line(text: str, key: str, value: str) -> str:
    """``text`` with another value of a key of the metadata, which come first in a formatted policy."""
    before, found, after = text.partition(f"\n  {key}: ")
    return f"{before}{found}{value}\n{after.split(chr(10), 1)[1]}"
