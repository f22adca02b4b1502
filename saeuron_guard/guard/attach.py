"""Puts a guard's hooks into a pipeline, keeps watch that they stay there, and takes them out without a trace."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from saeuron_guard.errors import GuardNotEffective, ModelMismatch, SaeuronGuardError
from saeuron_guard.guard.admission import guarded_class, is_compiled, refuse_guarded, why_not_outside
from saeuron_guard.guard.branches import RowLayout, is_guided, stacks_branches
from saeuron_guard.guard.bypass import refuse_bypasses
from saeuron_guard.guard.denoisers import Arguments, refuse_other_time
from saeuron_guard.guard.graph_runtime import GraphGeneration, GraphRuntime
from saeuron_guard.guard.recording import Record, Recorder, recorded, request_of
from saeuron_guard.guard.roster import Assignment, Roster
from saeuron_guard.guard.runtime import CAUSES, Generation, Runtime
from saeuron_guard.guard.serving import assignment_of
from saeuron_guard.guard.site import Site, block_at, device_of, is_at
from saeuron_guard.guard.succession import Succession
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.tally import Tally
from saeuron_guard.guard.telling import as_told, warn, warn_once
from saeuron_guard.guard.verdict import released
from saeuron_guard.names import GATES, REFUSALS


@dataclass(frozen=True, slots=True)
class Options:
    """How a guard is attached: ``gate`` and ``refuse`` as in ``Guard.attach``; ``recorder`` keeps what was decided."""

    gate: str = GATES[0]
    refuse: str = REFUSALS[0]
    recorder: Recorder | None = None


class Attachment:
    """One guard on one pipeline, from ``install`` to ``remove``.

    With a ``predecessor``, ``install`` puts the hooks beside that one's, which stays active until
    ``succession.hand_over``.
    ``unguarded`` counts the pipeline calls whose images were given although the guard did not run in every step: those
    of a guard without a rule that is enforced.
    """

    def __init__(
        self,
        pipe: Any,
        site: Site,
        tables: Mapping[str, HookpointTables],
        roster: Roster,
        options: Options,
        predecessor: Attachment | None = None,
    ) -> None:
        self.pipe = pipe
        self.site = site
        self.roster = roster
        self.options = options
        self.succession: Succession[Attachment] = predecessor.succession if predecessor else Succession(self)
        self.runtime = self._runtime(tables)
        self.handles: dict[str, RemovableHandle] = {}
        self.unguarded = 0
        self.stock_class: type = predecessor.stock_class if predecessor else type(pipe)
        self.watched_class: type | None = predecessor.watched_class if predecessor else None
        self._modules = dict(site.denoiser.named_modules())
        self._lock = threading.Lock()

    def _runtime(self, tables: Mapping[str, HookpointTables]) -> Runtime | GraphRuntime:
        known = stacks_branches(type(self.pipe))
        guided = functools.partial(is_guided, self.pipe) if known and self.roster.branches == "conditional" else None
        outside = why_not_outside(self.roster, logged=self.options.recorder is not None)
        layout = RowLayout(guided, stacked=known, outside=outside)
        arguments = Arguments.of(self.site.denoiser)
        if self.options.gate != "exact":
            return GraphRuntime(tables, arguments, layout)
        runtime = Runtime(tables, arguments, layout)
        runtime.acts = functools.partial(self.succession.acts, self)
        return runtime

    def install(self) -> None:
        """Put the hooks and the watch over the pipeline's calls in place."""
        former = self.succession.active
        if former is self:
            refuse_guarded(self.pipe, self.site)
        else:
            former.refuse_successor(self.site)
        denoiser, runtime = self.site.denoiser, self.runtime
        self.handles["denoiser's watch"] = denoiser.register_forward_pre_hook(self._lenient(self._watch()))
        before = self._lenient(runtime.before_denoiser())
        self.handles["denoiser's start"] = denoiser.register_forward_pre_hook(before, with_kwargs=True)
        for hookpoint, block in self.site.blocks.items():
            hook = self._lenient(runtime.at_hookpoint(hookpoint))
            self.handles[hookpoint] = block.register_forward_hook(hook)
        after = self._lenient(runtime.after_denoiser())
        self.handles["denoiser's end"] = denoiser.register_forward_hook(after, always_call=True)
        if self.watched_class is None:
            self.watched_class = guarded_class(self.stock_class, functools.partial(_run, self.succession))
            self.pipe.__class__ = self.watched_class

    def _lenient(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """``hook``; if no rule is enforced, one that only takes a note when the guard does not run as it should."""
        runtime = self.runtime
        if self.roster.enforces or not isinstance(runtime, Runtime):
            return hook

        @functools.wraps(hook)
        def noting(*args: Any, **kwargs: Any) -> Any:
            try:
                return hook(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever fails in it, watching must not cost an image
                if not runtime.note(error):
                    warn_once(f"the guard did not run, and nothing is enforced, so the call went on: {as_told(error)}")
                return None

        return noting

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
        with recorded(self.options.recorder, Record(request_of(call, pipe, args, kwargs), self.roster)) as record:
            with self._expected(record):
                record.assignment = assignment_of(self.succession, self.roster)
                self.check_in_place(pipe)
            assignment = record.assignment
            if isinstance(self.runtime, GraphRuntime):
                self.runtime.prepare(device_of(self.site.denoiser))
            with self.runtime.generation(assignment) as generation:
                record.generation = generation if isinstance(generation, Generation) else None
                generation.images.policy_of = lambda image: self.roster.chosen(assignment, image)[0]
                output = call(pipe, *args, **kwargs)
                generation.images.images = image_count(output)
            if isinstance(generation, Generation):
                record.problems += generation.problems
            with self._expected(record):
                self._check_run(pipe, generation, assignment)
            if isinstance(generation, Generation):
                with self._expected(record):
                    output = released(record, generation, output, self.options.refuse)
                self._tell(record)
        return output

    def _check_run(self, pipe: Any, generation: Generation | GraphGeneration, assignment: Assignment | None) -> None:
        """Raise GuardNotEffective unless every image was guarded as it was to be in every step."""
        self.check_in_place(pipe)
        check_steps(pipe, generation.tally)
        images = generation.images.images
        if assignment is not None and not assignment.one_for_all and images != len(assignment.numbers):
            raise GuardNotEffective(
                f"policies were given for {len(assignment.numbers)} images, and the pipeline gave "
                f"{'an unknown number' if images is None else images} of them; images are withheld. Name one policy "
                "for each image (num_images_per_prompt counts), or a single one for all."
            )

    @contextmanager
    def _expected(self, record: Record) -> Iterator[None]:
        """Withhold images by the error that comes up inside, or take a note of it if no rule is enforced."""
        try:
            yield
        except SaeuronGuardError as error:
            if self.roster.enforces:
                raise
            record.problems.append(error)

    def _tell(self, record: Record) -> None:
        """Warn of, and count, a call whose images leave in spite of problems."""
        if record.problems:
            with self._lock:
                self.unguarded += 1
            told = as_told(record.problems[0])
            warn(f"the guard did not run as it should, and nothing is enforced, so images left: {told}")

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
        moved = [name for name, block in site.blocks.items() if not is_at(site.denoiser, name, block)]
        if gone or moved:
            raise GuardNotEffective(
                f"expected {len(self.handles)} hooks in place, but found those at {', '.join(gone or moved)} "
                f"{'removed' if gone else 'on blocks that are no longer part of the model'}; images are withheld. "
                f"{CAUSES}"
            )
        refuse_bypasses(self._modules, site.blocks)
        refuse_other_time(pipe)

    def refuse_successor(self, site: Site) -> None:
        """Raise unless a guard at ``site`` can follow this one, which has to be in place itself."""
        self.check_in_place(self.pipe)
        if self.options.gate != "exact":
            raise GuardNotEffective(
                f"with the gate {self.options.gate!r} a guard is part of the model's graph; detach it and attach the "
                "other"
            )
        if site.denoiser is not self.site.denoiser:
            raise ModelMismatch(
                f"the guard is for pipe.{site.component}, the active one for pipe.{self.site.component}; detach that "
                "one and attach the other"
            )
        if is_compiled(site.denoiser):
            raise GuardNotEffective(
                f"pipe.{site.component} is compiled as a whole, and hooks that are put in now would be ignored; detach "
                "the guard, load the model anew and attach the other guard before it is compiled"
            )

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


def _run(
    succession: Succession[Attachment], pipe: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Any:
    """One call of a guarded pipeline, by the guard that is active when it begins."""
    with succession.turn() as attachment:
        return attachment.run(pipe, call, args, kwargs)


def image_count(output: Any) -> int | None:
    """How many images a pipeline call gave; None for an output without any."""
    images: Any = output[0] if isinstance(output, tuple) and output else getattr(output, "images", None)
    return len(images) if hasattr(images, "__len__") else None


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
