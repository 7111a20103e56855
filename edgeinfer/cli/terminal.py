"""The live line of a run, and logs that do not run into it."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Sequence

from edgeinfer.pipeline import Pipeline, Report
from edgeinfer.result import Result

_CLEAR_LINE = "\r\x1b[K"
_RATE_OVER_S = 2.0


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only for type checkers in 3.10
    """Logs to stderr as `edgeinfer: level: message`; on a terminal the live line gives way."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._clear = _CLEAR_LINE if sys.stderr.isatty() else ""
        self.setFormatter(logging.Formatter("edgeinfer: %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            text = text.replace("edgeinfer: ", f"edgeinfer: {record.levelname.lower()}: ", 1)
        return self._clear + text


def configure_logging(*, quiet: bool, debug: bool) -> None:
    """Logs of this package to stderr: warnings, unless quiet also what it chose, with debug everything."""
    logger = logging.getLogger("edgeinfer")
    logger.handlers[:] = [LogHandler()]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


class LiveLine:
    """One line on the terminal that shows how the pipelines are doing; nothing where stderr is no terminal."""

    def __init__(self, pipelines: Sequence[Pipeline], *, quiet: bool) -> None:
        self.is_shown = not quiet and sys.stderr.isatty()
        self._pipelines = pipelines
        self._marks: list[tuple[float, int]] = []

    def draw(self) -> None:
        if self.is_shown:
            width = shutil.get_terminal_size().columns
            sys.stderr.write(_CLEAR_LINE + self._text()[: width - 1])
            sys.stderr.flush()

    def clear(self) -> None:
        if self.is_shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()

    def _text(self) -> str:
        frames = sum(pipeline.tally["inferred"] for pipeline in self._pipelines)
        parts = [f"{frames} frames", f"{self._fps(frames):.1f} fps"]
        for pipeline in self._pipelines:
            prefix = f"{pipeline.name}: " if len(self._pipelines) > 1 else ""
            if pipeline.state.startswith("degraded"):
                parts.append(f"{prefix}{pipeline.state}")
            elif pipeline.latest is not None:
                parts.append(f"{prefix}{pipeline.latest.timing_ms.age:.0f} ms old, {summary(pipeline.latest)}")
        return " | ".join(parts)

    def _fps(self, frames: int) -> float:
        now = time.monotonic()
        self._marks.append((now, frames))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_OVER_S:
            self._marks.pop(0)
        first, first_frames = self._marks[0]
        return (frames - first_frames) / (now - first) if now > first else 0.0


def summary(result: Result) -> str:
    """What a result says, in a few words: `3 RBC, 1 WBC` or `tabby 0.68`."""
    if result.classes is not None:
        return ", ".join(f"{found.label} {found.score:.2f}" for found in result.classes[:2]) or "nothing"
    counts: dict[str, int] = {}
    for detection in result.detections or ():
        counts[detection.label] = counts.get(detection.label, 0) + 1
    return ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "nothing"


def closing_line(name: str, device: str, report: Report) -> str:
    """How a run went, in one line."""
    fps = report.frames / report.elapsed_s if report.elapsed_s > 0 else 0.0
    stages = ", ".join(f"{stage} {mean:.2f}" for stage, mean in report.stage_ms.items())
    parts = [f"{name}: {report.frames} frames in {report.elapsed_s:.1f} s, {fps:.1f} fps on {device} (ms: {stages})"]
    if report.dropped:
        parts.append("dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(report.dropped.items())))
    if report.skipped:
        names = ", ".join(f"{name} ({reason})" for name, reason in list(report.skipped.items())[:3])
        more = ", …" if len(report.skipped) > 3 else ""
        parts.append(f"skipped {len(report.skipped)}: {names}{more}")
    return "; ".join(parts)
