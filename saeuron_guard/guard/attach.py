"""Puts a guard's hooks into a pipeline, keeps watch that they stay there, and takes them out without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from saeuron_guard.errors import GuardNotEffective, ModelMismatch
from saeuron_guard.guard.branches import is_guided, stacks_branches, unconditional_rows
from saeuron_guard.guard.bypass import refuse_bypasses
from saeuron_guard.guard.denoisers import Arguments, refuse_other_time
from saeuron_guard.guard.graph_runtime import GraphGeneration, GraphRuntime
from saeuron_guard.guard.recording import Recorder, recorded, request_of
from saeuron_guard.guard.runtime import CAUSES, Generation, Runtime
from saeuron_guard.guard.succession import Succession
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.tally import Tally
from saeuron_guard.names import GATES


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
        gate: str = GATES[0],
        recorder: Recorder | None = None,
        predecessor: Attachment | None = None,
    ) -> None:
        arguments = Arguments.of(site.denoiser)
        self.pipe = pipe
        self.site = site
        known = branches == "conditional" and stacks_branches(type(pipe))
        self.succession: Succession[Attachment] = predecessor.succession if predecessor else Succession(self)
        self.gate = gate
        self.runtime: Runtime | GraphRuntime
        if gate == "exact":
            rows = functools.partial(unconditional_rows, pipe) if known else None
            self.runtime = Runtime(tables, arguments, rows)
            self.runtime.acts = functools.partial(self.succession.acts, self)
        else:
            guided = functools.partial(is_guided, pipe) if known else None
            self.runtime = GraphRuntime(tables, arguments, guided)
        self.handles: dict[str, RemovableHandle] = {}
        self.recorder = recorder
        self.stock_class: type = predecessor.stock_class if predecessor else type(pipe)
        self.watched_class: type | None = predecessor.watched_class if predecessor else None
        self._modules = dict(site.denoiser.named_modules())

    def install(self) -> None:
        """Put the hooks and the watch over the pipeline's calls in place."""
        former = self.succession.active
        if former is self:
            refuse_guarded(self.pipe, self.site)
        else:
            refuse_succession(former, self.site)
        denoiser = self.site.denoiser
        self.handles["denoiser's watch"] = denoiser.register_forward_pre_hook(self._watch())
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
            if isinstance(self.runtime, GraphRuntime):
                self.runtime.prepare(device_of(self.site.denoiser))
            with self.runtime.generation() as generation:
                record.generation = generation if isinstance(generation, Generation) else None
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
                "this pipeline was made from a guarded one, and the guard watches the original only. Detach before "
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
        refuse_bypasses(self._modules, site.blocks)
        refuse_other_time(pipe)

    def _watch(self) -> Callable[[nn.Module, Any], None]:
        """A forward pre-hook: refuses caches in each denoiser call, whichever pipeline or program makes it."""
        site = self.site

        def refuse_caches(denoiser: nn.Module, _args: Any) -> None:
            if denoiser is site.denoiser:
                refuse_bypasses(self._modules, site.blocks)
            else:  # a copy, which took the hooks along
                blocks = {hookpoint: block_at(denoiser, hookpoint) for hookpoint in site.blocks}
                refuse_bypasses(dict(denoiser.named_modules()), blocks)

        # It looks at every module, and torch.compile would guard its graphs on all of them.
        untraced: Any = torch.compiler.disable
        return untraced(refuse_caches)


def _image_count(output: Any) -> int | None:
    """How many images a pipeline call gave; None for an output without any."""
    images: Any = output[0] if isinstance(output, tuple) and output else getattr(output, "images", None)
    return len(images) if hasattr(images, "__len__") else None


def device_of(denoiser: nn.Module) -> torch.device:
    """Where the denoiser computes; offloaded weights lie elsewhere until it does."""
    hook = getattr(denoiser, "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    return next((p.device for p in denoiser.parameters() if not p.is_meta), torch.device("cpu"))


def check_steps(pipe: Any, tally: Tally | GraphGeneration) -> None:
    """Raise GuardNotEffective when fewer denoiser calls were guarded than the pipeline made steps."""
    steps = getattr(pipe, "num_timesteps", None)
    if not isinstance(steps, int):  # PixArt's don't say; they use all timesteps of their scheduler
        timesteps = getattr(getattr(pipe, "scheduler", None), "timesteps", None)
        steps = len(timesteps) if isinstance(timesteps, torch.Tensor) else 1
    expected = steps if not getattr(pipe, "interrupt", False) else 1
    if tally.calls < max(expected, 1):
        raise GuardNotEffective(
            f"expected at least {max(expected, 1)} guarded denoiser calls in this pipeline call, saw {tally.calls}; "
            f"images are withheld. {CAUSES}"
        )


def refuse_succession(former: Attachment, site: Site) -> None:
    """Raise unless a guard at ``site`` can follow ``former``, which has to be in place itself."""
    former.check_in_place(former.pipe)
    if former.gate != "exact":
        raise GuardNotEffective(
            f"with the gate {former.gate!r} a guard is part of the model's graph; detach it and attach the other"
        )
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
    if any((getattr(hook, "__module__", None) or "").startswith(_OUR_HOOKS) for hook in hooks):
        raise GuardNotEffective(
            f"pipe.{site.component} already carries a guard (of this pipeline, of one that shares the model, or of the "
            "one it was copied from); detach that first"
        )
    if getattr(type(pipe), _MARK, False):
        raise GuardNotEffective(
            "this pipeline already carries a guard, or is a copy of one that did; detach that first"
        )


_OUR_HOOKS = "saeuron_guard.guard."
_MARK = "_saeuron_guarded"


def guarded_class(base: type[Any], succession: Succession[Attachment]) -> type[Any]:
    """A subclass of a pipeline's class that differs in ``__call__``, and in that it refuses to be copied.

    It bears the same name, module and signature, because diffusers writes the class's name into saved pipelines and
    reads signatures to convert one pipeline into another.
    """

    @functools.wraps(base.__call__)
    def guarded_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with succession.turn() as attachment:
            return attachment.run(self, base.__call__, args, kwargs)

    def refuse_copy(_self: Any, _protocol: Any) -> Any:
        raise GuardNotEffective(
            f"a guarded {base.__name__} can be neither copied nor pickled: the copy would have hooks that nobody "
            "watches. Detach the guard first (or save_pretrained() and load), then attach a guard to each."
        )

    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {"__call__": guarded_call, "__reduce_ex__": refuse_copy, _MARK: True}
    metaclass: Any = type(base)
    return metaclass(base.__name__, (base,), {**names, **own})


def _compiled(module: nn.Module) -> bool:
    """Whether torch.compile has wrapped ``module`` or replaced its call."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _is_at(denoiser: nn.Module, hookpoint: str, block: nn.Module) -> bool:
    try:
        return block_at(denoiser, hookpoint) is block
    except ModelMismatch:
        return False
