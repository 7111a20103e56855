"""A device that hangs: from the last result before to the first after, by the delegate that the tests are made with.

python -m scripts.benchmarks.failover MODEL SLOW_MS STATE   one hang; STATE `cold` or `warm`: what was proven before
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.contest import OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import tell
from scripts.benchmarks.setting import ROOT, model, scratch

TITLE = "Failover: a hanging delegate, and the next result"
MAX_S = 2.0
SOURCE = ROOT / "tests/delegate/fault_delegate.c"
FRAMES_BEFORE = 50
FRAME_S = 0.02

_CASES = {
    f"{title}, {state} state": (name, slow_ms, state)
    for title, name, slow_ms in (
        ("MobileNet v1 0.25 128", "mobilenet_v1_0.25_128_quant.tflite", 0),
        ("ResNet8, a device of 300 ms", "mlperf_tiny/ic_resnet8_fp32.tflite", 300),
    )
    for state in ("cold", "warm")
}


def measure(rounds: int) -> list[Row]:
    if shutil.which("cc") is None:
        raise SystemExit("scripts/bench: failover needs a C compiler, for the delegate of the tests")
    rows: list[Row] = []
    for case, (name, slow_ms, state) in _CASES.items():
        rows += take_turns(
            rounds,
            case,
            {
                OURS: lambda name=name, slow_ms=slow_ms, state=state: fresh(
                    "failover", model(name), slow_ms, state, _library()
                )
            },
        )
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    return [
        Line(case, "time without a result", of(rows, case, OURS, "s"), unit="s", at_most=MAX_S) for case in cases(rows)
    ]


def run(file: Path, slow_ms: int, state: str, library: Path) -> dict[str, float]:
    """Seconds from the last result of the delegate to the first of the CPU."""
    folder = Path.cwd() / f"failover-{os.getpid()}"
    os.environ["EDGEINFER_STATE"] = str(folder)
    hangs = folder / "hangs"
    _write_ladder(
        folder / "devices", f"litert:delegate={library},claim=all,fault=hang,slow_ms={slow_ms},only_if={hangs}"
    )
    try:
        if state == "warm":
            _one_life(file, None)
        return {"s": _one_life(file, hangs)}
    finally:
        shutil.rmtree(folder)


def _one_life(file: Path, hangs: Path | None) -> float:
    from edgeinfer.board import Roots, recognise_board
    from edgeinfer.bundle.load import read_model_file
    from edgeinfer.delegates import open_device

    nothing = Path("/nonexistent")
    board = recognise_board(Roots(sys=nothing, proc=nothing, dev=nothing))
    runtime = open_device(read_model_file(file), "auto", threads=1, board=board)
    last_s = 0.0
    for _ in range(FRAMES_BEFORE):
        runtime.input()[...] = 0
        runtime.run()
        last_s = time.monotonic()
        time.sleep(FRAME_S)
    if hangs is not None:
        hangs.touch()
        runtime.input()[...] = 0
        runtime.run()
        assert runtime.device == "litert:cpu", runtime.device
    took_s = time.monotonic() - last_s
    runtime.close()
    return took_s


def _write_ladder(folder: Path, first: str) -> None:
    """A board on which `auto` takes that device first."""
    folder.mkdir(parents=True)
    lines = ['schema = "edgeinfer.device/1"', 'name = "generic"', 'title = "Failover"', "[ladder]"]
    (folder / "generic.toml").write_text("\n".join([*lines, f'tflite = ["{first}", "litert:cpu"]\n']))


def _library() -> Path:
    library = scratch() / "fault_delegate.so"
    if not library.exists():
        subprocess.run(["cc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-o", library, SOURCE, "-lm"], check=True)
    return library


if __name__ == "__main__":
    _file, _slow_ms, _state, _lib = sys.argv[1:]
    tell(run(Path(_file), int(_slow_ms), _state, Path(_lib)))
