"""A candidate beside the active model: it sees a share of the frames, and what it finds is compared and thrown away."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgeinfer.clock import Clock
from edgeinfer.errors import EdgeInferError
from edgeinfer.frame import Input
from edgeinfer.model import Answer, Model
from edgeinfer.node.agreement import Agreement
from edgeinfer.node.judge import ENOUGH_ANSWERS, p95, took_ms
from edgeinfer.uplink.bodies import ShadowReport

log = logging.getLogger(__name__)

ENOUGH_PICTURES = 200
"""After so many there is nothing more to learn."""

_CPU_SHARE = 0.1
_LONGEST_NS = 600_000_000_000
_LATENCIES_KEPT = 600
_CLASSES_MAX = 100
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class _Shown:
    frame: Input
    answer: Answer


class Shadow:
    """Owns the candidate and a thread; `look` is for `Pipeline.watch`.

    share: of the frames, 0..1. The thread rests nine times as long as it computed, so that it takes a tenth of a core
    at most; frames that come while it is busy, or rests, are counted as skipped. `wait` sleeps that many seconds or
    until closed, and says whether it was closed; a test passes its own.
    """

    def __init__(
        self, model: Model, share: float, *, clock: Clock, wait: Callable[[float], bool] | None = None
    ) -> None:
        self._model = model
        self._share = share
        self._monotonic_ns = clock.monotonic_ns
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._changed = threading.Condition()
        self._shown: _Shown | None = None
        self._is_resting = False
        self._due = 0.0
        self._skipped = 0
        self._agreement = Agreement()
        self._took_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._active_took_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._error: EdgeInferError | None = None
        self._begun_ns = self._monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def look(self, frame: Input, answer: Answer) -> None:
        self._due += self._share
        if self._due < 1.0:
            return
        self._due -= 1.0
        with self._changed:
            if self._shown is not None or self._is_resting:
                self._skipped += 1
                return
            self._shown = _Shown(frame, answer)
            self._changed.notify()

    @property
    def is_over(self) -> bool:
        """Whether enough was seen, or it cannot go on."""
        pictures = self._agreement.pictures
        is_late = self._monotonic_ns() - self._begun_ns >= _LONGEST_NS
        return self._error is not None or pictures >= ENOUGH_PICTURES or (is_late and pictures >= ENOUGH_ANSWERS)

    @property
    def fault(self) -> str | None:
        """Why the candidate is not worth a trial; None where nothing says so. Its agreement is told, and not judged."""
        if self._error is not None:
            return f"in the shadow it failed: {self._error}"
        seen = self._agreement
        if seen.pictures >= ENOUGH_ANSWERS and not seen.found and seen.found_active >= ENOUGH_ANSWERS:
            return f"it finds nothing where the active model found {seen.found_active} things"
        return None

    def report(self) -> ShadowReport:
        with self._changed:
            agreement = self._agreement
            share = agreement.share
            classes = list(agreement.by_class().items())[:_CLASSES_MAX]
            return ShadowReport(
                share=self._share,
                frames=agreement.pictures,
                skipped=self._skipped,
                agreement=None if share is None else round(share, 4),
                by_class={label: round(each, 4) for label, each in classes},
                p95_ms=round(p95(self._took_ms), 3),
                active_p95_ms=round(p95(self._active_took_ms), 3),
            )

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(_CLOSE_S)
        self._model.close()

    def _run(self) -> None:
        try:
            while (shown := self._next()) is not None:
                self._compare(shown)
        except EdgeInferError as failed:
            self._error = failed
        except Exception as bug:
            log.exception("the shadow is given up")
            self._error = EdgeInferError(f"{bug!r}")

    def _next(self) -> _Shown | None:
        with self._changed:
            self._changed.wait_for(lambda: self._shown is not None or self._closed.is_set())
            return None if self._closed.is_set() else self._shown

    def _compare(self, shown: _Shown) -> None:
        begun_ns = self._monotonic_ns()
        answer = self._model.answer(shown.frame)
        with self._changed:
            self._agreement.add(shown.answer.outcome, answer.outcome)
            self._took_ms.append(took_ms(answer))
            self._active_took_ms.append(took_ms(shown.answer))
            self._shown, self._is_resting = None, True
        self._wait((self._monotonic_ns() - begun_ns) / 1e9 * (1 / _CPU_SHARE - 1))
        self._is_resting = False


def in_words(report: ShadowReport) -> str:
    """As in `agrees in 97 % over 200 answers; p95 5.1 ms, the active model 5.0 ms`."""
    how = "neither found anything" if report.agreement is None else f"agrees in {report.agreement:.0%}"
    times = f"p95 {report.p95_ms:.1f} ms, the active model {report.active_p95_ms:.1f} ms"
    worst = sorted(report.by_class.items(), key=lambda each: each[1])[:3]
    classes = ", ".join(f"{label} {share:.0%}" for label, share in worst)
    return f"{how} over {report.frames} answers{f' (least: {classes})' if classes else ''}; {times}"
