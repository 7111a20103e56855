"""The live line of a run, and logs that do not run into it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeinfer.errors import OutputError
from edgeinfer.result import Result

if TYPE_CHECKING:
    # Of no use to a command that runs no pipeline, and long to load.
    from edgeinfer.pipeline import Pipeline, Report

_CLEAR_LINE = "\r\x1b[K"
_RATE_OVER_S = 2.0
_COLUMNS_WHEN_UNKNOWN = 80
_BAR_COLUMNS = 30


def plain(text: str) -> str:
    """The text with each control character as its code: a label or a file name must not steer the terminal."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def cut(text: str, columns: int) -> str:
    """As much of the text as fits into so many columns of a terminal, where some signs take two and some none."""
    used = 0
    for index, sign in enumerate(text):
        used += 0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        if used > columns:
            return text[:index]
    return text


def show(text: str) -> None:
    """Print lines for a person on stdout. Raises OutputError."""
    try:
        print("\n".join(plain(line) for line in text.split("\n")), flush=True)
    except BrokenPipeError:
        raise
    except OSError as failed:
        raise OutputError(f"cannot write to stdout: {failed.strerror}") from failed


class _Formatter(logging.Formatter):
    """One line for a person; only a traceback takes more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"edgeinfer: {level}{plain(' '.join(record.message.split()))}"


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only for type checkers in 3.10
    """Logs to stderr as `edgeinfer: level: message`; on a terminal the live line gives way."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._clear = _CLEAR_LINE if sys.stderr.isatty() else ""
        self.setFormatter(_Formatter())

    def format(self, record: logging.LogRecord) -> str:
        return self._clear + super().format(record)


def configure_logging(*, quiet: bool, debug: bool) -> None:
    """Logs of this package to stderr: warnings, unless quiet also what it chose, with debug everything."""
    logger = logging.getLogger("edgeinfer")
    logger.handlers[:] = [LogHandler()]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


class LiveLine:
    """One line on the terminal that shows how the pipelines are doing; nothing where stderr is no terminal."""

    def __init__(self, pipelines: Callable[[], Sequence[Pipeline]], *, quiet: bool) -> None:
        self.is_shown = not quiet and sys.stderr.isatty()
        self._pipelines = pipelines
        self._marks: list[tuple[float, int]] = []

    def draw(self) -> None:
        """Show how it stands now."""
        if self.is_shown:
            _write_stderr(_CLEAR_LINE + cut(plain(self._text()), _columns() - 1))

    def clear(self) -> None:
        """Take the line away."""
        if self.is_shown:
            _write_stderr(_CLEAR_LINE)

    def _text(self) -> str:
        pipelines = self._pipelines()
        counts = dict.fromkeys((pipeline.counted_in for pipeline in pipelines), 0) or {"frames": 0}
        for pipeline in pipelines:
            counts[pipeline.counted_in] += pipeline.tally["inferred"] + pipeline.tally["gated"]
        done = ", ".join(f"{count} {name}" for name, count in counts.items())
        parts = [done, _rate(self._each_s(sum(counts.values())), *counts)]
        for pipeline in pipelines:
            prefix = f"{pipeline.name}: " if len(pipelines) > 1 else ""
            if pipeline.state.startswith(("degraded", "down", "paused")):
                parts.append(f"{prefix}{pipeline.state}")
            elif pipeline.latest is not None:
                parts.append(f"{prefix}{pipeline.latest.timing_ms.age:.0f} ms old, {summary(pipeline.latest)}")
                if pipeline.latest.inferred_age_ms is not None:
                    parts[-1] += f", unchanged for {pipeline.latest.inferred_age_ms / 1000:.1f} s"
        return " | ".join(parts)

    def _each_s(self, done: int) -> float:
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_OVER_S:
            self._marks.pop(0)
        first, first_done = self._marks[0]
        return (done - first_done) / (now - first) if now > first else 0.0


class ProgressBar:
    """How far a long job is, on the terminal; nothing where stderr is no terminal."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._is_shown = not quiet and sys.stderr.isatty()

    def draw(self, share: float, doing: str) -> None:
        """share: 0..1, more counts as 1."""
        if self._is_shown:
            filled = round(min(max(share, 0.0), 1.0) * _BAR_COLUMNS)
            bar = "#" * filled + "." * (_BAR_COLUMNS - filled)
            _write_stderr(_CLEAR_LINE + cut(plain(f"{self._title} [{bar}] {doing}"), _columns() - 1))

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            _write_stderr(_CLEAR_LINE)


def _write_stderr(text: str) -> None:
    with contextlib.suppress(OSError):  # A terminal that was closed is no reason to end a run.
        sys.stderr.write(text)
        sys.stderr.flush()


def _columns() -> int:
    # Of stderr, where the line is: stdout may well be a pipe.
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS_WHEN_UNKNOWN
    except (OSError, ValueError):
        return _COLUMNS_WHEN_UNKNOWN


def summary(result: Result) -> str:
    """What a result says, in a few words: `3 RBC, 1 WBC`, `tabby 0.68` or `1 body`."""
    if result.classes is not None:
        return ", ".join(f"{found.label} {found.score:.2f}" for found in result.classes[:2]) or "nothing"
    if result.keypoints is not None:
        return "1 body" if result.keypoints else "nothing"
    counts: dict[str, int] = {}
    for label in [*(each.label for each in result.detections or ()), *(each.label for each in result.segments or ())]:
        counts[label] = counts.get(label, 0) + 1
    return ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "nothing"


def closing_line(name: str, device: str, counted_in: str, report: Report) -> str:
    """How a run went, in one line."""
    done = report.frames + report.gated
    rate = _rate(done / report.elapsed_s if report.elapsed_s > 0 else 0.0, counted_in)
    stages = ", ".join(f"{stage} {mean:.2f}" for stage, mean in report.stage_ms.items())
    parts = [f"{name}: {done} {counted_in} in {report.elapsed_s:.1f} s, {rate} on {device} (ms: {stages})"]
    if report.gated:
        saved = 100 * report.gated / done
        parts.append(f"{report.frames} inferred, {report.gated} reused: the gate saved {saved:.1f} % of the inferences")
    if report.dropped:
        parts.append("dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(report.dropped.items())))
    if report.skipped:
        names = ", ".join(f"{name} ({reason})" for name, reason in list(report.skipped.items())[:3])
        more = ", …" if len(report.skipped) > 3 else ""
        parts.append(f"skipped {len(report.skipped)}: {names}{more}")
    return "; ".join(parts)


def _rate(each_s: float, *counted_in: str) -> str:
    return f"{each_s:.1f} {'fps' if counted_in == ('frames',) else 'a second'}"


def profile_table(name: str, report: Report) -> str:
    """Where the time of a run went, a line per stage; what was dropped, and why."""
    width = max(len(plain(each.stage)) for each in report.profile)
    lines = [f"{name + ' (ms)':{width}}   count      mean       p50       p99       max  kB written"]
    for each in report.profile:
        written = "" if each.bytes_each is None else f"{each.bytes_each / 1000:.1f}"
        lines.append(
            f"{plain(each.stage):{width}} {each.count:7} {each.mean_ms:9.3f} {each.p50_ms:9.3f}"
            f" {each.p99_ms:9.3f} {each.max_ms:9.3f} {written:>11}".rstrip()
        )
    drops = ", ".join(f"{count} {reason}" for reason, count in sorted(report.dropped.items())) or "none"
    return "\n".join([*lines, f"dropped: {plain(drops)}", ""])
