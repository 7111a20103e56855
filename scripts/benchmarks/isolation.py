"""What it costs to run a model in a worker process: the same model here and there, in turns.

    python -m scripts.benchmarks.isolation [--rounds N] [--json]

A frame is one input written and one run, on one thread. The cost is how much longer the median frame of a round takes
in the worker than here, and of that the median over the rounds. CPU time is that of both processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.runtimes import Runtime, RuntimeOptions
from edgeinfer.runtimes.isolated import Isolated
from edgeinfer.runtimes.litert import open_litert

ROOT = Path(__file__).parents[2]
SSD = ROOT / "../shared/testdata/models/ssd_mobilenet_v1_coco.tflite"
HERE, WORKER = "here", "worker"
FIGURES = ("p50_us", "p90_us", "cpu_us")

ROUNDS = 20
DEADLINE_S = 20.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """frames: of a round. fps: as a camera gives them, with pauses between; 0 is one right after the other."""

    title: str
    file: ModelFile
    frames: int
    fps: int = 0


def measure(rounds: int) -> list[Row]:
    """For each case, round and place the FIGURES of a frame; every other round begins in the worker."""
    with tempfile.TemporaryDirectory() as folder:
        return [row for case in _cases(Path(folder)) for row in _measure_case(case, rounds)]


def _cases(folder: Path) -> Iterator[Case]:
    echo = _echo(folder / "echo.tflite")
    yield Case("echo, 300x300x3", echo, frames=200)
    yield Case("echo, 300x300x3, 30 fps", echo, frames=20, fps=30)
    if SSD.is_file():
        ssd = read_model_file(SSD)
        yield Case("SSD MobileNet v1, 300x300x3", ssd, frames=20)
        yield Case("SSD MobileNet v1, 300x300x3, 10 fps", ssd, frames=10, fps=10)


def _echo(path: Path) -> ModelFile:
    """A model that gives back its input: what is measured is all but the kernels."""
    sys.path.append(str(ROOT / "tests"))  # The tests know how to write a model.
    from tiny_models import tflite_model

    path.write_bytes(tflite_model("uint8", (1, 300, 300, 3)))
    return read_model_file(path)


def _measure_case(case: Case, rounds: int) -> Iterator[Row]:
    options = RuntimeOptions(threads=1, paced=case.fps > 0)
    with ExitStack() as stack:
        here = stack.enter_context(closing(open_litert(case.file, "cpu", options)))
        there = stack.enter_context(closing(Isolated(case.file, "litert", "cpu", options, deadline_s=DEADLINE_S)))
        places: list[tuple[str, Runtime]] = [(HERE, here), (WORKER, there)]
        pixels = np.random.default_rng(0).integers(0, 256, here.inputs[0].shape, dtype=np.uint8)
        for _, runtime in places:
            _time_frames(case, runtime, pixels)  # The first runs are slower.
        for number in range(rounds):
            for where, runtime in places if number % 2 == 0 else reversed(places):
                begun_s = _cpu_s(there)
                took_us = _time_frames(case, runtime, pixels)
                cpu_us = (_cpu_s(there) - begun_s) * 1e6 / case.frames
                figures = zip(FIGURES, (median(took_us), quantiles(took_us, n=10)[-1], cpu_us), strict=True)
                row = {"case": case.title, "round": number, "where": where, "frames": case.frames}
                yield row | {name: round(value, 1) for name, value in figures}


def _time_frames(case: Case, runtime: Runtime, pixels: np.ndarray) -> list[float]:
    took_us = []
    for _ in range(case.frames):
        begun_s = time.perf_counter()
        runtime.input()[...] = pixels
        runtime.run()
        took_s = time.perf_counter() - begun_s
        took_us.append(took_s * 1e6)
        if case.fps:
            time.sleep(max(0.0, 1 / case.fps - took_s))
    return took_us


def _cpu_s(worker: Isolated) -> float:
    """CPU time of this process, and of the worker's by the number that Linux has for another process's clock."""
    return time.process_time() + time.clock_gettime(~worker._worker.pid << 3 | 2)


def _table(rows: list[Row]) -> Iterator[str]:
    yield f"{'':36}{HERE:>8}{'':18}{WORKER:>10}"
    yield f"{'microseconds a frame':36}{'p50':>8}{'p90':>9}{'CPU':>9}{'p50':>10}{'p90':>9}{'CPU':>9}{'cost':>8}"
    for title in dict.fromkeys(row["case"] for row in rows):
        here, there = ([row for row in rows if (row["case"], row["where"]) == (title, at)] for at in (HERE, WORKER))
        figures = [median(row[name] for row in side) for side in (here, there) for name in FIGURES]
        cost = median(worker["p50_us"] - own["p50_us"] for own, worker in zip(here, there, strict=True))
        yield f"{title:36}" + "{:8.0f}{:9.0f}{:9.0f}{:10.0f}{:9.0f}{:9.0f}{:8.0f}".format(*figures, cost)


def main() -> None:
    parser = argparse.ArgumentParser(prog="isolation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="the figures of every round instead of the table")
    words = parser.parse_args()
    rows = measure(words.rounds)
    print(json.dumps(rows) if words.json else "\n".join(_table(rows)))


if __name__ == "__main__":
    main()
