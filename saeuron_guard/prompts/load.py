"""From a prompt set's file to a validated, frozen ``PromptSet``, or to all that is wrong with the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saeuron_guard.digests import digest_of
from saeuron_guard.documents import Document, document_problems, draft_document
from saeuron_guard.errors import Problem, PromptSetError
from saeuron_guard.prompts.expand import LARGEST_SET, Expansion, template_mistakes
from saeuron_guard.prompts.model import Prompt, PromptSet
from saeuron_guard.prompts.schema import prompt_set_schema
from saeuron_guard.resources import data_folder
from saeuron_guard.strict_yaml import Pointer
from saeuron_guard.wording import did_you_mean, one_of, pointer_text, quote


def load_prompt_set(path: str | Path) -> PromptSet:
    """Read, check and expand a prompt set; raises PromptSetError with every problem of the file."""
    document = draft_document(Path(path), error=PromptSetError)
    problems = document_problems(document, prompt_set_schema(), "PromptSet")
    if not problems:
        problems = list(_expansion_mistakes(document))
    if problems:
        raise PromptSetError(problems)
    drafts = list(_drafts(document))
    problems = [*_repeated_texts(document, drafts), *_repeated_ids(document, drafts)]
    if not drafts:
        problems = [document.key_problem(("expand",), "no prompt is left after 'except'")]
    if problems:
        raise PromptSetError(problems)
    return _prompt_set(document, drafts)


def find_prompt_set(name_or_path: str, *, near: Path | None = None, role: str | None = None) -> PromptSet:
    """The prompt set of a shipped name (``audit/emoji-canvas``, or ``emoji-canvas`` with ``role``) or of a path.

    What ends in ``.yaml`` or ``.yml`` is a path, sought from the folder ``near`` and then from the current one.
    Raises PromptSetError when there is no such set, when a name fits several, or when the set is not of ``role``.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        found = load_prompt_set(_path_of(name_or_path, near))
    else:
        found = load_prompt_set(_shipped(name_or_path, role))
    if role is not None and found.role != role:
        message = f"this prompt set's role is {found.role}; expected one whose role is {role}"
        raise PromptSetError([Problem(name_or_path, 0, 0, message)])
    return found


def _path_of(name: str, near: Path | None) -> Path:
    places = [Path(name)] if near is None else [near / name, Path(name)]
    existing = [place for place in places if place.exists()]
    if existing:
        return existing[0]
    looked = one_of(dict.fromkeys(str(place) for place in places))
    raise PromptSetError([Problem(name, 0, 0, f"there is no such prompt set (looked at {looked})")])


def _shipped(name: str, role: str | None) -> Path:
    folder = data_folder("policies") / "prompts"
    shipped = {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.yaml"))}
    fitting = [full for full in shipped if name in {full, full.partition("/")[2]}]
    if role is not None and len(fitting) > 1:
        fitting = [full for full in fitting if full.startswith(f"{role}/")]
    if len(fitting) == 1:
        return shipped[fitting[0]]
    if fitting:
        message = f"several prompt sets have this name; say which: {one_of(fitting)}"
    else:
        hint = did_you_mean(name, shipped) or (f" Shipped are {', '.join(shipped)}." if shipped else "")
        message = f"no prompt set of this name is shipped; a path ends in .yaml.{hint}"
    raise PromptSetError([Problem(name, 0, 0, message)])


@dataclass(frozen=True, slots=True)
class _Draft:
    """A prompt and where the document says so; its id is made or written, its text the document's at ``pointer``."""

    id: str
    text: str
    labels: dict[str, str]
    pointer: Pointer
    id_pointer: Pointer


def _expansion_mistakes(document: Document) -> Iterator[Problem]:
    for position, entry in enumerate(document.value.get("expand", ())):
        here: Pointer = ("expand", position)
        expansion = Expansion.from_value(entry)
        domains = tuple(expansion.labels)
        for number, template in enumerate(expansion.templates):
            for mistake in template_mistakes(template, domains):
                yield document.problem((*here, "templates", number), mistake)
        yield from _exception_mistakes(document, (*here, "except"), expansion)
    most = sum(Expansion.from_value(entry).most_prompts() for entry in document.value.get("expand", ()))
    if most > LARGEST_SET:
        yield document.key_problem(("expand",), f"makes up to {most} prompts; a set may have {LARGEST_SET}")


def _exception_mistakes(document: Document, here: Pointer, expansion: Expansion) -> Iterator[Problem]:
    """Exceptions that match nothing: a typing error there would let a combination in."""
    for number, left_out in enumerate(expansion.left_out):
        for domain, concept in left_out.items():
            pointer = (*here, number, domain)
            if domain not in expansion.labels:
                hint = did_you_mean(domain, expansion.labels) or f" Labelled here: {one_of(expansion.labels)}."
                message = f"{quote(domain)} ({pointer_text(pointer)}) is not a labelled domain.{hint}"
                yield document.key_problem(pointer, message)
            elif concept not in expansion.labels[domain]:
                hint = did_you_mean(concept, expansion.labels[domain])
                message = f"{quote(concept)} ({pointer_text(pointer)}) is none of the labels of {domain}.{hint}"
                yield document.problem(pointer, message)


def _drafts(document: Document) -> Iterator[_Draft]:
    """All prompts in the order of the file, those written out first."""
    used: Counter[str] = Counter()
    for position, entry in enumerate(document.value.get("prompts", ())):
        pointer: Pointer = ("prompts", position)
        id_pointer = (*pointer, "id") if "id" in entry else pointer
        made = entry.get("id") or _made_id(entry["labels"].values(), used)
        yield _Draft(made, entry["text"], entry["labels"], (*pointer, "text"), id_pointer)
    for position, entry in enumerate(document.value.get("expand", ())):
        expansion = Expansion.from_value(entry)
        for template, labels in expansion:
            pointer = ("expand", position, "templates", template)
            yield _Draft(_made_id(labels.values(), used), expansion.fill(template, labels), labels, pointer, pointer)


def _made_id(names: Iterable[str], used: Counter[str]) -> str:
    """``pistol-noto-1`` from the labels' names and a number that counts prompts with these labels."""
    stem = "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names) or "prompt"
    used[stem] += 1
    return f"{stem}-{used[stem]}"


def _repeated_texts(document: Document, drafts: Iterable[_Draft]) -> Iterator[Problem]:
    """Texts that are the same but for case and spaces: two would be judged as if they were independent."""
    first: dict[str, _Draft] = {}
    reported: set[Pointer] = set()
    for draft in drafts:
        earlier = first.setdefault(" ".join(draft.text.casefold().split()), draft)
        if earlier is not draft and draft.pointer not in reported:
            reported.add(draft.pointer)
            line, column = document.place(earlier.pointer)
            message = f"the text {quote(draft.text)} is there twice (first from {line}:{column}); keep one"
            yield document.problem(draft.pointer, message)


def _repeated_ids(document: Document, drafts: Iterable[_Draft]) -> Iterator[Problem]:
    first: dict[str, _Draft] = {}
    for draft in drafts:
        earlier = first.setdefault(draft.id, draft)
        if earlier is not draft:
            # A made id is not the writer's to change, so the problem goes where an id was written.
            written, other = (draft, earlier) if draft.id_pointer[-1] == "id" else (earlier, draft)
            line, column = document.place(other.id_pointer)
            message = f"the id {quote(draft.id)} is also that of the prompt from {line}:{column}; choose another"
            yield document.problem(written.id_pointer, message)


def _prompt_set(document: Document, drafts: Iterable[_Draft]) -> PromptSet:
    metadata = document.value["metadata"]
    prompts = tuple(Prompt(draft.id, draft.text, tuple(sorted(draft.labels.items()))) for draft in drafts)
    meaning = {
        "role": metadata["role"],
        "model": metadata["model"],
        "prompts": [
            {"id": prompt.id, "text": prompt.text, "labels": dict(prompt.labels)}
            for prompt in sorted(prompts, key=lambda prompt: prompt.id)
        ],
    }
    return PromptSet(metadata["name"], metadata["role"], metadata["model"], prompts, digest_of(meaning))
