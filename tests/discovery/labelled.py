"""Prompts of three objects in two styles, short enough for the tiny pipeline's letter-by-letter tokenizer.

That pipeline's images are noise, so nothing here says how well a method works: the tests are about which activations
are recorded, in what order and under which labels.
"""

from __future__ import annotations

from saeuron_guard.prompts.model import Prompt

PROMPTS = tuple(
    Prompt(f"{thing}-{style}", f"{thing} in {style}", (("object", thing), ("style", style)))
    for thing in ("bomb", "cat", "dog")
    for style in ("Neon", "Pixel")
)
