"""What has to hold before a guard's hooks go into a pipeline, and the class that a guarded pipeline gets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from saeuron_guard.errors import DecisionLogError, GuardNotEffective
from saeuron_guard.guard.roster import Roster
from saeuron_guard.guard.site import Site
from saeuron_guard.names import GATES, REFUSALS

_OUR_HOOKS = "saeuron_guard.guard."
_MARK = "_saeuron_guarded"


def refuse_gate(gate: str, refuse: str, roster: Roster, *, logged: bool) -> None:
    """Raise for unknown settings (ValueError), and where the gate cannot do what the policies or the log need."""
    if gate not in GATES:
        raise ValueError(f"gate is {gate!r}, expected {' or '.join(GATES)}")
    if refuse not in REFUSALS:
        raise ValueError(f"refuse is {refuse!r}, expected {' or '.join(REFUSALS)}")
    if gate == "exact":
        return
    if logged:
        raise DecisionLogError(f"the gate {gate!r} does not tell images apart; a log needs the gate 'exact'")
    if roster.looks_at_images:
        raise GuardNotEffective(
            f"the gate {gate!r} does not tell images apart; rules that refuse images (action detect) or warn of them "
            "need the gate 'exact'"
        )
    if not roster.enforces:
        raise GuardNotEffective(
            f"no rule is enforced, so nothing would be edited, and images must never be withheld; the gate {gate!r} "
            "cannot promise that. Attach a guard that only watches with the gate 'exact'."
        )


def why_not_outside(roster: Roster, *, logged: bool) -> str:
    """Why the guard cannot do its part in calls of the denoiser that the guarded pipeline does not make; "" if it can.

    It edits there as everywhere; but nobody looks at the images that come of them.
    """
    made = "the denoiser was called outside of the guarded pipeline (by a pipeline that shares it, or by itself)"
    if not roster.single:
        return f"{made}, so nobody knows which policies its rows have. Call the guarded pipeline"
    if roster.looks_at_images:
        return (
            f"{made}, where images cannot be refused or warned of, as the policy demands. Call the guarded pipeline, "
            "or attach the guard to the other one"
        )
    if logged:
        return (
            f"{made}, where decisions cannot be logged. Call the guarded pipeline, or attach the guard to the other one"
        )
    return ""


def refuse_guarded(pipe: Any, site: Site) -> None:
    """Raise GuardNotEffective when the denoiser, or the pipeline, already carries a guard's hooks."""
    hooks = site.denoiser._forward_pre_hooks.values()  # noqa: SLF001 - torch has no public list of hooks
    if any((getattr(hook, "__module__", None) or "").startswith(_OUR_HOOKS) for hook in hooks):
        raise GuardNotEffective(
            f"pipe.{site.component} already carries a guard (of this pipeline, of one that shares the model, or of the "
            "one it was copied from); detach that first"
        )
    if getattr(type(pipe), _MARK, False):
        raise GuardNotEffective(
            "this pipeline already carries a guard, or is a copy of one that did; detach that first"
        )


def guarded_class(base: type[Any], call: Callable[..., Any]) -> type[Any]:
    """A subclass of a pipeline's class whose calls are ``call(pipe, stock call, args, kwargs)``; refuses to be copied.

    It bears the same name, module and signature, because diffusers writes the class's name into saved pipelines and
    reads signatures to convert one pipeline into another.
    """

    @functools.wraps(base.__call__)
    def guarded_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, base.__call__, args, kwargs)

    def refuse_copy(_self: Any, _protocol: Any) -> Any:
        raise GuardNotEffective(
            f"a guarded {base.__name__} can be neither copied nor pickled: the copy would have hooks that nobody "
            "watches. Detach the guard first (or save_pretrained() and load), then attach a guard to each."
        )

    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {"__call__": guarded_call, "__reduce_ex__": refuse_copy, _MARK: True}
    metaclass: Any = type(base)
    return metaclass(base.__name__, (base,), {**names, **own})


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile has wrapped ``module`` or replaced its call."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
