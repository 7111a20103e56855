"""The main job, shown: a model over a source, and what it saw and how fast in plain words."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from local_broker import NoBroker, any_broker, running

import edgeinfer

MODEL = "blood-cells"
SOURCE = "synthetic://blood-smear?frames=300"
OUTPUTS = ("demo.jsonl", "demo.mp4")
FRAMES = 300
TIME_LIMIT_S = 45.0
LINE_EVERY_S = 0.1
BROKER_MAY_TAKE_S = 10.0
LABELS_SHOWN = 8
STAGES = ("preprocess", "infer", "decode")


@dataclass
class Tally:
    """What went by so far. `total` counts labels over all frames, `most` how many there were in one."""

    frames: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    total: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    timing_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*STAGES, "age"), 0.0))
    latest: edgeinfer.Result | None = None

    def add(self, result: edgeinfer.Result, now_s: float) -> None:
        if self.frames == 0:
            self.first_s = now_s
        self.frames += 1
        self.last_s = now_s
        self.latest = result
        here = labels_in(result)
        self.total.update(here)
        self.most |= here
        for name in self.timing_ms:
            self.timing_ms[name] += getattr(result.timing_ms, name)

    @property
    def fps(self) -> float:
        """Frames per second between the first result and the last; the model's loading is left out."""
        took_s = self.last_s - self.first_s
        return (self.frames - 1) / took_s if took_s > 0 else 0.0


def labels_in(result: edgeinfer.Result) -> Counter[str]:
    """How many of each label are in one picture; of a whole picture's classes only the best."""
    found = result.detections or (result.classes or ())[:1]
    return Counter(one.label for one in found)


def main() -> int:
    wanted = arguments()
    # A demo that is told to stop still closes its video.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally()
    line = ProgressLine()
    status = 0
    heard = ""
    try:
        with listening(wanted) as audience:
            for result in results(wanted):
                tally.add(result, time.monotonic())
                line.show(tally, result)
                if wanted.frames is None and tally.last_s - tally.first_s > TIME_LIMIT_S:
                    break
            if audience is not None:
                audience.wait_for(tally.frames)
                heard = f"Broker  {audience.url} passed {audience.results} results on to a subscriber"
    except KeyboardInterrupt:
        status = 130
    except (edgeinfer.EdgeInferError, NoBroker) as error:
        line.clear()
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_code if isinstance(error, edgeinfer.EdgeInferError) else 1
    line.clear()
    if tally.latest is not None:
        print(summary(tally, tally.latest, wanted.model))
    if heard:
        print(heard)
    return status


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Runs a model over a source; writes demo.jsonl and demo.mp4 here."
    )
    parser.add_argument("where", nargs="?", metavar="SOURCE", help="camera, file or stream, as in /dev/video0")
    parser.add_argument("--model", default=MODEL, help="file, folder or name (default: %(default)s)")
    parser.add_argument("--source", default=SOURCE, help="the same as SOURCE (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="as in litert:cpu or onnx:cpu (default: %(default)s)")
    parser.add_argument("--frames", type=int, help=f"how many (default: {FRAMES}, for at most {TIME_LIMIT_S:.0f} s)")
    parser.add_argument(
        "--mqtt",
        nargs="?",
        const="",
        metavar="URL",
        help="send the results to this broker, or without a URL to one of the demo's own, and say what comes out of it",
    )
    wanted = parser.parse_args()
    wanted.source = wanted.where or wanted.source
    return wanted


def results(wanted: argparse.Namespace) -> Iterator[edgeinfer.Result]:
    """The run itself; closed, outputs and all, when the loop over it ends."""
    frames = FRAMES if wanted.frames is None else wanted.frames
    outputs = OUTPUTS if wanted.mqtt is None else (*OUTPUTS, wanted.mqtt)
    run = edgeinfer.run(wanted.model, wanted.source, device=wanted.device, outputs=outputs, frames=frames)
    with closing(run):
        yield from run


@contextmanager
def listening(wanted: argparse.Namespace) -> Iterator[Audience | None]:
    """Somebody at the broker, which is begun here where no URL says where one is; None where none is wanted."""
    if wanted.mqtt is None:
        yield None
        return
    with ExitStack() as stack:
        if not wanted.mqtt:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="edgeinfer-demo-")))
            # A spool of the demo's own, which takes its room on the disk at once.
            os.environ["EDGEINFER_STATE"] = str(folder / "state")
            wanted.mqtt = stack.enter_context(running(any_broker(folder))).url
        audience = Audience(wanted.mqtt)
        stack.callback(audience.leave)
        yield audience


class Audience:
    """Another program, as it were, that takes what the broker gives it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.results = 0
        self._consumer = edgeinfer.Consumer(url, acknowledge=False)
        self._thread = threading.Thread(target=self._consumer.run, args=(self._take,), daemon=True)
        self._thread.start()

    def _take(self, message: Any) -> None:
        self.results += message.channel == "result"

    def wait_for(self, count: int) -> None:
        """Until so many results came, for some seconds at most."""
        deadline_s = time.monotonic() + BROKER_MAY_TAKE_S
        while self.results < count and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def leave(self) -> None:
        self._consumer.stop()
        self._thread.join(BROKER_MAY_TAKE_S)


class ProgressLine:
    """One line that is written over, ten times a second, and only where a person looks."""

    def __init__(self) -> None:
        self._shown_s = 0.0
        self._is_seen = sys.stderr.isatty()

    def show(self, tally: Tally, result: edgeinfer.Result) -> None:
        if not self._is_seen or tally.last_s - self._shown_s < LINE_EVERY_S:
            return
        self._shown_s = tally.last_s
        here = ", ".join(f"{count} {label}" for label, count in labels_in(result).most_common()) or "nothing"
        line = f"{tally.frames} frames, {tally.fps:.1f} per second: {here}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_seen:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def summary(tally: Tally, result: edgeinfer.Result, model: str) -> str:
    folder = Path.cwd()
    return "\n".join(
        [
            f"{result.model.name} looked at {tally.frames} frames of {result.source.uri}",
            f"({result.source.width} x {result.source.height} pixels) and saw in each of them:",
            *sights(tally),
            f"Speed   {speed(tally, is_live=result.position_s is None)}",
            f"Device  {result.device}",
            f"Files   {folder / 'demo.jsonl'}  one result per line",
            f"        {folder / 'demo.mp4'}  the frames, with what was seen drawn in",
            "Next",
            *(f"        {line}" for line in what_next(model)),
        ]
    )


def sights(tally: Tally) -> list[str]:
    if not tally.total:
        return ["        nothing that the model is sure enough of"]
    shown = tally.total.most_common(LABELS_SHOWN)
    wide = max(len(label) for label, _ in shown)
    lines = [
        f"        {label:{wide}}  {count / tally.frames:6.2f} on average, at most {tally.most[label]}"
        for label, count in shown
    ]
    rest = len(tally.total) - len(shown)
    return [*lines, f"        and {rest} rarer labels"] if rest else lines


def speed(tally: Tally, *, is_live: bool) -> str:
    """A file's frames wait for one another, so that only a live source's age says anything."""
    mean_ms = {name: total_ms / tally.frames for name, total_ms in tally.timing_ms.items()}
    stages = ", ".join(f"{stage} {mean_ms[stage]:.2f}" for stage in STAGES)
    work_ms = sum(mean_ms[stage] for stage in STAGES)
    text = f"{tally.fps:.1f} frames per second; {work_ms:.2f} ms of work per frame ({stages})"
    return f"{text}; a result is there {mean_ms['age']:.1f} ms after its picture" if is_live else text


def what_next(model: str) -> list[str]:
    edgeinfer_command = relpath(Path(sys.executable).parent / "edgeinfer")
    model = shlex.quote(model)
    return [
        f"{edgeinfer_command} run --model {model} --source /dev/video0 --output seen.jsonl",
        f"{edgeinfer_command} inspect {model}",
        f"{edgeinfer_command} run --help",
    ]


if __name__ == "__main__":
    sys.exit(main())
