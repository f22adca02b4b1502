"""How ``registry list`` and ``registry show`` look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from saeuron_guard.cli.tables import aligned

if TYPE_CHECKING:
    from saeuron_guard.registry.pages import ConceptPage, ConceptUse, FeaturePage, FeatureSummary, GroupPage, RunPage
    from saeuron_guard.registry.records import ConceptRecord, Review

_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "models": ("name", "family", "resolution", "scheduler", "steps", "guidance", "licence", "path"),
    "saes": ("name", "model", "hookpoint", "variant", "d_in", "num_latents", "k", "fvu", "dead_share", "l0"),
    "scoring_runs": ("name", "sae", "method", "statistics_path"),
    "prompt_sets": ("name", "role", "model", "digest"),
    "judges": ("name", "kind", "role", "path"),
}
_TITLES: Final = {"models": "MODELS", "saes": "SAES", "scoring_runs": "SCORING RUNS", "prompt_sets": "PROMPT SETS"}
_NUMBERS: Final = ("RESOLUTION", "STEPS", "GUIDANCE", "D_IN", "NUM_LATENTS", "K", "FVU", "DEAD_SHARE", "L0")
_FEATURE_HEADERS: Final = ("FEATURE", "RANK", "SCORE", "MEAN", "OTHERS", "FIRES", "AT", "CHOSEN AT")


def concept_table(pages: Sequence[ConceptPage]) -> list[str]:
    """One row for each operating point of each concept; the figures stand in the first row of a calibration."""
    names = sorted({name for page in pages for model in page.calibrations for name in model.calibration.figures})
    headers = ["CONCEPT", "DOMAIN", "MODEL", "HOOKPOINT", "FEATURES", "MULTIPLIER", *(name.upper() for name in names)]
    rows: list[list[str]] = []
    for page in pages:
        concept = [page.concept.name, page.concept.domain]
        if not page.calibrations:
            rows.append([*concept, "-", "not calibrated"])
        for model in page.calibrations:
            figures = [_number(model.calibration.figures.get(name)) for name in names]
            for hookpoint, point in zip(model.hookpoints, model.calibration.points, strict=True):
                settings = [model.model, hookpoint, str(point.features), _number(point.multiplier)]
                rows.append([*concept, *settings, *figures])
                concept, figures = ["", ""], []
            concept = [page.concept.name, page.concept.domain]
    return aligned(headers, rows, right=headers[4:])


def group_table(groups: Mapping[ConceptRecord, Sequence[ConceptRecord]]) -> list[str]:
    """One row for each group of concepts."""
    if not groups:
        return ["there are no groups"]
    rows = [[group.name, group.domain, ", ".join(m.name for m in members)] for group, members in groups.items()]
    return aligned(["GROUP", "DOMAIN", "MEMBERS"], rows)


def group_lines(page: GroupPage) -> Iterator[str]:
    """The page of a group: what it is, and its members' calibrations."""
    yield f"{page.concept.name} ({page.concept.domain}): {page.concept.title}, a group"
    if page.concept.description:
        yield page.concept.description
    yield ""
    yield from concept_table(page.members)


def model_tables(contents: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """A table for each kind of thing beside the concepts."""
    for position, (kind, records) in enumerate(contents.items()):
        if position:
            yield ""
        columns = _COLUMNS[kind]
        headers = [column.upper() for column in columns]
        yield f"{_TITLES.get(kind, kind.upper())} ({len(records)})"
        rows = [[_cell(record[column]) for column in columns] for record in records]
        yield from aligned(headers, rows, right=_NUMBERS)


def concept_lines(page: ConceptPage, limit: int) -> Iterator[str]:
    """The page of a concept: calibrations with figures and provenance, then each run's features."""
    yield f"{page.concept.name} ({page.concept.domain}): {page.concept.title}"
    if page.concept.description:
        yield page.concept.description
    if page.concept.aliases:
        yield f"other words for it: {', '.join(page.concept.aliases)}"
    if page.concept.parent:
        yield f"one of the group {page.concept.parent}"
    if not page.calibrations:
        yield "not calibrated: a policy cannot remove it"
    for model in page.calibrations:
        yield ""
        yield f"calibrated for {model.model}"
        for hookpoint, point in zip(model.hookpoints, model.calibration.points, strict=True):
            yield (
                f"  {hookpoint}: the {point.features} best features of {point.run} at each timestep, "
                f"multiplier {_number(point.multiplier)}"
            )
        yield f"  figures: {_pairs(model.calibration.figures)}"
        yield f"  provenance: {_pairs(model.calibration.provenance)}"
    for run in page.runs:
        yield ""
        yield from _run_lines(run, limit, page.reviews)
    if not page.runs:
        yield "no scoring run has scored it"


def feature_lines(page: FeaturePage) -> Iterator[str]:
    """The page of a feature: what it is to every concept that it scores for."""
    yield f"{page.feature}: feature of {page.sae} at {page.hookpoint} of {page.model}"
    choosers = [use.concept for use in page.uses if use.summary.chosen_at]
    yield f"edited to remove: {', '.join(choosers) or 'nothing'}"
    if not page.uses:
        yield "it is among the best features of no concept"
        return
    yield ""
    headers = ["CONCEPT", "DOMAIN", "RUN", *_FEATURE_HEADERS[1:]]
    yield from aligned(headers, [_use_row(use) for use in page.uses], right=_FEATURE_HEADERS[1:7])


def _run_lines(run: RunPage, limit: int, reviews: Mapping[str, Review]) -> Iterator[str]:
    use = "chosen by calibration" if run.point else "not used by calibration; its best features"
    yield f"{run.run} at {run.hookpoint} of {run.model}, method {run.method}: {use}"
    yield f"  provenance: {_pairs(run.provenance)}"
    rows = [
        [
            feature.feature,
            *_feature_cells(feature),
            reviews[feature.feature].verdict if feature.feature in reviews else "-",
        ]
        for feature in run.features[:limit]
    ]
    headers = [*_FEATURE_HEADERS, "REVIEW"]
    yield from (f"  {line}" for line in aligned(headers, rows, right=_FEATURE_HEADERS[1:7]))
    if len(run.features) > limit:
        yield f"  and {len(run.features) - limit} more: --features {len(run.features)} shows them"


def _use_row(use: ConceptUse) -> list[str]:
    return [use.concept, use.domain, use.run, *_feature_cells(use.summary)]


def _feature_cells(feature: FeatureSummary) -> list[str]:
    figures = (feature.score, feature.mean, feature.mean_others, feature.firing_rate)
    return [str(feature.best_rank), *map(_number, figures), str(feature.at), _span(feature.chosen_at)]


def _span(timesteps: Sequence[int]) -> str:
    if not timesteps:
        return "-"
    if len(timesteps) == 1:
        return str(timesteps[0])
    return f"{len(timesteps)} timesteps, {timesteps[0]}..{timesteps[-1]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _cell(value: object) -> str:
    """A value of a record; None is what nobody measured, and must not look like a number."""
    if value is None:
        return "unknown"
    return _number(value) if isinstance(value, float) else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(values[name])}" for name in sorted(values)) or "none"
