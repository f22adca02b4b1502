"""What becomes of the images of a pipeline call that ended well: given, given with a warning, or refused."""

from __future__ import annotations

from typing import Any

from saeuron_guard.errors import GuardNotEffective, ImageRefused
from saeuron_guard.guard.presence import Present, present_in
from saeuron_guard.guard.recording import Record
from saeuron_guard.guard.refusal import with_blanks
from saeuron_guard.guard.runtime import Generation
from saeuron_guard.guard.telling import warn


def released(record: Record, generation: Generation, output: Any, refuse: str) -> Any:
    """``output`` without the images that a policy refuses; warns of those that it warns of.

    ``refuse``: one of ``names.REFUSALS``.
    Raises ImageRefused in place of all images, and GuardNotEffective when images cannot be told apart.
    """
    present = _present(record, generation) if record.roster.looks_at_images else {}
    refused = {
        image: tuple(found.concept for found in concepts if found.refused)
        for image, concepts in present.items()
        if any(found.refused for found in concepts)
    }
    generation.images.refused = refused
    _warn_of(record, present)
    if refused and refuse == "error":
        told = _refusal(record, refused, present)
        raise ImageRefused(
            f"{told}. No image of this call is given; attach the guard with refuse='blank' to get the others", refused
        )
    if refused and generation.images.images is None:
        raise GuardNotEffective(
            f"{_refusal(record, refused, present)}, and the pipeline gave something else than images, which cannot be "
            "blanked; it is withheld"
        )
    if refuse == "error" or generation.images.images is None:
        return output
    return with_blanks(output, refused)


def _present(record: Record, generation: Generation) -> dict[int, tuple[Present, ...]]:
    """The concepts that are present in each image, by the policy that the image has."""
    reports = record.reports()
    if not reports and generation.images.images != 0:
        raise GuardNotEffective(
            "the rows of the model's calls are no multiple of the pipeline's images, so single images cannot be judged "
            "by rules that refuse or warn; images are withheld. Make one image a call."
        )
    found = {}
    for report in reports:
        _, config = record.roster.chosen(record.assignment, report.index)
        if config is not None:
            found[report.index] = present_in(config, [(one.concept, one.positions) for one in report.concepts])
    return found


def _warn_of(record: Record, present: dict[int, tuple[Present, ...]]) -> None:
    for image, concepts in present.items():
        if warned := [str(found) for found in concepts if found.warned]:
            name, config = record.roster.chosen(record.assignment, image)
            policy = config.policy_name if config else name
            warn(f"policy {policy} warns of image {image}: {', '.join(warned)}")


def _refusal(record: Record, refused: dict[int, tuple[str, ...]], present: dict[int, tuple[Present, ...]]) -> str:
    told = []
    for image in refused:
        _, config = record.roster.chosen(record.assignment, image)
        concepts = ", ".join(str(found) for found in present[image] if found.refused)
        told.append(f"policy {config.policy_name if config else ''} refuses image {image}: {concepts}")
    return "; ".join(told)
