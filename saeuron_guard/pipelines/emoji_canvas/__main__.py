"""``python -m saeuron_guard.pipelines.emoji_canvas``: build the embedded model, or one stage of it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from saeuron_guard.errors import SaeuronGuardError
from saeuron_guard.pipelines.emoji_canvas.stages import STAGES
from saeuron_guard.pipelines.emoji_canvas.workspace import Workspace
from saeuron_guard.resources import data_folder


def main() -> int:
    """Run the wanted stages in order; a stage that was stopped goes on from its last checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m saeuron_guard.pipelines.emoji_canvas",
        description="Build EmojiCanvas, the model that ships with saeuron-guard: about three hours on two cores.",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all, if none is named")
    parser.add_argument("--work", type=Path, default=Path("build/emoji-canvas"), help="folder of intermediate files")
    parser.add_argument("--registry", type=Path, help="folder to write the results to; the shipped one if left out")
    options = parser.parse_args()
    if unknown := [stage for stage in options.stages if stage not in STAGES]:
        parser.error(f"unknown stage {unknown[0]!r}; expected one of {', '.join(STAGES)}")
    started = time.monotonic()

    def log(line: str) -> None:
        sys.stderr.write(f"[{(time.monotonic() - started) / 60:5.1f} min] {line}\n")
        sys.stderr.flush()

    try:
        space = Workspace(options.work, options.registry or data_folder("registry"), log)
        for stage in STAGES:
            if not options.stages or stage in options.stages:
                STAGES[stage](space)
    except SaeuronGuardError as error:
        log(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        log("stopped; the same command goes on from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
