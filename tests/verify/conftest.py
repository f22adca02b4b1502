from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from saeuron_guard.registry.store import FeatureRegistry
from tests.verify.world import RememberingJudge, judge_of, random_pipeline, write_registry


@pytest.fixture(scope="module")
def pipe() -> Any:
    """One pipeline for all tests: whoever guards it must leave it as it was."""
    return random_pipeline()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, pipe: Any) -> Iterator[FeatureRegistry]:
    """The registry of that pipeline."""
    with FeatureRegistry.open(manifest=write_registry(tmp_path_factory.mktemp("registry"), pipe)) as opened:
        yield opened


@pytest.fixture(scope="module")
def judge(pipe: Any, registry: FeatureRegistry) -> RememberingJudge:
    """A judge that recognises the unguarded images."""
    return judge_of(pipe, registry.model("tiny"))
