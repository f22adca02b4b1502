"""Everything that choosing settings for a registered model needs, loaded and checked."""

from __future__ import annotations

from dataclasses import dataclass

from saeuron_guard.discovery.workbench import Workbench
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.load import load_calibration_judge
from saeuron_guard.pipelines.load import load_pipeline
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.resources import inside
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class Setup:
    """A workbench with the calibration prompts and judge; the model's SAEs, hookpoints and scoring runs by SAE name."""

    bench: Workbench
    coders: dict[str, SparseCoder]
    hookpoints: dict[str, str]
    runs: dict[str, str]


def set_up(
    registry: FeatureRegistry, model: str, prompts: str, judge: str, *, method: str = "paper", batch_size: int = 16
) -> Setup:
    """Load the registered ``model``, its SAEs, the calibration prompt set and the judge.

    Raises RegistryError for unknown names, ArtefactError for files that are not as pinned, CannotEvaluate when an SAE
    has no scoring run by ``method``.
    """
    saes = registry.saes(model)
    runs = {run.sae: run.name for run in registry.runs() if run.method == method}
    if missing := [sae.name for sae in saes if sae.name not in runs]:
        raise CannotEvaluate(f"SAE {missing[0]!r} has no scoring run by method {method!r}; run sae score first")
    bench = Workbench(
        load_pipeline(model, registry=registry),
        registry.model(model),
        load_calibration_judge(judge, registry),
        find_prompt_set(prompts, role="calibration").prompts,
        batch_size=batch_size,
    )
    return Setup(
        bench,
        {sae.name: SparseCoder.load(inside(registry.artefact_root, sae.path), sae.digest) for sae in saes},
        {sae.name: sae.hookpoint for sae in saes},
        {sae.name: runs[sae.name] for sae in saes},
    )
