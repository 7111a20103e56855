"""Whether `edgeinfer tune` finds the best way to run a model: held against a search that measures all ways alike.

The search takes place in two halves, one before the tuning and one after it, so that a machine that changes meanwhile
does so for both. What was chosen is judged by what the search measured of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from scripts.benchmarks.contest import MAY_TAKE_S, Line, Row, cases, environment, fresh
from scripts.benchmarks.setting import SETTING, model, scratch

TITLE = "Tuning, beside an exhaustive search"
MODELS = {
    "SSD MobileNet v1": "ssd_mobilenet_v1_coco.tflite",
    "MobileNet v1 0.25 128": "mobilenet_v1_0.25_128_quant.tflite",
    "YOLOX nano, ONNX": "yolox_nano.onnx",
}
TUNING_S, TUNING_QUICK_S = 25, 3
ROUND_S, ROUND_QUICK_S = 1.5, 0.3
SHARE_MIN = 0.95
"""Of the best way's frames per second."""


def measure(rounds: int) -> list[Row]:
    return [row for title, name in MODELS.items() for row in _measure_model(title, model(name), rounds)]


def judge(rows: Sequence[Row]) -> list[Line]:
    return [line for case in cases(rows) for line in _judge_case(case, [row for row in rows if row["case"] == case])]


def _measure_model(title: str, path: Path, rounds: int) -> Iterator[Row]:
    halves = (rounds - rounds // 2, rounds // 2)
    yield from ({"case": title, **row} for row in _search(path, halves[0], first=0))
    yield {"case": title, "round": 0, "who": "tune", "chose": _tune(path)}
    yield from ({"case": title, **row} for row in _search(path, halves[1], first=halves[0]))


def _search(path: Path, rounds: int, *, first: int) -> list[Row]:
    seconds = ROUND_QUICK_S if SETTING.quick else ROUND_S
    return list(fresh("search", path, rounds, first, seconds)["rows"]) if rounds else []


def _tune(path: Path) -> str:
    seconds = TUNING_QUICK_S if SETTING.quick else TUNING_S
    command = [sys.executable, "-m", "edgeinfer", "tune", str(path), "--json", "--quiet", "--seconds", str(seconds)]
    done = subprocess.run(
        command, cwd=scratch(), env=environment(), capture_output=True, text=True, timeout=MAY_TAKE_S, check=True
    )
    best = json.loads(done.stdout)["plan"]["rows"][0]
    return _way(best["device"], best["threads"], sleeps=best["sleeps"])


def _judge_case(case: str, rows: Sequence[Row]) -> Iterator[Line]:
    (chosen,) = (row["chose"] for row in rows if row["who"] == "tune")
    ways: dict[str, list[float]] = {}
    for row in rows:
        if row["who"] != "tune":
            ways.setdefault(row["who"], []).append(row["fps"])
    best = max(ways, key=lambda way: median(ways[way]))
    shares = [own / other for own, other in zip(ways[chosen], ways[best], strict=True)]
    yield Line(
        case,
        "fps to the best way's",
        shares,
        ours=median(ways[chosen]),
        bare=median(ways[best]),
        at_least=SHARE_MIN,
        note=f"tuned: {chosen}; best of {len(ways)}: {best}",
    )


def _way(word: str, threads: int | None, *, sleeps: bool) -> str:
    return f"{word}, {threads or 'own'} threads{', sleeping' if sleeps else ''}"


def _rows(path: Path, rounds: int, first: int, seconds: float) -> Iterator[Row]:
    """Every way once a round, each round beginning with another one."""
    from edgeinfer.board import recognise_board
    from edgeinfer.bundle import load_bundle
    from edgeinfer.cli.tune import measuring
    from edgeinfer.delegates.trial import Refused
    from edgeinfer.delegates.tune import ways
    from edgeinfer.pipeline.rehearsal import Reel

    bundle = load_bundle(str(path))
    measured = measuring(bundle, partial(Reel))
    rungs = list(ways(bundle.file, recognise_board()))
    refused = set()
    for number in range(first, first + rounds):
        for rung in (*rungs[number % len(rungs) :], *rungs[: number % len(rungs)]):
            if rung in refused:
                continue
            try:
                fps = measured(rung, seconds).fps
            except Refused:
                refused.add(rung)
                continue
            yield {"round": number, "who": _way(rung.word, rung.threads, sleeps=rung.sleeps), "fps": round(fps, 2)}


def main() -> None:
    path, rounds, first, seconds = sys.argv[1:]
    print(json.dumps({"rows": list(_rows(Path(path), int(rounds), int(first), float(seconds)))}))


if __name__ == "__main__":
    main()
