"""Whether the parts of a manifest agree: names are given once, and everything that is named exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from saeuron_guard.documents import Document
from saeuron_guard.errors import Problem
from saeuron_guard.registry.stamp import is_moment
from saeuron_guard.strict_yaml import Pointer
from saeuron_guard.wording import did_you_mean, pointer_text, quote

_KEYS: Final = {
    "calibrations": ("model", "concept"),
    "prompt_sets": ("role", "name"),
    "reviews": ("sae", "index", "sae_digest", "by", "why", "when", "verdict"),
}
"""What tells the entries of a list apart where it is not the name alone."""


def consistency_problems(document: Document) -> list[Problem]:
    """Where the entries of ``document``, which fits the schema, contradict each other."""
    parts = _Parts(document)
    return [
        *parts.repeated_names(),
        *parts.taxonomy_problems(),
        *parts.sae_problems(),
        *parts.reference_problems("prompt_sets", "model", "models"),
        *parts.run_problems(),
        *parts.calibration_problems(),
        *parts.judge_problems(),
        *parts.review_problems(),
    ]


class _Parts:
    """The manifest's lists, by name."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.lists: dict[str, list[dict[str, Any]]] = {
            name: entries for name, entries in document.value.items() if isinstance(entries, list)
        }

    def named(self, part: str) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in self.lists.get(part, [])}

    def repeated_names(self) -> Iterator[Problem]:
        for part, entries in self.lists.items():
            seen: dict[tuple[str, ...], int] = {}
            for position, entry in enumerate(entries):
                keys = _KEYS.get(part, ("name",))
                name = tuple(str(entry[key]) for key in keys)
                if name in seen:
                    first = pointer_text((part, seen[name]))
                    yield self.document.problem(
                        (part, position, keys[-1]), f"{' '.join(name)!r} is given twice, first as {first}; keep one"
                    )
                seen.setdefault(name, position)

    def reference_problems(self, part: str, key: str, referred: str) -> Iterator[Problem]:
        for position, entry in enumerate(self.lists.get(part, [])):
            yield from self.reference((part, position, key), entry[key], referred)

    def reference(self, pointer: Pointer, name: str, referred: str) -> Iterator[Problem]:
        known = self.named(referred)
        if name not in known:
            message = f"{quote(name)} ({pointer_text(pointer)}) is not among {referred}.{did_you_mean(name, known)}"
            yield self.document.problem(pointer, message)

    def taxonomy_problems(self) -> Iterator[Problem]:
        """Parents exist, are of the same domain and are nobody's child; an alias means one concept only."""
        concepts = self.named("concepts")
        words: dict[str, str] = dict.fromkeys(concepts, "a concept's name")
        for position, concept in enumerate(self.lists.get("concepts", [])):
            for number, alias in enumerate(concept.get("aliases", [])):
                if alias in words:
                    message = f"alias {quote(alias)} is {words[alias]} already"
                    yield self.document.problem(("concepts", position, "aliases", number), message)
                words.setdefault(alias, f"an alias of {quote(concept['name'])}")
            if "parent" in concept:
                yield from self.parent_problems(("concepts", position, "parent"), concept, concepts)

    def parent_problems(self, pointer: Pointer, concept: dict[str, Any], concepts: dict[str, Any]) -> Iterator[Problem]:
        name = concept["parent"]
        if name not in concepts:
            yield from self.reference(pointer, name, "concepts")
        elif "parent" in concepts[name]:
            yield self.document.problem(pointer, f"{quote(name)} has a parent itself; groups have one level")
        elif concepts[name]["domain"] != concept["domain"]:
            domain = quote(concepts[name]["domain"])
            yield self.document.problem(pointer, f"{quote(name)} is of domain {domain}, not {quote(concept['domain'])}")

    def sae_problems(self) -> Iterator[Problem]:
        """An SAE's model exists, its width is that of the hookpoint if that was measured, and k is possible."""
        yield from self.reference_problems("saes", "model", "models")
        models = self.named("models")
        for position, sae in enumerate(self.lists.get("saes", [])):
            if sae["k"] > sae["num_latents"]:
                yield self.document.problem(
                    ("saes", position, "k"), f"expected at most num_latents = {sae['num_latents']}, got {sae['k']}"
                )
            width = models.get(sae["model"], {}).get("hookpoints", {}).get(sae["hookpoint"], sae["d_in"])
            if sae["d_in"] != width:
                message = f"expected {width}, the width of {sae['hookpoint']} of {sae['model']}, got {sae['d_in']}"
                yield self.document.problem(("saes", position, "d_in"), message)

    def run_problems(self) -> Iterator[Problem]:
        yield from self.reference_problems("scoring_runs", "sae", "saes")
        for position, run in enumerate(self.lists.get("scoring_runs", [])):
            if run["timesteps"] != sorted(run["timesteps"], reverse=True):
                yield self.document.problem(
                    ("scoring_runs", position, "timesteps"), "timesteps count down: write the largest first"
                )

    def calibration_problems(self) -> Iterator[Problem]:
        yield from self.reference_problems("calibrations", "concept", "concepts")
        yield from self.reference_problems("calibrations", "model", "models")
        groups = {concept["parent"] for concept in self.lists.get("concepts", []) if "parent" in concept}
        for position, calibration in enumerate(self.lists.get("calibrations", [])):
            if calibration["concept"] in groups:
                message = f"{quote(calibration['concept'])} is a group; calibrate its members"
                yield self.document.problem(("calibrations", position, "concept"), message)
            used: set[str] = set()
            for number, point in enumerate(calibration["points"]):
                pointer = ("calibrations", position, "points", number)
                yield from self.point_problems(pointer, point, calibration["model"])
                if point["sae"] in used:
                    yield self.document.problem((*pointer, "sae"), f"{quote(point['sae'])} has two points; keep one")
                used.add(point["sae"])

    def point_problems(self, pointer: Pointer, point: dict[str, Any], model: str) -> Iterator[Problem]:
        unknown = [
            *self.reference((*pointer, "sae"), point["sae"], "saes"),
            *self.reference((*pointer, "run"), point["run"], "scoring_runs"),
        ]
        yield from unknown
        if unknown:
            return
        run, sae = self.named("scoring_runs")[point["run"]], self.named("saes")[point["sae"]]
        if run["sae"] != point["sae"]:
            message = f"run {quote(point['run'])} scored {quote(run['sae'])}, not {quote(point['sae'])}"
            yield self.document.problem((*pointer, "run"), message)
        if sae["model"] != model:
            message = f"{quote(point['sae'])} belongs to model {quote(sae['model'])}, not {quote(model)}"
            yield self.document.problem((*pointer, "sae"), message)
        if point["features"] > sae["num_latents"]:
            message = f"expected at most num_latents = {sae['num_latents']}, got {point['features']}"
            yield self.document.problem((*pointer, "features"), message)

    def judge_problems(self) -> Iterator[Problem]:
        concepts = self.named("concepts")
        for position, judge in enumerate(self.lists.get("judges", [])):
            for domain, names in judge["labels"].items():
                for number, name in enumerate(names):
                    pointer = ("judges", position, "labels", domain, number)
                    if name not in concepts:
                        yield from self.reference(pointer, name, "concepts")
                    elif concepts[name]["domain"] != domain:
                        message = f"{quote(name)} is of domain {quote(concepts[name]['domain'])}, not {quote(domain)}"
                        yield self.document.problem(pointer, message)

    def review_problems(self) -> Iterator[Problem]:
        """Times exist, and so does the feature; a review of an SAE that is gone or was another one stays as it is."""
        saes = self.named("saes")
        for position, review in enumerate(self.lists.get("reviews", [])):
            if not is_moment(review["when"]):
                message = f"there is no such time: {quote(review['when'])}"
                yield self.document.problem(("reviews", position, "when"), message)
            sae = saes.get(review["sae"])
            if sae and sae["digest"] == review["sae_digest"] and review["index"] >= sae["num_latents"]:
                message = f"{sae['name']} has features 0 to {sae['num_latents'] - 1}, got {review['index']}"
                yield self.document.problem(("reviews", position, "index"), message)
