"""Rounds in which the contenders compute by turns, for a second or less each time.

A neighbour of a virtual machine comes and goes within seconds, and a model takes half as long again while it is there.
Of contenders that run one after the other it meets one and not the other. So each has a process that is stopped but
for its own slices of time, and what it did in all of them is its figure of the round.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from scripts.benchmarks import setting
from scripts.benchmarks.contest import MAY_TAKE_S, Row, environment
from scripts.benchmarks.setting import scratch

SLICES, QUICK_SLICES = 8, 2
# Of a slice, so much more is left out at its beginning: caches are another's.
_SETTLE_SHARE = 0.25
_LOOK_EVERY_S = 0.05

Look = dict[str, Any]
"""How a contender stands: `at_s` by the monotonic clock, `frames` that are done, and whatever it tells besides."""


@dataclass(frozen=True, slots=True)
class Span:
    """A slice: how it stood at its beginning and at its end."""

    first: Look
    last: Look

    def of(self, name: str) -> float:
        """By how much something grew."""
        return float(self.last[name] - self.first[name])


def alternate(
    rounds: int,
    case: str,
    contenders: Mapping[str, Sequence[str]],
    figures: Callable[[Sequence[Span]], Row],
    *,
    slice_s: float,
    warm_up: int,
) -> Iterator[Row]:
    """contenders: the commands, which answer each line on stdin; see meter.answer. Each is let go when it has done
    `warm_up` frames. A round is over early where one of them has no more to do.
    """
    slices = QUICK_SLICES if setting.SETTING.quick else SLICES
    for number in range(rounds):
        spans: dict[str, list[Span]] = {who: [] for who in contenders}
        with ExitStack() as started:
            running = [(who, started.enter_context(_Contender(command))) for who, command in contenders.items()]
            for _, contender in running:
                contender.warm_up(warm_up)
            for turn in range(slices):
                taken = {
                    who: contender.slice(slice_s)
                    for who, contender in (running if (number + turn) % 2 == 0 else running[::-1])
                }
                whole = {who: span for who, span in taken.items() if span is not None}
                ended = [who for who in taken if who not in whole]
                if ended and turn == 0:
                    raise SystemExit(f"{case}: {ended[0]} had no more to do before its first slice was over")
                if ended:
                    break
                for who, span in whole.items():
                    spans[who].append(span)
        for who, own in spans.items():
            yield {"case": case, "round": number, "who": who, **figures(own)}


class _Contender:
    """A process that computes only while it is let, in a folder of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command,
            cwd=tempfile.mkdtemp(dir=scratch()),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._process.send_signal(signal.SIGSTOP)
        self._deadline = threading.Timer(MAY_TAKE_S, self._process.kill)
        self._deadline.start()  # One that hangs would be waited for without end.

    def __enter__(self) -> _Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline.cancel()
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def warm_up(self, frames: int) -> None:
        self._process.send_signal(signal.SIGCONT)
        while (look := self._look()) is not None and look["frames"] < frames:
            time.sleep(_LOOK_EVERY_S)
        if look is None:
            self._errors.seek(0)
            raise SystemExit(f"{' '.join(self._command[2:])} ended before it was warm:\n{self._errors.read().strip()}")
        self._process.send_signal(signal.SIGSTOP)

    def slice(self, seconds: float) -> Span | None:
        """None where it ended meanwhile."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(seconds * _SETTLE_SHARE)
        first = self._look()
        time.sleep(seconds)
        last = self._look()
        self._process.send_signal(signal.SIGSTOP)
        return None if first is None or last is None else Span(first, last)

    def _look(self) -> Look | None:
        assert self._process.stdin is not None, "a pipe was asked for"
        assert self._process.stdout is not None, "a pipe was asked for"
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        look: Look = json.loads(line) if line else {}
        return look if "at_s" in look else None  # Its last words are its own figures.
