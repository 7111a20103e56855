"""What a broker that swallows everything costs the pipeline: frame rate and memory beside those with a healthy one.

    python -m scripts.benchmarks.blackhole healthy|swallowing|without MODEL VIDEO FRAMES THREADS     one contender, once

The healthy one is mosquitto on loopback; the other takes connections and bytes, and never says a word. `without` runs
no uplink at all. All of a node is there: spool, connection, status and metrics.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from scripts.benchmarks import setting
from scripts.benchmarks.contest import Line, Row, cases, fresh, of, take_turns
from scripts.benchmarks.meter import Meter, resident_mib, tell
from scripts.benchmarks.throughput import CASES, QUICK_FRAMES, warm_up
from scripts.local_broker import NoBroker, mosquitto, running

TITLE = "A broker that swallows everything"
RATE_MIN, MEMORY_MAX_MIB = 0.98, 8.0
HEALTHY, SWALLOWING, WITHOUT = "healthy", "swallowing", "without"
# So many frames that a run takes some seconds.
_FRAMES = {"ssd-432p": 400, "mobilenet-v2": 700}


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for key, full in _FRAMES.items():
        case = CASES[key]
        model, video = setting.model(case.model), setting.video(case.video)
        frames = QUICK_FRAMES if setting.SETTING.quick else full
        words = (model, video, frames, setting.threads(model))
        fresh("blackhole", WITHOUT, model, video, QUICK_FRAMES, 0)  # The first start proves the model, and is slower.
        contenders = {
            who: lambda who=who, words=words: fresh("blackhole", who, *words) for who in (HEALTHY, SWALLOWING, WITHOUT)
        }
        rows += take_turns(rounds, case.title, contenders)
    return rows


def judge(rows: Sequence[Row]) -> list[Line]:
    lines = []
    for case in cases(rows):
        fps = {who: of(rows, case, who, "fps") for who in (HEALTHY, SWALLOWING, WITHOUT)}
        to_healthy = [one / other for one, other in zip(fps[SWALLOWING], fps[HEALTHY], strict=True)]
        to_none = [one / other for one, other in zip(fps[SWALLOWING], fps[WITHOUT], strict=True)]
        grown = of(rows, case, SWALLOWING, "grown_mib")
        lines.append(Line(case, "frame rate to that with a healthy broker", to_healthy, at_least=RATE_MIN))
        lines.append(Line(case, "frame rate to that without an uplink", to_none))
        lines.append(Line(case, "memory grown after the warm-up", grown, unit="MiB", at_most=MEMORY_MAX_MIB))
    return lines


def run(who: str, model: Path, video: Path, frames: int, threads: int) -> dict[str, float]:
    """Frames per second of the steady state, and how much memory grew during it."""
    from edgeinfer.config import Config, PipelineConfig, UplinkConfig
    from edgeinfer.node import Node

    with _broker(who) as url:
        pipeline = PipelineConfig(
            model=str(model), source=str(video), output=("results.jsonl",), frames=frames, threads=threads or None
        )
        uplink = None if url is None else UplinkConfig(url=url)
        with closing(Node(Config(pipeline=(pipeline,), uplink=uplink))) as node:
            running_pipeline = node.pipelines[0]
            meter = Meter(lambda: running_pipeline.tally["inferred"], warm_up=warm_up(frames))
            begun_mib: list[float] = []
            node.start()

            def ended_within(seconds: float) -> bool:
                if not begun_mib and running_pipeline.tally["inferred"] >= frames // 2:
                    begun_mib.append(resident_mib())
                return running_pipeline.wait(seconds)

            meter.watch(ended_within)
            if (error := running_pipeline.report().error) is not None:
                raise error
            grown = resident_mib() - begun_mib[0] if begun_mib else 0.0
            return {**meter.figures(), "grown_mib": grown}


@contextmanager
def _broker(who: str) -> Iterator[str | None]:
    if who == WITHOUT:
        yield None
    elif who == SWALLOWING:
        with _swallowing() as port:
            yield f"mqtt://127.0.0.1:{port}"
    else:
        try:
            with running(mosquitto(Path.cwd())) as broker:
                yield broker.url
        except NoBroker as missing:
            raise SystemExit(f"scripts/bench: {missing}") from missing


@contextmanager
def _swallowing() -> Iterator[int]:
    """A port at which connections are taken and all bytes read."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def swallow() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_read_all, args=(connection,), daemon=True).start()

        threading.Thread(target=swallow, daemon=True).start()
        yield server.getsockname()[1]


def _read_all(connection: socket.socket) -> None:
    with connection:
        while connection.recv(65536):
            pass


if __name__ == "__main__":
    _who, _model, _video, _frames, _threads = sys.argv[1:]
    tell(run(_who, Path(_model), Path(_video), int(_frames), int(_threads)))
