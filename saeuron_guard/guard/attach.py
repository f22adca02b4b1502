"""Puts a guard's hooks into a pipeline, keeps watch that they stay there, and takes them out without a trace."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from saeuron_guard.errors import GuardNotEffective, ModelMismatch
from saeuron_guard.guard import runtime as runtime_module
from saeuron_guard.guard.branches import stacks_branches, unconditional_rows
from saeuron_guard.guard.recording import Recorder, recorded, request_of
from saeuron_guard.guard.runtime import CAUSES, Runtime
from saeuron_guard.guard.succession import Succession
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.tally import Tally


@dataclass(frozen=True, slots=True)
class Site:
    """Where hooks go: the pipeline's component that denoises, and the block of each hookpoint."""

    component: str
    denoiser: nn.Module
    blocks: dict[str, nn.Module]


def find_site(pipe: Any, tables: Mapping[str, HookpointTables]) -> Site:
    """Look the hookpoints up in ``pipe``; ModelMismatch when one is missing or has another number of channels."""
    components = {hookpoint.partition(".")[0] for hookpoint in tables}
    if len(components) != 1:
        raise ModelMismatch(f"the guard has hookpoints in {sorted(components)}; expected all of them in one denoiser")
    (component,) = components
    denoiser = getattr(pipe, component, None)
    if not isinstance(denoiser, nn.Module):
        raise ModelMismatch(f"{type(pipe).__name__} has no {component!r}, which the guard's hookpoints are in")
    blocks = {hookpoint: block_at(denoiser, hookpoint) for hookpoint in tables}
    for hookpoint, block in blocks.items():
        channels = getattr(block, "out_channels", None)
        d_in = tables[hookpoint].coder.config.d_in
        if isinstance(channels, int) and channels != d_in:
            raise ModelMismatch(f"{hookpoint} has {channels} channels, the guard's SAE {d_in}; it is for another model")
    return Site(component, denoiser, blocks)


def block_at(denoiser: nn.Module, hookpoint: str) -> nn.Module:
    """The block that a hookpoint names; ModelMismatch when there is none."""
    _, _, path = hookpoint.partition(".")
    if not path:
        raise ModelMismatch(f"{hookpoint} is a whole model; expected a block inside it, such as unet.mid_block")
    try:
        return denoiser.get_submodule(path)
    except AttributeError as error:
        raise ModelMismatch(f"the pipeline has no {hookpoint} ({error}); the guard is for another model") from None


class Attachment:
    """One guard on one pipeline, from ``install`` to ``remove``; ``branches`` is one of ``names.BRANCHES``.

    ``recorder`` keeps what was decided of each image.  With a ``predecessor``, ``install`` puts the hooks beside that
    one's, which stays active until ``succession.hand_over``.
    """

    def __init__(
        self,
        pipe: Any,
        site: Site,
        tables: Mapping[str, HookpointTables],
        branches: str = "all",
        recorder: Recorder | None = None,
        predecessor: Attachment | None = None,
    ) -> None:
        arguments = list(inspect.signature(type(_original(site.denoiser)).forward).parameters)[1:]
        if "timestep" not in arguments:
            raise ModelMismatch(f"{type(site.denoiser).__name__} takes no timestep; expected a diffusers denoiser")
        self.pipe = pipe
        self.site = site
        known = branches == "conditional" and stacks_branches(type(pipe))
        rows = functools.partial(unconditional_rows, pipe) if known else None
        self.runtime = Runtime(tables, arguments, rows)
        self.handles: dict[str, RemovableHandle] = {}
        self.recorder = recorder
        self.succession: Succession[Attachment] = predecessor.succession if predecessor else Succession(self)
        self.runtime.acts = functools.partial(self.succession.acts, self)
        self.stock_class: type = predecessor.stock_class if predecessor else type(pipe)
        self.watched_class: type | None = predecessor.watched_class if predecessor else None

    def install(self) -> None:
        """Put the hooks and the watch over the pipeline's calls in place."""
        former = self.succession.active
        if former is self:
            refuse_guarded(self.pipe, self.site)
        else:
            refuse_succession(former, self.site)
        denoiser = self.site.denoiser
        before, after = self.runtime.before_denoiser(), self.runtime.after_denoiser()
        self.handles["denoiser's start"] = denoiser.register_forward_pre_hook(before, with_kwargs=True)
        for hookpoint, block in self.site.blocks.items():
            self.handles[hookpoint] = block.register_forward_hook(self.runtime.at_hookpoint(hookpoint))
        self.handles["denoiser's end"] = denoiser.register_forward_hook(after, always_call=True)
        if self.watched_class is None:
            self.watched_class = guarded_class(self.stock_class, self.succession)
            self.pipe.__class__ = self.watched_class

    def retire(self) -> None:
        """Take the hooks out again; the watch over the pipeline's calls is the successor's."""
        for handle in self.handles.values():
            handle.remove()
        self.handles.clear()

    def remove(self) -> None:
        """Take everything out again; the pipeline is then as it was."""
        self.retire()
        if type(self.pipe) is self.watched_class:
            self.pipe.__class__ = self.stock_class

    def run(self, pipe: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one pipeline call; its images leave only if the guard ran in every denoising step of it."""
        if not self.handles:  # detached, but someone derived a class of their own from the guarded one
            return call(pipe, *args, **kwargs)
        with recorded(self.recorder, request_of(call, pipe, args, kwargs)) as record:
            self.check_in_place(pipe)
            with self.runtime.generation() as generation:
                record.generation = generation
                output = call(pipe, *args, **kwargs)
                generation.images.images = _image_count(output)
            self.check_in_place(pipe)
            check_steps(pipe, generation.tally)
        return output

    def check_in_place(self, pipe: Any) -> None:
        """Raise GuardNotEffective unless every hook is still where ``install`` put it."""
        site = self.site
        if pipe is not self.pipe:
            raise GuardNotEffective(
                "this pipeline is a copy of a guarded one, and the guard watches the original only. Detach before "
                "copying, then attach a guard to each."
            )
        if getattr(pipe, site.component, None) is not site.denoiser:
            raise GuardNotEffective(
                f"pipe.{site.component} is not the model that the guard was attached to: it was replaced or compiled "
                "since. Detach the guard and attach it again."
            )
        gone = [name for name, handle in self.handles.items() if handle.id not in (handle.hooks_dict_ref() or {})]
        moved = [name for name, block in site.blocks.items() if not _is_at(site.denoiser, name, block)]
        if gone or moved:
            raise GuardNotEffective(
                f"expected {len(self.handles)} hooks in place, but found those at {', '.join(gone or moved)} "
                f"{'removed' if gone else 'on blocks that are no longer part of the model'}; images are withheld. "
                f"{CAUSES}"
            )


def _image_count(output: Any) -> int | None:
    """How many images a pipeline call gave; None for an output without any."""
    images: Any = output[0] if isinstance(output, tuple) and output else getattr(output, "images", None)
    return len(images) if hasattr(images, "__len__") else None


def check_steps(pipe: Any, tally: Tally) -> None:
    """Raise GuardNotEffective when fewer denoiser calls were guarded than the pipeline made steps."""
    steps = getattr(pipe, "num_timesteps", None)
    expected = steps if isinstance(steps, int) and not getattr(pipe, "interrupt", False) else 1
    if tally.calls < max(expected, 1):
        raise GuardNotEffective(
            f"expected at least {max(expected, 1)} guarded denoiser calls in this pipeline call, saw {tally.calls}; "
            f"images are withheld. {CAUSES}"
        )


def refuse_succession(former: Attachment, site: Site) -> None:
    """Raise unless a guard at ``site`` can follow ``former``, which has to be in place itself."""
    former.check_in_place(former.pipe)
    if site.denoiser is not former.site.denoiser:
        raise ModelMismatch(
            f"the guard is for pipe.{site.component}, the active one for pipe.{former.site.component}; detach that one "
            "and attach the other"
        )
    if _compiled(site.denoiser):
        raise GuardNotEffective(
            f"pipe.{site.component} is compiled as a whole, and hooks that are put in now would be ignored; detach the "
            "guard, load the model anew and attach the other guard before it is compiled"
        )


def refuse_guarded(pipe: Any, site: Site) -> None:
    """Raise GuardNotEffective when the denoiser, or the pipeline, already carries a guard's hooks."""
    hooks = site.denoiser._forward_pre_hooks.values()  # noqa: SLF001 - torch has no public list of hooks
    if any(getattr(hook, "__module__", None) == runtime_module.__name__ for hook in hooks):
        raise GuardNotEffective(
            f"pipe.{site.component} already carries a guard (of this pipeline, of one that shares the model, or of the "
            "one it was copied from); detach that first"
        )
    if getattr(type(pipe), _MARK, False):
        raise GuardNotEffective(
            "this pipeline already carries a guard, or is a copy of one that did; detach that first"
        )


_MARK = "_saeuron_guarded"


def guarded_class(base: type[Any], succession: Succession[Attachment]) -> type[Any]:
    """A subclass of a pipeline's class that differs in ``__call__`` alone.

    It bears the same name, module and signature, because diffusers writes the class's name into saved pipelines and
    reads signatures to convert one pipeline into another.
    """

    @functools.wraps(base.__call__)
    def guarded_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with succession.turn() as attachment:
            return attachment.run(self, base.__call__, args, kwargs)

    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(base)
    return metaclass(base.__name__, (base,), {**names, "__call__": guarded_call, _MARK: True})


def _compiled(module: nn.Module) -> bool:
    """Whether torch.compile has wrapped ``module`` or replaced its call."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _original(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def _is_at(denoiser: nn.Module, hookpoint: str, block: nn.Module) -> bool:
    try:
        return block_at(denoiser, hookpoint) is block
    except ModelMismatch:
        return False
