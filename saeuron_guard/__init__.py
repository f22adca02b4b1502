"""Policy-as-code safety filter for text-to-image diffusion pipelines.

What stands here is the public interface. Each name is loaded when it is first used, so that importing the package, and
everything that works on policies alone, does without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saeuron_guard.compiler.compile import compile_policy
    from saeuron_guard.guard.decision_log import DecisionLog
    from saeuron_guard.guard.guard import Guard, guarded
    from saeuron_guard.guard.guard_set import GuardSet
    from saeuron_guard.pipelines.load import load_pipeline
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.registry.store import FeatureRegistry

__all__ = [
    "DecisionLog",
    "FeatureRegistry",
    "Guard",
    "GuardSet",
    "compile_policy",
    "guarded",
    "load_pipeline",
    "load_policy",
]

_HOMES = {
    "DecisionLog": "saeuron_guard.guard.decision_log",
    "FeatureRegistry": "saeuron_guard.registry.store",
    "Guard": "saeuron_guard.guard.guard",
    "GuardSet": "saeuron_guard.guard.guard_set",
    "compile_policy": "saeuron_guard.compiler.compile",
    "guarded": "saeuron_guard.guard.guard",
    "load_pipeline": "saeuron_guard.pipelines.load",
    "load_policy": "saeuron_guard.policy.load",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
