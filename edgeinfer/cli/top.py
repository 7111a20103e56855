"""`edgeinfer top`: what the page of a node shows, in a terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgeinfer.cli.ask import Node
from edgeinfer.cli.tail import event_words
from edgeinfer.cli.terminal import cut, plain, show
from edgeinfer.errors import UsageError
from edgeinfer.uplink.bodies import SlotModel
from edgeinfer.web.bodies import MachineState, PipelineState, State, Trouble, UplinkState
from edgeinfer.web.history import Second
from edgeinfer.web.journal import Event, Line

_USUAL_URL = "http://127.0.0.1:8080/"
_EVERY_S = 1.0
_SPARKS = " ▁▂▃▄▅▆▇█"
_SPARK_SECONDS = 16
_EVENTS_SHOWN = 5
_LINES_SHOWN = 8
_COLUMNS_WHEN_UNKNOWN = 120
_LEAST_COLUMNS = 40

_HEAD = ("PIPELINE", "STATE", "FPS", "AGE ms", "MODEL ms", "DEVICE", "FPS OF LATE", "SEES")
_WIDTHS = (8, -6, -7, -8)  # Of the state and the numbers, which stand to the right.
_NAME_MAX = 24
_MOODS = {"ok": "", "stopped": "quiet", "failed": "bad", "down": "bad"}

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _TO_END_OF_LINE, _TO_END = "\x1b[H", "\x1b[K\r\n", "\x1b[J"
_COLOURS = {"ok": "32", "warn": "33", "bad": "31", "quiet": "2", "strong": "1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", default=_USUAL_URL, metavar="URL", help=f"of the page ({_USUAL_URL})")
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help="a file with the token of the node, in one line"
    )
    parser.add_argument("--once", action="store_true", help="print it once; so it is where stdout is no terminal")


def run(arguments: argparse.Namespace) -> int:
    node = Node(arguments.url, arguments.token_file)
    if arguments.once or not sys.stdout.isatty():
        show("\n".join(_Screen(_COLUMNS_WHEN_UNKNOWN, is_coloured=False).lines(_Picture(node))))
        return 0
    picture = _Picture(node)  # Where nobody answers, that is an error of one line.
    sys.stdout.write(_ENTER)
    try:
        while True:
            _draw(picture)
            time.sleep(_EVERY_S)
            picture.renew(node)
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _draw(picture: _Picture) -> None:
    columns, rows = _size()
    lines = _Screen(columns, is_coloured="NO_COLOR" not in os.environ).lines(picture)
    sys.stdout.write(_HOME + _TO_END_OF_LINE.join(lines[: rows - 1]) + _TO_END_OF_LINE + _TO_END)
    sys.stdout.flush()


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return _COLUMNS_WHEN_UNKNOWN, 50
    return max(size.columns, _LEAST_COLUMNS), max(size.lines, 5)


class _Picture:
    """All that was told last. Raises UsageError at first; later, what went wrong stands in `trouble`."""

    def __init__(self, node: Node) -> None:
        self.trouble: str | None = None
        self._ask(node)

    def renew(self, node: Node) -> None:
        try:
            self._ask(node)
            self.trouble = None
        except UsageError as silent:
            self.trouble = silent.message

    def _ask(self, node: Node) -> None:
        self.state = node.ask("api/state", State)
        seconds = node.ask("api/history", dict[str, list[Second]])
        self.rates: Mapping[str, Sequence[int]] = {
            name: [second.results for second in each[-_SPARK_SECONDS:]] for name, each in seconds.items()
        }
        self.events: Sequence[Event] = node.ask("api/events", list[Event])[-_EVENTS_SHOWN:]
        self.log: Sequence[Line] = node.ask("api/log", list[Line])[-_LINES_SHOWN:]


class _Screen:
    """A picture in lines of so many columns."""

    def __init__(self, columns: int, *, is_coloured: bool) -> None:
        self._columns = columns
        self._is_coloured = is_coloured

    def lines(self, picture: _Picture) -> list[str]:
        state = picture.state
        lines = [self._line(_title(state), "strong")]
        if picture.trouble is not None:
            lines.append(self._line(f"! {picture.trouble}; this is from before", "bad"))
        lines += [self._line(f"! {reason}", "warn") for reason in state.health.reasons]
        lines += ["", *self._pipelines(state.pipelines, picture.rates, state.troubles)]
        if state.uplink is not None:
            lines += ["", self._line(_uplink(state.uplink), "" if state.uplink.is_connected else "warn")]
        if state.models:
            lines += ["", *(self._line(*_slot(each)) for each in state.models)]
        lines += ["", self._line(_machine(state.machine))]
        if state.care is not None:
            lines.append(self._line(f"GOVERNOR  slows down: {state.care}", "warn"))
        if picture.events:
            lines += [
                "",
                self._line("EVENTS", "quiet"),
                *(self._line(_event(each)) for each in reversed(picture.events)),
            ]
        if picture.log:
            lines += ["", self._line("LOG", "quiet"), *(self._line(*_logged(each)) for each in picture.log)]
        return lines

    def _pipelines(
        self, pipelines: Sequence[PipelineState], rates: Mapping[str, Sequence[int]], troubles: Sequence[Trouble]
    ) -> Iterator[str]:
        names = [*(each.name for each in pipelines), *(each.name for each in troubles)]
        widths = (
            max([8, *(min(len(name), _NAME_MAX) for name in names)]),
            *_WIDTHS,
            max([6, *(len(each.device) for each in pipelines)]),
            _SPARK_SECONDS,
        )
        yield self._line(_row(_HEAD, widths), "quiet")
        for each in pipelines:
            word = "failed" if each.error is not None else each.state.partition(":")[0]
            yield self._line(_row(_cells(each, word, rates.get(each.name, ())), widths), _MOODS.get(word, "warn"))
            for below, mood in _below(each):
                yield self._line(f"  {below}", mood)
        for trouble in troubles:
            yield self._line(_row((trouble.name[:_NAME_MAX], "failed"), widths), "bad")
            yield self._line("  does not run, and is tried again", "quiet")

    def _line(self, text: str, mood: str = "") -> str:
        shown = cut(plain(text), self._columns)
        return f"\x1b[{_COLOURS[mood]}m{shown}\x1b[0m" if mood and self._is_coloured else shown


def _title(state: State) -> str:
    condition = {"ok": "all is well"}.get(state.health.condition, state.health.condition)
    board = "" if state.board.model == "unknown" else f" · {state.board.model}"
    return f"{state.node} · {condition}{board} · edgeinfer {state.version} · up {_duration(state.uptime_s)}"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The last one has what is left."""
    wide = [cell.rjust(-width) if width < 0 else cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*wide, *cells[len(widths) :]])


def _cells(pipeline: PipelineState, word: str, rates: Sequence[int]) -> Sequence[str]:
    return (
        pipeline.name[:_NAME_MAX],
        word,
        f"{pipeline.fps:.1f}",
        _ms(pipeline.age_ms),
        _ms(pipeline.infer_ms),
        pipeline.device,
        _spark(rates).rjust(_SPARK_SECONDS),
        _seen(pipeline),
    )


def _below(pipeline: PipelineState) -> Iterator[tuple[str, str]]:
    """What is out of the ordinary."""
    for device, word in pipeline.ladder.items():
        if word.startswith("lost"):
            yield f"{device} {word}", "warn"
    drops = {
        name.removeprefix("dropped."): count for name, count in pipeline.counts.items() if name.startswith("dropped.")
    }
    if drops:
        yield "dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())), "quiet"


def _seen(pipeline: PipelineState) -> str:
    parts = [
        f"{each.label} {each.score:.2f}" if each.score is not None else f"{each.count} {each.label}"
        for each in pipeline.seen
    ]
    return ", ".join(parts)


def _spark(rates: Sequence[int]) -> str:
    most = max(rates, default=0)
    return "".join(_SPARKS[0 if not most else -(-each * (len(_SPARKS) - 1) // most)] for each in rates)


def _uplink(uplink: UplinkState) -> str:
    waits = f", the oldest {_duration(uplink.oldest_s)}" if uplink.depth else ""
    dropped = "".join(f", {count} dropped ({reason})" for reason, count in uplink.dropped.items())
    broker = "connected" if uplink.is_connected else "broker away"
    return f"UPLINK    {broker}, {uplink.delivered} delivered, {uplink.depth} waiting{waits}{dropped}"


def _slot(model: SlotModel) -> tuple[str, str]:
    parts = [f"release {model.release}" if model.release is not None else "no model", model.state]
    if model.candidate is not None:
        parts.append(f"candidate {model.candidate}, {model.attempts} more attempts")
    if model.shadow is not None and model.shadow.agreement is not None:
        parts.append(f"agrees in {model.shadow.agreement:.0%} of {model.shadow.frames} answers")
    why = f": {model.reason}" if model.reason else ""
    mood = "bad" if model.state in ("rejected", "rolled_back") else "warn" if model.candidate is not None else ""
    return f"SLOT      {model.slot}: {', '.join(parts)}{why}", mood


def _machine(machine: MachineState) -> str:
    parts = [
        f"{machine.cpu_percent:.0f} % of a core",
        f"{machine.memory_bytes / 1e6:.0f} MB",
        f"load {machine.load:.2f}",
    ]
    parts += [f"{sensor} {celsius:.0f} °C" for sensor, celsius in machine.temperatures_c.items()]
    return "PROCESS   " + " · ".join(parts)


def _event(numbered: Event) -> str:
    event = numbered.event
    changes = {
        "count": f"{event.label}: {event.before} → {event.count}",
        "class": f"{event.previous or 'nothing'} → {event.label or 'nothing'}",
    }
    what = changes.get(event.kind) if event.rule is None else None
    return f"{event.occurred_at[11:19]}  {event.pipeline}: {what or event_words(event)}"


def _logged(line: Line) -> tuple[str, str]:
    level = "" if line.level == "info" else f"{line.level}: "
    return f"{line.at[11:19]}  {level}{line.message}", {"warning": "warn", "error": "bad", "critical": "bad"}.get(
        line.level, ""
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    for size, unit, below, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {smaller}"
    return f"{whole} s"
