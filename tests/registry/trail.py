"""Records as people leave them in a registry, and a hand that tampers with them."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, text

from saeuron_guard.registry.database import writing
from saeuron_guard.registry.records import GuardFeature, GuardRecord, PolicyRecord, VerificationRecord
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import sae_name

ANN = Stamp("ann", "2025-03-01T12:00:00Z")
BOB = Stamp("bob", "2025-03-02T12:00:00Z")
FEATURE = f"{sae_name('object')}:0"
"""The best feature of pistol."""


def digest(character: str) -> str:
    """A digest that is easy to tell apart."""
    return "sha256:" + 64 * character


def policy_record(stamp: Stamp = ANN, **changes: str) -> PolicyRecord:
    """A policy; ``changes`` replace some fields."""
    values = {"digest": digest("a"), "name": "no-pistol", "version": "1.0.0", "owner": "tests", "file": "p.yaml"}
    return PolicyRecord(**{**values, "by": stamp.by, "when": stamp.when, **changes})


def guard_record(registry: FeatureRegistry, stamp: Stamp = ANN, character: str = "b", index: int = 0) -> GuardRecord:
    """A guard of that policy, built on one feature of the registry's SAE for objects."""
    sae = registry.sae(sae_name("object"))
    return GuardRecord(
        digest=digest(character),
        policy_digest=digest("a"),
        model="tiny",
        fingerprint=digest("f"),
        features=(GuardFeature(sae.name, sae.digest, index, "pistol", 1.5),),
        by=stamp.by,
        when=stamp.when,
    )


def verification_record(stamp: Stamp = BOB, verdict: str = "pass") -> VerificationRecord:
    """A verification of that guard."""
    return VerificationRecord(
        guard_digest=digest("b"),
        policy_digest=digest("a"),
        verdict=verdict,
        exit_code=0 if verdict == "pass" else 1,
        judge="tiny-clip",
        judge_digest=digest("c"),
        seeds=(1, 2),
        images=8,
        figures={"ua": 0.1 + 0.2, "ira": None, "concepts": [{"concept": "pistol", "n": 4}]},
        by=stamp.by,
        when=stamp.when,
    )


def unprotect(connection: Connection) -> None:
    """Drop the triggers that refuse changes of events, as somebody with all rights may."""
    if connection.dialect.name == "sqlite":
        for action in ("update", "delete", "replace"):
            connection.execute(text(f"DROP TRIGGER events_refuse_{action}"))
    else:
        for action in ("update", "delete", "truncate"):
            connection.execute(text(f"DROP TRIGGER events_refuse_{action} ON events"))


def tamper(engine: Engine, *statements: str, protected: bool = False) -> None:
    """Execute SQL as somebody with all rights; first without the triggers unless ``protected``."""
    with writing(engine) as connection:
        if not protected:
            unprotect(connection)
        for statement in statements:
            connection.execute(text(statement))
