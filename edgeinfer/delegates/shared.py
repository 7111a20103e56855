"""One device for several pipelines of a process: weights are in memory once, and everyone gets a turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
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


class Turns:
    """A lock that is handed on in the order of asking, so that of several users each gets its share."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._is_taken = False

    def __enter__(self) -> None:
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        # Whoever had the turn lets this go, and the turn is ours without having been free.
        mine.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


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
        self.holders = 0


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
        with self._lock:
            opened = self._opened.get(wish)
            if opened is None:
                self._board = self._board or recognise_board()
                runtime = open_device(
                    file, word, threads=threads, paced=paced, isolate=isolate, golden=golden, board=self._board
                )
                opened = self._opened[wish] = _Opened(runtime, big_cores(self._board))
            opened.holders += 1
        return Shared(opened, lambda: self._let_go(wish, opened))

    def _let_go(self, wish: _Wish, opened: _Opened) -> None:
        with self._lock:
            opened.holders -= 1
            if opened.holders:
                return
            del self._opened[wish]
        opened.runtime.close()
