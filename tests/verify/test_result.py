"""The JSON of a result keeps what scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys

from saeuron_guard.verify.metrics import PairCounts
from tests.verify.samples import concept_of, result_of

CONCEPT_KEYS = {
    "concept", "domain", "n", "base_rate", "guarded_rate", "ua", "ua_low", "ua_high", "threshold", "passed",
}  # fmt: skip


def test_json_has_the_promised_keys_and_values() -> None:
    """All keys of the contract are there, and hold the figures."""
    value = json.loads(json.dumps(result_of().to_json(), allow_nan=False))
    assert (value["verdict"], value["exit_code"]) == ("pass", 0)
    assert value["policy"].keys() >= {"name", "version", "digest"}
    assert value["guard"]["digest"].startswith("sha256:")
    assert value["model"] == "tiny"
    assert value["judge"].keys() == {"name", "digest"}
    assert value["retain"].keys() == {"ira", "cra", "prompts"}
    assert value["retain"]["ira"].keys() >= {"value", "low", "high", "base", "n"}
    assert value["quality"] == {"clip_score": 31.5, "clip_score_base": 32.0, "cmmd": 0.125}
    assert (value["seeds"], value["images"], len(value["pairs"])) == ([1], 4, 2)
    (concept,) = value["concepts"]
    assert concept.keys() >= CONCEPT_KEYS
    assert (concept["ua"], concept["base_rate"], concept["guarded_rate"], concept["passed"]) == (1.0, 1.0, 0.0, True)
    assert 0.9 < concept["ua_low"] < concept["ua_high"] == 1.0
    assert concept["became"] == {"skull": 30, "car": 10}
    assert concept["survival"] == {"n": 40, "base": 1.0, "value": 1.0}


def test_json_without_images_has_nulls_instead_of_made_up_figures() -> None:
    """A concept without images has no rates, and neither passed nor failed."""
    nothing = concept_of(n=0, base_shown=0, became=(), survival=PairCounts())
    value = result_of(concepts=(nothing,)).to_json()
    assert all(value["concepts"][0][key] is None for key in ("ua", "ua_low", "base_rate", "guarded_rate", "passed"))
    assert value["exit_code"] == 3


def test_reading_results_needs_no_torch() -> None:
    """Reports and their scripts answer without the weight of torch."""
    code = (
        "import sys, saeuron_guard.report.html, saeuron_guard.report.text, saeuron_guard.report.json\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
