"""A camera of 5 fps must cost five frames' work a second: no spinning, no polling.

    python -m scripts.benchmarks.paced bare|slow-bare|ours CASE MODEL FRAMES THREADS      one contender, once

The bare loop takes the same drawn pictures as fast as it can, which gives the CPU time of a frame; ours takes them
from a live source. Neither's ONNX Runtime spins. The bare loop at 5 fps tells what the pauses alone cost: after each of
them caches are cold.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from scripts.benchmarks import meter, setting
from scripts.benchmarks.contest import BARE, OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.throughput import CASES, bare_loop, open_bare, run_ours

if TYPE_CHECKING:
    import numpy as np

TITLE = "A source of 5 frames per second"
FPS, CPU_MAX = 5, 1.10
WIDTH, HEIGHT = 640, 480
BARE_FRAMES, PACED_FRAMES, QUICK_FRAMES = 200, 75, 30
# So seldom that looking costs nothing beside five frames.
LOOK_EVERY_S = 1.0
SLOW_BARE = "slow-bare"
_KEYS = ("ssd-432p", "yolox", "mobilenet-v1")


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for key in _KEYS:
        model = setting.model(CASES[key].model)
        fresh("paced", OURS, key, model, QUICK_FRAMES, 0)  # The first start proves the model.
        paced = QUICK_FRAMES if setting.SETTING.quick else PACED_FRAMES
        frames = {BARE: BARE_FRAMES, SLOW_BARE: paced, OURS: paced}
        contenders = {
            who: lambda who=who, key=key, model=model, count=count: fresh(
                "paced", who, key, model, count, setting.threads(model)
            )
            for who, count in frames.items()
        }
        rows += take_turns(rounds, CASES[key].title.partition(",")[0], contenders)
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        ours = _cpu_per_second(rows, case, OURS)
        busy = [FPS * each for each in of(rows, case, BARE, "cpu_ms")]
        lines.append(_line(case, "CPU per second", ours, busy, at_most=CPU_MAX))
        at_the_same_pace = _cpu_per_second(rows, case, SLOW_BARE)
        lines.append(_line(case, "to the bare loop at 5 fps", ours, at_the_same_pace, at_most=CPU_MAX))
        lines.append(_line(case, "that one to itself at full speed", at_the_same_pace, busy))
    return lines


def _cpu_per_second(rows: Sequence[Row], case: str, who: str) -> list[float]:
    cpu_ms, fps = of(rows, case, who, "cpu_ms"), of(rows, case, who, "fps")
    return [each * rate for each, rate in zip(cpu_ms, fps, strict=True)]


def _line(case: str, metric: str, ours: list[float], bare: list[float], *, at_most: float | None = None) -> Line:
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return Line(case, metric, ratios, unit="ms", at_most=at_most, ours=median(ours), bare=median(bare))


def run_bare(key: str, model: Path, frames: int, threads: int, *, pause: bool) -> dict[str, float]:
    """Drawn as the source draws it, but into the buffers that go round; with `pause` at its pace."""
    from edgeinfer.clock import Clock
    from edgeinfer.sources.options import SourceOptions
    from edgeinfer.sources.synthetic import card_box, open_synthetic

    word = f"synthetic://test-card?width={WIDTH}&height={HEIGHT}&frames=1"
    frame = open_synthetic(word, SourceOptions(), Clock()).read()
    assert frame is not None
    card, index, begun_s = frame.pixels, 0, time.monotonic()

    def read(picture: np.ndarray) -> bool:
        nonlocal index
        if pause:
            time.sleep(max(0.0, begun_s + index / FPS - time.monotonic()))
        picture[:] = card
        x_min, y_min, x_max, y_max = card_box(index, WIDTH, HEIGHT)
        picture[y_min:y_max, x_min:x_max] = 255
        index += 1
        return True

    every_s = LOOK_EVERY_S if pause else meter.LOOK_EVERY_S
    infer = open_bare(CASES[key], model, WIDTH, HEIGHT, threads, spin=False)
    return bare_loop(read, infer, WIDTH, HEIGHT, frames, look_every_s=every_s)


def run_live(key: str, model: Path, frames: int, threads: int) -> dict[str, float]:
    source = f"synthetic://test-card?width={WIDTH}&height={HEIGHT}&fps={FPS}"
    return run_ours(CASES[key], model, source, frames, threads, look_every_s=LOOK_EVERY_S)


_CONTENDERS = {BARE: partial(run_bare, pause=False), SLOW_BARE: partial(run_bare, pause=True), OURS: run_live}


if __name__ == "__main__":
    _who, _key, _model, _frames, _threads = sys.argv[1:]
    meter.tell(_CONTENDERS[_who](_key, Path(_model), int(_frames), int(_threads)))
