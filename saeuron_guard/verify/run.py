"""The release check: draw audit prompts without and with the guard, judge both, count, evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.interface import Judge
from saeuron_guard.judges.load import audit_judge, load_judge
from saeuron_guard.pipelines.load import load_pipeline
from saeuron_guard.policy.model import Policy
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.prompts.model import PromptSet
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.verify.drawing import Progress, draw_pairs
from saeuron_guard.verify.figures import RetainFigures, concept_figures, retain_figures, set_figures
from saeuron_guard.verify.judging import check_labels, judge_pairs, quality_of
from saeuron_guard.verify.plan import AuditPlan, make_plan, retained_shots
from saeuron_guard.verify.policy_tests import run_tests
from saeuron_guard.verify.result import Pinned, VerifyResult

_LIBRARIES = ("saeuron-guard", "torch", "diffusers", "transformers", "open_clip_torch")


def run_verify(
    policy: Policy,
    registry: FeatureRegistry,
    *,
    pipe: Any = None,
    judge: Judge | str | Path | None = None,
    prompts: PromptSet | str | Path | None = None,
    seeds: Sequence[int] | None = None,
    max_per_concept: int | None = None,
    max_retain: int | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
) -> VerifyResult:
    """Verify that the compiled ``policy`` removes its concepts and harms nothing that it retains.

    Each audit prompt and seed is drawn twice from the same noise, without and with the guard, with the model's
    registered steps, guidance and scheduler. Defaults come from the policy (prompts, seeds) and the registry (the
    model's pipeline, the audit judge); ``plan.make_plan`` says what the two limits do.

    Raises CannotEvaluate when a part is not fit for the purpose, GuardNotEffective when the guard did not run, and
    the errors of compiling, loading and reading; never returns figures of images that were not drawn as described.
    """
    progress = on_progress or _silent
    config = compile_policy(policy, registry)
    audit = _audit_prompts(policy, prompts)
    plan = make_plan(policy, audit, seeds or policy.audit.seeds, max_per_concept=max_per_concept, max_retain=max_retain)
    judged_by = _judge(judge, registry)
    domains = {rule.concept: registry.concept(rule.concept).domain for rule in policy.concepts}
    check_labels(judged_by, plan.shots, domains)
    pipeline = pipe if pipe is not None else load_pipeline(policy.model, registry=registry)
    drawing = draw_pairs(pipeline, registry, config, plan.shots, progress)
    prompt_sets = _retained_sets(policy, seeds, max_retain, judged_by, _Drawing(pipeline, registry, config, progress))
    tests = run_tests(pipeline, registry, config, policy.tests, progress)
    progress("judging", 0, 1)
    pairs = judge_pairs(judged_by, plan.shots, drawing.images)
    quality = quality_of(judged_by, plan.shots, drawing.images)
    progress("judging", 1, 1)
    minimum = policy.audit.minimum_n
    inside, outside = _retained_domains(policy, registry, frozenset(domains.values()))
    return VerifyResult(
        policy=Pinned(policy.name, policy.digest),
        policy_version=policy.version,
        guard_digest=config.digest,
        model=config.model,
        model_fingerprint=config.model_fingerprint,
        judge=Pinned(judged_by.name, judged_by.digest),
        prompts=Pinned(audit.name, audit.digest),
        seeds=tuple(dict.fromkeys(seeds or policy.audit.seeds)),
        concepts=tuple(concept_figures(rule, domains[rule.concept], minimum, pairs) for rule in policy.concepts),
        ira=retain_figures("ira", policy.retain, inside, minimum, pairs),
        cra=retain_figures("cra", policy.retain, outside, minimum, pairs),
        quality=quality,
        pairs=pairs,
        prompt_sets=prompt_sets,
        tests=tests,
        waivers=policy.waivers,
        notes=(
            *_notes(policy, audit, seeds, plan, other_prompts=prompts is not None and prompts != policy.audit.prompts),
            *_untested(policy, registry),
        ),
        strict=strict,
        guard_report=drawing.report,
        versions=_versions(),
        images=drawing.images,
    )


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What it takes to draw pairs."""

    pipe: Any
    registry: FeatureRegistry
    config: GuardConfig
    progress: Progress


def _retained_sets(
    policy: Policy, seeds: Sequence[int] | None, max_retain: int | None, judge: Judge, drawing: _Drawing
) -> tuple[RetainFigures, ...]:
    """Draw and judge each prompt set that the policy retains."""
    found = []
    for name in policy.retain.prompts:
        prompts = _fit_for_audit(find_prompt_set(name, near=Path(policy.file).parent, role="audit"), policy)
        shots = retained_shots(policy, prompts, seeds or policy.audit.seeds, max_retain=max_retain)
        check_labels(judge, shots, {})
        images = draw_pairs(drawing.pipe, drawing.registry, drawing.config, shots, drawing.progress).images
        pairs = judge_pairs(judge, shots, images)
        found.append(set_figures(name, policy.retain, policy.audit.minimum_n, pairs))
    return tuple(found)


def _untested(policy: Policy, registry: FeatureRegistry) -> Iterator[str]:
    """Where the model's registered sampling is not what the policy says it was tested with."""
    model, tested = registry.model(policy.model), policy.tested
    if tested.schedulers and model.scheduler not in tested.schedulers:
        yield f"drawn with {model.scheduler}, but the policy was tested with {', '.join(tested.schedulers)}"
    if tested.steps and not tested.steps[0] <= model.steps <= tested.steps[1]:
        yield f"drawn in {model.steps} steps, but the policy was tested with {tested.steps[0]} to {tested.steps[1]}"


def _audit_prompts(policy: Policy, prompts: PromptSet | str | Path | None) -> PromptSet:
    """The prompt set to draw: the policy's is sought from its folder, one given instead from the current folder."""
    if prompts is None:
        found = find_prompt_set(policy.audit.prompts, near=Path(policy.file).parent, role="audit")
    elif isinstance(prompts, PromptSet):
        found = prompts
    else:
        found = find_prompt_set(str(prompts), role="audit")
    return _fit_for_audit(found, policy)


def _fit_for_audit(found: PromptSet, policy: Policy) -> PromptSet:
    """``found``, or CannotEvaluate when its prompts cannot judge the policy."""
    if found.role != "audit":
        raise CannotEvaluate(
            f"prompt set {found.name!r} has the role {found.role!r}: its prompts helped to find or choose the guard's "
            "features and cannot judge it; give one with the role 'audit'"
        )
    if found.model != policy.model:
        raise CannotEvaluate(f"prompt set {found.name!r} is for model {found.model!r}, the policy for {policy.model!r}")
    return found


def _judge(judge: Judge | str | Path | None, registry: FeatureRegistry) -> Judge:
    if judge is None:
        judge = audit_judge(registry).name
    if not isinstance(judge, str | Path):
        return judge
    if any(record.name == str(judge) and record.role != "audit" for record in registry.judges()):
        raise CannotEvaluate(f"judge {judge} chose the guard's settings, so it cannot judge them; use an audit judge")
    return load_judge(judge, registry)


def _retained_domains(
    policy: Policy, registry: FeatureRegistry, removed: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """The domains in which the policy retains something, split into those it removes from and all others."""
    retained = {*policy.retain.domains, *(registry.concept(name).domain for name in policy.retain.concepts)}
    return frozenset(retained & removed), frozenset(retained - removed)


def _notes(
    policy: Policy, audit: PromptSet, seeds: Sequence[int] | None, plan: AuditPlan, *, other_prompts: bool
) -> tuple[str, ...]:
    """What was done otherwise than the policy says; a reader who takes this for the release check should know."""
    notes = []
    if plan.skipped:
        notes.append(f"--max-images-per-concept left out {plan.skipped} pairs of target images")
    if seeds is not None and set(seeds) != set(policy.audit.seeds):
        notes.append(f"seeds {_list(seeds)} instead of the policy's {_list(policy.audit.seeds)}")
    if other_prompts:
        notes.append(f"prompt set {audit.name!r} instead of the policy's {policy.audit.prompts!r}")
    return tuple(notes)


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def _versions() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed as a package"
    return versions


def _silent(_stage: str, _done: int, _total: int) -> None:
    return None
