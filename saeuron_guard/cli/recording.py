"""What ``compile`` and ``verify`` note in the registry, who did it and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saeuron_guard.errors import RegistryError

if TYPE_CHECKING:
    from saeuron_guard.compiler.config import GuardConfig
    from saeuron_guard.policy.model import Policy
    from saeuron_guard.registry.records import GuardFeature, GuardRecord, PolicyRecord, VerificationRecord
    from saeuron_guard.registry.stamp import Stamp
    from saeuron_guard.registry.store import FeatureRegistry
    from saeuron_guard.verify.result import VerifyResult

_Command = TypeVar("_Command", bound=Callable[..., Any])


def record_option(command: _Command) -> _Command:
    """The option that leaves the record out."""
    return click.option(
        "--record/--no-record",
        default=True,
        show_default=True,
        help="Whether to note in the registry what was done, by whom and when.",
    )(command)


def require_recordable(registry: FeatureRegistry) -> None:
    """Raise RegistryError, naming --no-record, unless the registry's database can be written to."""
    from saeuron_guard.registry.recording import require_writable

    with _naming_the_way_out():
        require_writable(registry)


def note_guard(registry: FeatureRegistry, policy: Policy, config: GuardConfig) -> None:
    """Record a policy and what it was compiled to."""
    from saeuron_guard.registry.recording import record_guard
    from saeuron_guard.registry.stamp import Stamp

    stamp = Stamp.now()
    with _naming_the_way_out():
        record_guard(registry, _policy_record(policy, stamp), _guard_record(config, stamp))


def note_verification(registry: FeatureRegistry, policy: Policy, result: VerifyResult) -> None:
    """Record a verification with its policy and guard; raises RegistryError when the registry changed meanwhile."""
    from saeuron_guard.compiler.compile import compile_policy
    from saeuron_guard.registry.recording import record_verification
    from saeuron_guard.registry.stamp import Stamp

    stamp = Stamp.now()
    config = compile_policy(policy, registry)
    if config.digest != result.guard_digest:
        raise RegistryError(
            f"guard {result.guard_digest} was verified, but the registry now compiles the policy to {config.digest}: "
            "it changed meanwhile, and nothing was recorded; verify again"
        )
    with _naming_the_way_out():
        record_verification(
            registry, _policy_record(policy, stamp), _guard_record(config, stamp), _verification_record(result, stamp)
        )


@contextmanager
def _naming_the_way_out() -> Iterator[None]:
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"nothing can be recorded: {error}; or leave the record out with --no-record") from error


def _policy_record(policy: Policy, stamp: Stamp) -> PolicyRecord:
    from saeuron_guard.registry.records import PolicyRecord

    return PolicyRecord(
        digest=policy.digest,
        name=policy.name,
        version=policy.version,
        owner=policy.owner,
        file=policy.file,
        by=stamp.by,
        when=stamp.when,
    )


def _guard_record(config: GuardConfig, stamp: Stamp) -> GuardRecord:
    from saeuron_guard.registry.records import GuardRecord

    return GuardRecord(
        digest=config.digest,
        policy_digest=config.policy_digest,
        model=config.model,
        fingerprint=config.model_fingerprint,
        features=tuple(_features(config)),
        by=stamp.by,
        when=stamp.when,
    )


def _features(config: GuardConfig) -> Iterator[GuardFeature]:
    from saeuron_guard.registry.records import GuardFeature

    for hookpoint in config.hookpoints:
        for rule in hookpoint.rules:
            for edit in rule.features:
                yield GuardFeature(hookpoint.sae, hookpoint.sae_digest, edit.index, rule.concept, rule.strength)


def _verification_record(result: VerifyResult, stamp: Stamp) -> VerificationRecord:
    from saeuron_guard.registry.records import VerificationRecord

    stated = result.to_json()
    kept = ("reasons", "warnings", "prompts", "concepts", "retain", "quality", "versions")
    return VerificationRecord(
        guard_digest=result.guard_digest,
        policy_digest=result.policy.digest,
        verdict=stated["verdict"],
        exit_code=stated["exit_code"],
        judge=result.judge.name,
        judge_digest=result.judge.digest,
        seeds=result.seeds,
        images=stated["images"],
        figures={name: stated[name] for name in kept},
        by=stamp.by,
        when=stamp.when,
    )
