"""One device for several pipelines of a process: weights are in memory once, and everyone gets a turn."""

from __future__ import annotations

import threading
import time
from collections import deque
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

# How long who always has the next frame at hand keeps a device that others wait for.
_STINT_NS = 25_000_000


class Turns:
    """A lock that is handed on in the order of asking, so that of several users each gets its share.

    Who has the next frame at hand may say so: then the turn is theirs again for some milliseconds, before it is handed
    on. Waking the next in line for each frame of a small model takes a good part of the time that the frame does.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._mutex = threading.Lock()
        self._waiting: deque[_InLine] = deque()
        self._is_taken = False
        self._holder = 0
        self._since_ns = 0

    def begin(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if not self._is_taken:
                if not self._waiting:
                    self._take(me)
                    return
                if self._is_stint_over():
                    self._hand_on()  # Whoever had it did not come back, or too late.
                elif self._holder == me:
                    self._is_taken = True
                    return
            mine = _InLine(me)
            self._waiting.append(mine)
        self._wait(mine)

    def end(self, *, comes_back: bool = False) -> None:
        """comes_back: the next `begin` of this thread follows at once."""
        with self._mutex:
            if not self._waiting or (comes_back and not self._is_stint_over()):
                self._is_taken = False
            else:
                self._hand_on()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _is_stint_over(self) -> bool:
        return self._monotonic_ns() >= self._since_ns + _STINT_NS

    def _take(self, who: int) -> None:
        self._is_taken = True
        self._holder, self._since_ns = who, self._monotonic_ns()

    def _hand_on(self) -> None:
        first = self._waiting.popleft()
        self._take(first.who)
        first.turn.release()

    def _wait(self, mine: _InLine) -> None:
        """Until the turn is handed on to us, or nobody came back for it."""
        while not mine.turn.acquire(timeout=self._patience_s(mine)):
            with self._mutex:
                if not self._is_taken and self._is_stint_over() and self._waiting and self._waiting[0] is mine:
                    self._hand_on()

    def _patience_s(self, mine: _InLine) -> float:
        """Until the stints of all before us are over."""
        with self._mutex:
            before = self._waiting.index(mine) if mine in self._waiting else 0
            over_ns = self._since_ns + (before + 1) * _STINT_NS - self._monotonic_ns()
        return max(over_ns, _STINT_NS) / 1e9


class _InLine:
    """Who waits, and the lock that is let go when it is their turn: it is theirs then without having been free."""

    def __init__(self, who: int) -> None:
        self.who = who
        self.turn = threading.Lock()
        self.turn.acquire()


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
        self._runtime = opened.runtime
        self._cores = opened.cores
        self._let_go: Callable[[], None] | None = let_go

    @property
    def device(self) -> str:
        return self._runtime.device

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
