"""One device for several pipelines of a process: weights are in memory once, and everyone gets a turn."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from edgeinfer.board import Board, recognise_board
from edgeinfer.board.cores import big_cores, stay_on
from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.choose import open_device
from edgeinfer.delegates.failover import Failover
from edgeinfer.delegates.proof import Sample
from edgeinfer.runtimes import Runtime
from edgeinfer.tensor import Array

# How much longer than others that wait for it one has had a device, who always has the next frame at hand, before it
# is handed on.
_STINT_NS = 50_000_000
_REMEMBERED = 256
_LOOK_EVERY_S = 0.1


class Turns:
    """A lock that is handed on to whoever has had it for the least time, so that of several users each gets its share;
    of those alike, in the order of asking.

    Who has the next frame at hand may say so: then the turn is theirs again for some frames, before it is handed on.
    Waking the next in line for each frame of a small model takes a good part of the time that the frame does, and
    threads find their cores anew. Nobody goes on so while one waits who never does, as a camera.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._mutex = threading.Lock()
        self._waiting: list[_InLine] = []
        self._had_ns: dict[int, int] = {}
        self._is_taken = False
        self._holder = 0
        self._charged_ns = 0
        self._kept_until_ns = 0

    def begin(self, *, may_come_back: bool = False) -> None:
        """may_come_back: whether `end` will ever be told so; who says no is not kept waiting by those that do."""
        me = threading.get_ident()
        with self._mutex:
            if not self._is_taken:
                if not self._waiting:
                    self._take(me)
                    return
                if self._holder == me and not self._is_kept_too_long():
                    self._is_taken = True
                    return
            mine = _InLine(me, self._had_by(me), may_come_back=may_come_back)
            insort(self._waiting, mine, key=_had_ns)
            if not self._is_taken and (self._is_kept_too_long() or not may_come_back):
                self._charge()
                self._hand_on()
        self._wait(mine)

    def end(self, *, comes_back: bool = False) -> None:
        """comes_back: the next `begin` of this thread follows at once."""
        with self._mutex:
            if not self._waiting:
                self._is_taken = False
                return
            left_ns = self._waiting[0].had_ns + _STINT_NS - self._charge()
            if comes_back and left_ns > 0 and all(each.may_come_back for each in self._waiting):
                self._is_taken, self._kept_until_ns = False, self._charged_ns + left_ns
            else:
                self._hand_on()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _had_by(self, who: int) -> int:
        """For how long they have had it while others waited: within a stint of whoever waits and had least.

        So who is new, or was away, makes up for no more than that, and pays for no more.
        """
        least_ns = self._waiting[0].had_ns if self._waiting else self._had_ns.get(self._holder, 0)
        if len(self._had_ns) > _REMEMBERED:  # Threads end without a word.
            self._had_ns = {each.who: each.had_ns for each in self._waiting}
        return min(max(self._had_ns.get(who, least_ns), least_ns - _STINT_NS), least_ns + _STINT_NS)

    def _charge(self) -> int:
        """For how long the holder has had it by now while others waited, or it was kept for them; noted down."""
        now_ns = self._monotonic_ns()
        had_ns = self._had_by(self._holder) + now_ns - self._charged_ns
        self._had_ns[self._holder], self._charged_ns = had_ns, now_ns
        return had_ns

    def _is_kept_too_long(self) -> bool:
        """Whether the turn is free for somebody who did not come back, or too late."""
        return self._monotonic_ns() >= self._kept_until_ns

    def _take(self, who: int) -> None:
        self._is_taken = True
        self._holder, self._charged_ns = who, self._monotonic_ns()

    def _hand_on(self) -> None:
        first = self._waiting.pop(0)
        self._had_ns[first.who] = first.had_ns
        self._take(first.who)
        first.turn.release()

    def _wait(self, mine: _InLine) -> None:
        """Until the turn is handed on to us, or nobody came back for it."""
        try:
            while not mine.turn.acquire(timeout=_LOOK_EVERY_S):
                with self._mutex:
                    if not self._is_taken and self._waiting and self._is_kept_too_long():
                        self._charge()
                        self._hand_on()
        except BaseException:  # Of a signal, as Ctrl-C is: nobody shall wait for who has gone.
            with self._mutex:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                elif self._waiting:
                    self._hand_on()
                else:
                    self._is_taken = False
            raise


class _InLine:
    """Who waits, for how long they have had the turn, and the lock that is let go when it is theirs again: it is theirs
    then without having been free."""

    def __init__(self, who: int, had_ns: int, *, may_come_back: bool) -> None:
        self.who = who
        self.had_ns = had_ns
        self.may_come_back = may_come_back
        self.turn = threading.Lock()
        self.turn.acquire()


def _had_ns(waiting: _InLine) -> int:
    return waiting.had_ns


@dataclass(frozen=True, slots=True)
class _Wish:
    """All that decides whether two can share a device."""

    sha256: str
    path: str
    shapes: tuple[tuple[int, ...], ...]
    word: str
    threads: int | None
    paced: bool
    isolate: bool


class _Opened:
    """A runtime, the cores for whoever lets it run, the turns at it, and how many hold it."""

    def __init__(self, runtime: Runtime, cores: frozenset[int]) -> None:
        self.runtime = runtime
        self.cores = cores
        self.turns = Turns()
        self.holders = 1


class Shared:
    """One holder's grip on a runtime; see Runtime. Use it within a turn only; the last one to close it frees it."""

    def __init__(self, opened: _Opened, let_go: Callable[[], None]) -> None:
        self.turns = opened.turns
        self.inputs = opened.runtime.inputs
        self.outputs = opened.runtime.outputs
        self._opened = opened
        self._runtime = opened.runtime
        self._cores = opened.cores
        self._let_go: Callable[[], None] | None = let_go

    @property
    def device(self) -> str:
        return self._runtime.device

    @property
    def is_shared(self) -> bool:
        """Whether somebody else holds it, too."""
        return self._opened.holders > 1

    @property
    def state(self) -> str:
        """See Failover; a device that nothing can replace is `ok`."""
        return self._runtime.state if isinstance(self._runtime, Failover) else "ok"

    @property
    def ladder(self) -> Mapping[str, str]:
        """See Failover; a device that nothing can replace is the only rung."""
        return self._runtime.ladder if isinstance(self._runtime, Failover) else {self.device: "in use"}

    def settle(self) -> None:
        """Keep the calling thread, which will let it run, on the big cores where there are small ones beside them."""
        stay_on(self._cores)

    def count_with(self, count: Callable[[str], None]) -> None:
        """See Failover; a device that nothing can replace is never lost."""
        if isinstance(self._runtime, Failover):
            self._runtime.count_with(count)

    def input(self, index: int = 0) -> Array:
        return self._runtime.input(index)

    def run(self) -> tuple[Array, ...]:
        return self._runtime.run()

    def close(self) -> None:
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()


class Devices:
    """The devices that the pipelines of one process use: who asks for the same model on the same device shares it."""

    def __init__(self) -> None:
        # Two locks: who lets go of a device, between two frames, never waits while another one is being opened.
        self._opening = threading.Lock()
        self._lock = threading.Lock()
        self._board: Board | None = None
        self._opened: dict[_Wish, _Opened] = {}

    def open(
        self,
        file: ModelFile,
        word: str,
        *,
        threads: int | None = None,
        paced: bool = False,
        isolate: bool = False,
        golden: Sequence[Sample] = (),
    ) -> Shared:
        """As `open_device`, which is asked for what nobody has open yet."""
        shapes = tuple(spec.shape for spec in file.inputs)
        wish = _Wish(file.sha256, str(file.path), shapes, word, threads, paced, isolate)
        with self._opening:
            opened = self._held(wish)
            if opened is None:
                self._board = self._board or recognise_board()
                runtime = open_device(
                    file, word, threads=threads, paced=paced, isolate=isolate, golden=golden, board=self._board
                )
                opened = _Opened(runtime, big_cores(self._board))
                with self._lock:
                    self._opened[wish] = opened
        return Shared(opened, lambda: self._let_go(wish, opened))

    def _held(self, wish: _Wish) -> _Opened | None:
        """What is open already, held once more."""
        with self._lock:
            opened = self._opened.get(wish)
            if opened is not None:
                opened.holders += 1
            return opened

    def _let_go(self, wish: _Wish, opened: _Opened) -> None:
        with self._lock:
            opened.holders -= 1
            if opened.holders:
                return
            del self._opened[wish]
        opened.runtime.close()
