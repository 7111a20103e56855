"""A camera of 5 fps must cost five frames' work a second: no spinning, no polling.

    python -m scripts.benchmarks.paced bare|ours CASE MODEL      one contender, once

The bare loop takes the same drawn pictures as fast as it can, which gives the CPU time of a frame; ours takes them
from a live source. Neither's ONNX Runtime spins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from scripts.benchmarks import setting
from scripts.benchmarks.contest import BARE, OURS, Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import tell
from scripts.benchmarks.throughput import CASES, bare_loop, open_bare, run_ours

if TYPE_CHECKING:
    import numpy as np

TITLE = "A source of 5 frames per second"
FPS, CPU_MAX = 5, 1.10
WIDTH, HEIGHT = 640, 480
BARE_FRAMES, OURS_FRAMES, QUICK_FRAMES = 200, 75, 30
_KEYS = ("ssd-432p", "yolox", "mobilenet-v1")


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for key in _KEYS:
        model = setting.model(CASES[key].model)
        fresh("paced", OURS, key, model, QUICK_FRAMES)  # The first start proves the model.
        frames = {BARE: BARE_FRAMES, OURS: QUICK_FRAMES if setting.SETTING.quick else OURS_FRAMES}
        contenders = {
            who: lambda who=who, key=key, model=model, count=count: fresh("paced", who, key, model, count)
            for who, count in frames.items()
        }
        rows += take_turns(rounds, CASES[key].title.partition(",")[0], contenders)
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        bare = [FPS * each for each in of(rows, case, BARE, "cpu_ms")]
        cpu_ms, fps = of(rows, case, OURS, "cpu_ms"), of(rows, case, OURS, "fps")
        ours = [each * rate for each, rate in zip(cpu_ms, fps, strict=True)]
        ratios = [one / other for one, other in zip(ours, bare, strict=True)]
        middle = {"ours": median(ours), "bare": median(bare)}
        lines.append(Line(case, "CPU per second", ratios, unit="ms", at_most=CPU_MAX, **middle))
    return lines


def run_bare(key: str, model: Path, frames: int) -> dict[str, float]:
    """Drawn as the source draws it, but into the buffers that go round."""
    from edgeinfer.clock import Clock
    from edgeinfer.sources.options import SourceOptions
    from edgeinfer.sources.synthetic import card_box, open_synthetic

    word = f"synthetic://test-card?width={WIDTH}&height={HEIGHT}&frames=1"
    frame = open_synthetic(word, SourceOptions(), Clock()).read()
    assert frame is not None
    card, index = frame.pixels, 0

    def read(picture: np.ndarray) -> bool:
        nonlocal index
        picture[:] = card
        x_min, y_min, x_max, y_max = card_box(index, WIDTH, HEIGHT)
        picture[y_min:y_max, x_min:x_max] = 255
        index += 1
        return True

    return bare_loop(read, open_bare(CASES[key], model, WIDTH, HEIGHT, spin=False), WIDTH, HEIGHT, frames)


def run_live(key: str, model: Path, frames: int) -> dict[str, float]:
    return run_ours(CASES[key], model, f"synthetic://test-card?width={WIDTH}&height={HEIGHT}&fps={FPS}", frames)


if __name__ == "__main__":
    _who, _key, _model, _frames = sys.argv[1:]
    tell((run_bare if _who == BARE else run_live)(_key, Path(_model), int(_frames)))
