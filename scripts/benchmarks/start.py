"""How long a user waits: for `--help`, and for the first result of a video, beyond what Python and imports take."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from scripts.benchmarks import setting
from scripts.benchmarks.contest import BARE, OURS, Line, Row, cases, environment, of, take_turns

TITLE = "Start"
HELP_MAX_MS, FIRST_RESULT_MAX_MS = 60.0, 600.0

_HELP, _FIRST = "edgeinfer --help", "run, to the first result of a video (LiteRT)"
_LIMITS = {_HELP: HELP_MAX_MS, _FIRST: FIRST_RESULT_MAX_MS}
_IMPORTS = "import numpy, cv2; from ai_edge_litert.interpreter import Interpreter"


def measure(rounds: int) -> list[Row]:
    """The model has run here before: its proof, some seconds at the very first start, is remembered."""
    model, video = setting.model("ssd_mobilenet_v1_coco.tflite"), setting.video("432p")
    first = ["-m", "edgeinfer", "run", "--model", str(model), "--source", str(video), "-o", "-", "--quiet"]
    commands = {
        _HELP: {BARE: ["-c", "pass"], OURS: ["-m", "edgeinfer", "--help"]},
        _FIRST: {BARE: ["-c", _IMPORTS], OURS: first},
    }
    rows: list[Row] = []
    for case, words in commands.items():
        for command in words.values():
            _time(command, first_line=command is first)  # The files are in the kernel's memory now.
        contenders = {
            who: lambda command=command: {"ms": _time(command, first_line=command is first)}
            for who, command in words.items()
        }
        rows += take_turns(rounds, case, contenders)
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        ours, bare = of(rows, case, OURS, "ms"), of(rows, case, BARE, "ms")
        above = [one - other for one, other in zip(ours, bare, strict=True)]
        middle = {"ours": median(ours), "bare": median(bare)}
        lines.append(Line(case, "time above bare", above, unit="ms", at_most=_LIMITS[case], **middle))
    return lines


def _time(words: Sequence[str], *, first_line: bool) -> float:
    """Milliseconds until the process has ended, or until its first line."""
    begun_s = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=setting.scratch(),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline() if first_line else process.stdout.read()
        if not first_line:
            process.wait()
        took_s = time.perf_counter() - begun_s
        process.terminate()
    if first_line and not said:
        raise SystemExit(f"python {' '.join(words)} gave no result")
    return took_s * 1e3
