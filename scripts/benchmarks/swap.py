"""A model that is replaced 24 times under a camera of 30 fps, with a canary at work beside: what it costs the frames.

python -m scripts.benchmarks.swap SWAPS     that many, in this process and in a state folder of its own
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

from scripts.benchmarks.contest import OURS, Line, Row, fresh, of, take_turns
from scripts.benchmarks.meter import tell
from scripts.benchmarks.setting import ROOT, SETTING

if TYPE_CHECKING:
    from edgeinfer.node import Node
    from edgeinfer.result import Result
    from edgeinfer.updates.store import Store

TITLE = "Swap: a model replaced between two frames"
SWAPS, QUICK_SWAPS = 24, 3
RATIO_MAX = 2.0
FPS = 30
IDLE_S = 10.0
_CASE = f"{FPS} fps, blood-cells, a canary beside"
_SLOT = "cells"
_BUNDLE = ROOT / "models" / "blood-cells"
_LONGEST_S = 30.0
_NEVER_TOO_SLOW_MS = 10_000.0
# Niced, as the updater runs one, on the same model. It rests as long as it computes.
_CANARY = """
import os, sys, time
import numpy as np
from edgeinfer import load
os.nice(10)
with load(sys.argv[1], device="cpu") as model:
    while True:
        begun_s = time.monotonic()
        model(np.zeros((480, 640, 3), np.uint8))
        time.sleep(time.monotonic() - begun_s)
"""


def measure(rounds: int) -> list[Row]:
    swaps = QUICK_SWAPS if SETTING.quick else SWAPS
    return [*take_turns(rounds, _CASE, {OURS: lambda: fresh("swap", swaps)})]


def judge(rows: Sequence[Row]) -> list[Line]:
    idle, during = of(rows, _CASE, OURS, "idle_p99_ms"), of(rows, _CASE, OURS, "swap_p99_ms")
    ratios = [swap / still for swap, still in zip(during, idle, strict=True)]
    note = f"age p99 {sorted(during)[len(during) // 2]:.1f} ms, idle {sorted(idle)[len(idle) // 2]:.1f} ms"
    return [
        Line(_CASE, "frames dropped", of(rows, _CASE, OURS, "dropped"), at_most=0),
        Line(_CASE, "age p99 during a swap over idle", ratios, at_most=RATIO_MAX, note=note),
        Line(_CASE, "longest pause between results", of(rows, _CASE, OURS, "longest_ms"), unit="ms"),
    ]


def run(swaps: int, *, idle_s: float = IDLE_S) -> Row:
    """Figures of frames while a release is opened, warmed and exchanged, and of those before the first one.

    Needs $EDGEINFER_STATE. dropped: frames of the swaps; versions: of the models that answered, in their order.
    each_dropped, each_longest_ms: of each swap, the frames dropped and the longest pause between two results.
    """
    from edgeinfer.config import Config, PipelineConfig
    from edgeinfer.node import Node
    from edgeinfer.updates.store import Store

    record = _Record()
    each_dropped, each_longest_ms = [], []
    words = {"model": f"slot:{_SLOT}", "source": f"synthetic://blood-smear?fps={FPS}", "device": "cpu"}
    with tempfile.TemporaryDirectory() as folder, closing(Store()) as store:
        store.add(_BUNDLE, _SLOT)
        with (
            _canary(),
            closing(
                Node(Config(pipeline=(PipelineConfig(name="door", **words),)), sinks_for=lambda config: [record])
            ) as node,
        ):
            node.start()
            _wait(lambda: len(record.ages_ms) > FPS)
            record.is_idle = True
            time.sleep(idle_s)
            record.is_idle = False
            for release in range(1, swaps + 1):
                each_dropped.append(_swap(store, node, record, _release(Path(folder), release), release))
                each_longest_ms.append(round(record.longest_ms, 1))
    return {
        "dropped": sum(each_dropped),
        "idle_p99_ms": _p99(record.idle_ms),
        "swap_p99_ms": _p99(record.swap_ms),
        "longest_ms": max(each_longest_ms),
        "each_dropped": each_dropped,
        "each_longest_ms": each_longest_ms,
        "frames": len(record.ages_ms),
        "versions": record.versions,
    }


class _Record:
    """A sink that remembers how old results were, by what was going on. swap: while a release is being brought in."""

    uri = "record:"
    wants_pixels = False

    def __init__(self) -> None:
        self.ages_ms: list[float] = []
        self.idle_ms: list[float] = []
        self.swap_ms: list[float] = []
        self.versions: list[str] = []
        self.longest_ms = 0.0
        self.is_idle = False
        self.is_swapping = False
        self._last_s = 0.0

    def write(self, result: Result, frame: object) -> None:
        now_s, age_ms = time.monotonic(), result.timing_ms.age
        self.ages_ms.append(age_ms)
        if self.is_idle:
            self.idle_ms.append(age_ms)
        if self.is_swapping:
            self.swap_ms.append(age_ms)
            self.longest_ms = max(self.longest_ms, (now_s - self._last_s) * 1e3)
        self._last_s = now_s
        if self.versions[-1:] != [result.model.version]:
            self.versions.append(result.model.version)

    def close(self) -> None:
        pass


def _swap(store: Store, node: Node, record: _Record, bundle: Path, release: int) -> int:
    """Let a release wait, and look after it until it is kept: from when the node can begin its trial until five frames
    of it have been answered is the swap. How many frames were dropped meanwhile."""
    from edgeinfer.node.judge import ENOUGH_ANSWERS

    known = len(record.ages_ms) + ENOUGH_ANSWERS
    _wait(lambda: len(record.ages_ms) > known)
    # The same model each time: what else this machine does must not undo it.
    store.stage(bundle, _SLOT, release, trial_s=0, p95_ms=_NEVER_TOO_SLOW_MS)
    before = _dropped(node)
    record.longest_ms = 0.0
    record.is_swapping = True
    _wait(lambda: record.versions[-1] == f"swap-{release}", node)
    until = len(record.ages_ms) + 5
    _wait(lambda: len(record.ages_ms) >= until)
    record.is_swapping = False
    dropped = _dropped(node) - before
    _wait(lambda: store.state(_SLOT).step != "trial", node)
    if store.state(_SLOT).active != release:
        raise SystemExit(f"release {release} was not kept: {store.state(_SLOT).reason}")
    return dropped


def _dropped(node: Node) -> int:
    return sum(node.pipelines[0].report().dropped.values())


def _release(folder: Path, release: int) -> Path:
    """The bundle as another version."""
    from shutil import copytree

    bundle = Path(copytree(_BUNDLE, folder / f"swap-{release}"))
    manifest = bundle / "model.toml"
    lines = manifest.read_text().splitlines()
    named = [f'version = "swap-{release}"' if line.startswith("version") else line for line in lines]
    manifest.write_text("\n".join(named) + "\n")
    return bundle


@contextmanager
def _canary() -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", _CANARY, str(_BUNDLE)])
    try:
        yield
    finally:
        if child.poll() is not None:
            raise SystemExit(f"the canary ended with {child.returncode}")
        child.kill()
        child.wait()


def _wait(is_so: Callable[[], bool], node: Node | None = None) -> None:
    """Until it is so; meanwhile what the node's own thread does every two seconds is done four times a second."""
    deadline_s = time.monotonic() + _LONGEST_S
    for number in count():
        if is_so():
            return
        if time.monotonic() >= deadline_s:
            raise SystemExit("a swap took too long")
        if node is not None and number % 25 == 0 and node._models is not None:
            node._models.look()
        time.sleep(0.01)


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[-1] if len(values) > 1 else 0.0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as state:  # A slot never goes back to a release of the round before.
        os.environ["EDGEINFER_STATE"] = state
        tell(run(int(sys.argv[1])))
