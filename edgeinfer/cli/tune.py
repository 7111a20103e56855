"""`edgeinfer tune`: measure every way to run a model here, check each, and keep the plan that `run` goes by."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from edgeinfer.board import recognise_board
from edgeinfer.bundle import Bundle, load_bundle
from edgeinfer.cli.arguments import add_model_arguments, flag_of, number, stated_flags
from edgeinfer.cli.terminal import ProgressBar, configure_logging, show
from edgeinfer.clock import rfc3339
from edgeinfer.config import PipelineConfig
from edgeinfer.delegates import load_golden
from edgeinfer.delegates.choose import open_rung
from edgeinfer.delegates.installed import runtime_versions
from edgeinfer.delegates.ladder import Rung
from edgeinfer.delegates.plan import Goal, Plan, board_key, write_plan
from edgeinfer.delegates.trial import Refused
from edgeinfer.delegates.tune import Measure, Progress, Round, Trial, tune, ways
from edgeinfer.errors import DeviceNotFound, OutputError, RuntimeFailed, UsageError
from edgeinfer.model import Model, format_for
from edgeinfer.pipeline.assemble import open_fitted, overrides_of
from edgeinfer.pipeline.rehearsal import HISS, REEL, open_rehearsal, rehearsal_of, rehearse
from edgeinfer.sources import Source
from edgeinfer.tomlfile import convert

log = logging.getLogger(__name__)

_SCHEMA = "edgeinfer.tune/1"
_BUDGET_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="M", help="a .tflite or .onnx file, a bundle folder, or the name of a bundle")
    add(
        "--source",
        metavar="S",
        help=f"what is read meanwhile: a video, pictures, a camera, a recording; else {REEL}, or {HISS}",
    )
    add("--by", choices=("fps", "p90"), help="what is best: frames per second (default), or the p90 latency of a frame")
    add("--device", metavar="D", default="auto", help="only what this word means: cpu, gpu, onnx:cpu, …")
    add("--seconds", metavar="T", type=number, default=_BUDGET_S, help="about how long to measure, default %(default)g")
    add("--labels", metavar="FILE", help="names of the classes, one a line")
    add("--json", action="store_true", help="print one JSON object")
    add("--quiet", action="store_true", help="no progress bar")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=True, debug=arguments.debug)
    if not 1 <= arguments.seconds <= 86_400:
        raise UsageError(f"--seconds: {arguments.seconds:g} is not between 1 and 86400")
    config = convert({"source": "reel:", **stated_flags(arguments)}, PipelineConfig, UsageError, name=flag_of)
    bundle = load_bundle(config.model, overrides_of(config), prefer=format_for(config.device))
    board = recognise_board()
    source: Callable[[], Source] = (
        partial(open_fitted, config, bundle) if arguments.source else partial(open_rehearsal, bundle)
    )
    goal: Goal = arguments.by or ("p90" if _is_live(source) else "fps")
    if goal == "fps" and _is_live(source):
        raise UsageError(f"--by fps: {arguments.source} sets the pace itself", hint="use --by p90, or a file as source")
    bar = ProgressBar("tuning", quiet=arguments.quiet)
    try:
        trials = tune(
            ways(bundle.file, board, config.device),
            measuring(bundle, source),
            goal=goal,
            budget_s=arguments.seconds,
            monotonic_s=time.monotonic,
            report=partial(_show_progress, bar),
        )
    finally:
        bar.clear()
    measured = [trial for trial in trials if trial.refused is None and trial.rounds]
    if not measured:
        reasons = "; ".join(f"{trial.rung.describe()}: {trial.refused}" for trial in trials) or "no device is usable"
        raise DeviceNotFound(f"nothing here runs {bundle.file.path}: {reasons}")
    plan = Plan(
        sha256=bundle.file.sha256,
        board=board_key(board),
        versions=runtime_versions(),
        ranked_by=goal,
        made_at=rfc3339(time.time_ns()),
        rows=tuple(trial.row() for trial in measured),
    )
    try:
        path = write_plan(plan)
    except OSError as unwritable:
        raise OutputError(f"the plan cannot be kept: {unwritable}", hint="name a folder in EDGEINFER_STATE") from None
    if arguments.json:
        facts = _facts(bundle, plan, trials, arguments.source or rehearsal_of(bundle))
        show(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
    else:
        show("\n".join(_table(bundle, trials, plan)))
        show(f"kept in {path}; run goes by it")
    return 0


def _is_live(open_source_again: Callable[[], Source]) -> bool:
    source = open_source_again()
    source.close()
    return source.live


def measuring(bundle: Bundle, open_source_again: Callable[[], Source]) -> Measure:
    """How a way to run this model is measured: proven first, then at work in a pipeline over that source."""
    golden = load_golden(bundle)

    def measure(rung: Rung, seconds: float) -> Round:
        runtime = open_rung(bundle.file, rung, golden=golden)
        try:
            model = Model(bundle, runtime)
        except BaseException:
            runtime.close()
            raise
        try:
            rehearsed = rehearse(model, open_source_again, seconds=seconds)
        except RuntimeFailed as failed:
            raise Refused(str(failed), "device") from failed
        return Round(rehearsed.fps, rehearsed.percentile_ms(0.9))

    return measure


def _show_progress(bar: ProgressBar, progress: Progress) -> None:
    bar.draw(progress.spent_s / progress.budget_s, f"round {progress.round}: {progress.doing}")


def _table(bundle: Bundle, trials: Sequence[Trial], plan: Plan) -> list[str]:
    names = [trial.rung.describe() for trial in trials]
    width = max(len(name) for name in names)
    lines = [f"{'DEVICE':<{width}}  {'FPS':>8}  {'P90 MS':>8}  ROUNDS"]
    for name, trial in zip(names, trials, strict=True):
        if trial.refused is not None:
            lines.append(f"{name:<{width}}  refused: {trial.refused}")
        else:
            lines.append(f"{name:<{width}}  {trial.fps:>8.1f}  {trial.p90_ms:>8.2f}  {len(trial.rounds):>6}")
    goal = f"{bundle.counted_in} per second" if plan.ranked_by == "fps" else "p90 latency"
    return [*lines, "", f"Best by {goal}: {names[0]}"]


def _facts(bundle: Bundle, plan: Plan, trials: Sequence[Trial], source: str) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "model": str(bundle.file.path),
        "source": source,
        "plan": plan,
        "rounds": [
            {
                "device": trial.rung.word,
                "threads": trial.rung.threads,
                "sleeps": trial.rung.sleeps,
                "fps": [each.fps for each in trial.rounds],
                "p90_ms": [each.p90_ms for each in trial.rounds],
            }
            for trial in trials
            if trial.rounds
        ],
        "refused": [{"device": trial.rung.describe(), "reason": trial.refused} for trial in trials if trial.refused],
    }
