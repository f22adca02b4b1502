"""What must hold inside a guard's configuration beyond the types of its fields."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from saeuron_guard.compiler.config import GuardConfig, HookpointConfig, Rule
from saeuron_guard.names import (
    ACTIONS,
    BRANCHES,
    FEATURE,
    GUARD_FORMAT,
    HOOKPOINT,
    LARGEST_FIGURE,
    LARGEST_STRENGTH,
    LARGEST_TIMESTEP,
    MODES,
)
from saeuron_guard.wording import one_line, quote


def unsound(config: GuardConfig) -> Iterator[str]:
    """Everything in which ``config`` contradicts itself or the format that it states, most general first."""
    if config.format != GUARD_FORMAT:
        yield f"format is {config.format!r}, this release reads {GUARD_FORMAT!r}"
    if config.branches not in BRANCHES:
        yield f"branches is {config.branches!r}, expected {' or '.join(BRANCHES)}"
    for text in _names(config):
        if text != one_line(text):
            yield f"{quote(text)} is no name, expected one line without control characters"
    hookpoints = [hookpoint.hookpoint for hookpoint in config.hookpoints]
    if not hookpoints:
        yield "hookpoints is empty"
    if len(set(hookpoints)) != len(hookpoints):
        yield "one hookpoint occurs twice"
    for hookpoint in config.hookpoints:
        yield from _unsound_hookpoint(hookpoint)
    named = [merge.feature for merge in config.merges] + [collision.feature for collision in config.collisions]
    for feature in named:
        if not FEATURE.fullmatch(feature):
            yield f"{feature!r} is not the name of a feature, expected sae:index"


def _names(config: GuardConfig) -> Iterator[str]:
    """Everything that the program prints as a name."""
    yield from (config.policy_name, config.policy_version, config.policy_digest, config.model, config.model_fingerprint)
    for hookpoint in config.hookpoints:
        yield from (hookpoint.sae, hookpoint.sae_path, hookpoint.sae_digest)
        for rule in hookpoint.rules:
            yield from (rule.concept, rule.domain, rule.severity)


def _unsound_hookpoint(hookpoint: HookpointConfig) -> Iterator[str]:
    name = hookpoint.hookpoint
    if not HOOKPOINT.fullmatch(name):
        yield f"{quote(name)} is no hookpoint, expected a dotted module path such as unet.mid_block"
    if min(hookpoint.d_in, hookpoint.num_latents, hookpoint.k) < 1 or hookpoint.k > hookpoint.num_latents:
        yield f"{name}: d_in, num_latents and k must be at least 1, and k at most num_latents"
    if not hookpoint.timesteps or any(earlier <= later for earlier, later in pairwise(hookpoint.timesteps)):
        yield f"{name}: timesteps must be a strictly falling list, not empty"
    if any(not 0 <= time <= LARGEST_TIMESTEP for time in hookpoint.timesteps):
        yield f"{name}: a timestep is not from 0 to {LARGEST_TIMESTEP}"
    if not 0 <= hookpoint.largest_gap <= LARGEST_TIMESTEP:
        yield f"{name}: largest_gap is {hookpoint.largest_gap}, expected 0 to {LARGEST_TIMESTEP}"
    concepts = [rule.concept for rule in hookpoint.rules]
    if not concepts or len(set(concepts)) != len(concepts):
        yield f"{name}: expected at least one rule, and one for each concept"
    for rule in hookpoint.rules:
        yield from _unsound_rule(rule, hookpoint)
    yield from _edited_twice(hookpoint)


def _unsound_rule(rule: Rule, hookpoint: HookpointConfig) -> Iterator[str]:
    where = f"{hookpoint.hookpoint}, {rule.concept}"
    yield from _unsound_settings(rule, where)
    indices = [edit.index for edit in rule.features]
    if len(set(indices)) != len(indices):
        yield f"{where}: one feature occurs twice"
    for edit in rule.features:
        if not 0 <= edit.index < hookpoint.num_latents:
            yield f"{where}: feature {edit.index} does not exist, the SAE has {hookpoint.num_latents}"
        if any(abs(figure) > LARGEST_FIGURE for figure in (*edit.mean, *edit.threshold)):
            yield f"{where}, feature {edit.index}: a mean or threshold is beyond {LARGEST_FIGURE:g}"
        sizes = {len(edit.active), len(edit.mean), len(edit.threshold)}
        if sizes != {len(hookpoint.timesteps)}:
            yield (
                f"{where}, feature {edit.index}: active, mean and threshold have {sorted(sizes)} values, "
                f"expected {len(hookpoint.timesteps)}, one for each timestep"
            )


def _unsound_settings(rule: Rule, where: str) -> Iterator[str]:
    if rule.action not in ACTIONS:
        yield f"{where}: unknown action {rule.action!r}, this release carries out {', '.join(ACTIONS)}"
    if rule.mode not in MODES:
        yield f"{where}: mode is {rule.mode!r}, expected {', '.join(MODES)}"
    if not 0 <= rule.share <= 1:
        yield f"{where}: share is {rule.share:g}, expected 0 to 1"
    if not 0 <= rule.strength <= LARGEST_STRENGTH:
        yield f"{where}: strength is {rule.strength:g}, expected 0 to {LARGEST_STRENGTH:g}"
    if abs(rule.multiplier) > LARGEST_FIGURE:
        yield f"{where}: multiplier is {rule.multiplier:g}, expected at most {LARGEST_FIGURE:g} either way"


def _edited_twice(hookpoint: HookpointConfig) -> Iterator[str]:
    """Two rules on one feature at one timestep: the compiler settles that, so such a file does not come from there."""
    owners: dict[tuple[int, int], str] = {}
    for rule in (rule for rule in hookpoint.rules if rule.applied):
        for edit in rule.features:
            rivals = {
                owners.setdefault((edit.index, t), rule.concept) for t, active in enumerate(edit.active) if active
            }
            for rival in sorted(rivals - {rule.concept}):
                yield f"{hookpoint.hookpoint}: feature {edit.index} is edited for both {rival} and {rule.concept}"
