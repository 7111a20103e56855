"""A node's store through its updates, ended by kill -9 in every state: what it holds afterwards, against what it said.

A life is a child process that brings releases in, tries them, keeps them or undoes them, and says each step into a pipe
before and after it; it is killed in one of them, some moments later. The next life goes on with what is left.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeinfer.errors import ModelError, UpdateError
from edgeinfer.updates.store import Store
from tests.releases import Shelf, tiny_files, write_bundle

SLOT = "detector"
STATES = (
    "idle", "fetching", "verified", "canary", "staged", "trial", "committed", "rejected", "rolled_back", "fell_back",
)  # fmt: skip
_FATES = ("committed", "rejected", "rolled_back", "idle", "crashes", "left")
_PATIENCE_S = 20.0
_DELAY_MAX_S = 0.004


@dataclass
class Ledger:
    """What was said to be done. begun: what was said to be about to happen, and may have."""

    refused: set[int] = field(default_factory=set)
    active: int = 0
    floor: int = 0
    begun: tuple[str, int] | None = None

    def note(self, line: str) -> None:
        when, what, number = line.split()
        self.begun = (what, int(number)) if when == "begins" else None
        if when == "did" and what == "committed":
            self.active, self.floor = int(number), max(self.floor, int(number))
        elif when == "did" and what in ("rejected", "rolled_back"):
            self.refused.add(int(number))
        elif when == "did" and what == "fell_back":
            self.active = int(number)


@dataclass
class Tally:
    """kills: how often a life was ended in each state."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        each = ", ".join(f"{state} {count}" for state, count in self.kills.items())
        return f"{sum(self.kills.values())} kills ({each}): {len(self.wrong)} faults"


Say = Callable[[str], None]


def live(open_store: Callable[[], Store], seed: int, say: Say) -> None:
    """Updates without an end. Each release has a fate that its number decides."""
    store, shelf, dice = open_store(), Shelf(), random.Random(seed)
    _go_on(store, say)
    release = max(store.state(SLOT).floor, *_refused(store), 0)
    while True:
        release += 1
        _one_update(store, shelf, release, _FATES[release % len(_FATES)], say)
        if dice.random() < 0.3:
            _fall_back(store, say)


def _refused(store: Store) -> list[int]:
    return [entry.release or 0 for entry in store.history(SLOT)] or [0]


def _go_on(store: Store, say: Say) -> None:
    """What a node does at its start with what the last life has left."""
    waiting = store.staged(SLOT)
    if waiting is None:
        return
    say(f"begins rolled_back {waiting.release}")  # Where it has no attempt left.
    if store.begin_trial(SLOT) is None:
        say(f"did rolled_back {waiting.release}")
        return
    _do(say, "committed", waiting.release, lambda: store.commit(SLOT))


def _one_update(store: Store, shelf: Shelf, release: int, fate: str, say: Say) -> None:
    say(f"begins fetching {release}")
    with store.updating():
        installed = store.offer(shelf.put(tiny_files(release), release))

        def fetch(sha256: str, length: int, beside: Path) -> None:
            say(f"did fetching {release}")
            shelf.fetch(sha256, length // 2, beside)
            time.sleep(0.001)
            shelf.fetch(sha256, length, beside)

        store.fetch(installed, fetch)
        _do(say, "verified", release, lambda: store.verified(SLOT))
        _do(say, "canary", release, lambda: store.begin_canary(SLOT))
        if fate == "idle":
            _do(say, "idle", release, lambda: store.give_up(SLOT, "lost"))
            return
        if fate == "rejected":
            _do(say, "rejected", release, lambda: store.reject(SLOT, "it finds nothing"))
            return
        _do(say, "staged", release, lambda: store.pass_canary(SLOT, "well"))
    if fate == "crashes":
        for _ in range(installed.manifest.trial.attempts):
            _do(say, "trial", release, lambda: store.begin_trial(SLOT))
        _do(say, "rolled_back", release, lambda: store.begin_trial(SLOT))
        return
    _do(say, "trial", release, lambda: store.begin_trial(SLOT))
    if fate == "left":
        _do(say, "staged", release, lambda: store.leave_trial(SLOT))
        _do(say, "trial", release, lambda: store.begin_trial(SLOT))
    if fate == "rolled_back":
        _do(say, "rolled_back", release, lambda: store.roll_back(SLOT, "it was slow"))
    else:
        _do(say, "committed", release, lambda: store.commit(SLOT))


def _fall_back(store: Store, say: Say) -> None:
    """As where the active one is found to be damaged; the factory's never is."""
    active = store.active(SLOT)
    if active is None or active.release == 0:
        return
    left = [each for each in (store.previous(SLOT), store.factory(SLOT)) if each is not None and each != active]
    _do(say, "fell_back", left[0].release, lambda: store.fall_back(SLOT, active, "damaged"))


def _do(say: Say, what: str, release: int, act: Callable[[], object]) -> None:
    say(f"begins {what} {release}")
    act()
    say(f"did {what} {release}")


def kill_rounds(rounds: int, *, seed: int = 0) -> Tally:
    """End a life so many times in each of the states."""
    tally, dice = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="update-kills-") as scratch:
        folder = Path(scratch) / "store"
        first = Store(folder)
        first.add(write_bundle(Path(scratch) / "factory", tiny_files(0)), SLOT)
        first.close()
        shutil.rmtree(Path(scratch) / "factory")
        ledger = Ledger()
        for number in range(rounds * len(STATES)):
            state = STATES[number % len(STATES)]
            _end_in(folder, state, seed * 10_000 + number, dice, ledger, tally)
            _look(folder, ledger, tally, f"kill {number}, in {state}")
    return tally


def _end_in(folder: Path, state: str, seed: int, dice: random.Random, ledger: Ledger, tally: Tally) -> None:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        try:
            live(lambda: Store(folder), seed, lambda line: os.write(theirs, f"{line}\n".encode()) and None)
        except BaseException as failed:  # noqa: BLE001 - said through the pipe, and the process ends
            os.write(theirs, f"fault {type(failed).__name__}: {failed}\n".encode())
        os._exit(1)
    os.close(theirs)
    is_before = dice.random() < 0.5
    wanted = f"{'begins' if is_before else 'did'} {state} "
    pending = b""
    deadline_s = time.monotonic() + _PATIENCE_S
    is_killed = False
    while time.monotonic() < deadline_s:
        ready, _, _ = select.select([ours], [], [], 1.0)
        data = os.read(ours, 1 << 16) if ready else b""
        if ready and not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            text = line.decode()
            if text.startswith("fault "):
                tally.wrong.append(text)
                continue
            ledger.note(text)
            if not is_killed and text.startswith(wanted):
                time.sleep(dice.uniform(0.0, _DELAY_MAX_S))
                os.kill(child, signal.SIGKILL)
                is_killed = True
                tally.kills[state] += 1
    if not is_killed:
        tally.wrong.append(f"no life came to {state}")
        os.kill(child, signal.SIGKILL)
    os.close(ours)
    os.waitpid(child, 0)


def _look(folder: Path, ledger: Ledger, tally: Tally, where: str) -> None:
    """A valid model is active, never one that was refused, nor an older one than was said; and it can go on."""
    store = Store(folder)
    try:
        tally.wrong += [f"{where}: {each}" for each in differences(store, ledger)]
    except (ModelError, UpdateError) as broken:
        tally.wrong.append(f"{where}: {broken}")
    finally:
        store.close()


def differences(store: Store, ledger: Ledger, *, goes_on: bool = True) -> list[str]:
    """What is not as it must be. goes_on: the next life begins with what this one has left."""
    wrong = []
    state, active = store.state(SLOT), store.active(SLOT)
    may_be = {ledger.active}
    if ledger.begun is not None and ledger.begun[0] in ("committed", "fell_back"):
        may_be.add(ledger.begun[1])
    if active is None:
        return ["nothing is active"]
    store.bundle_of(active)
    if active.release not in may_be:
        wrong.append(f"release {active.release} is active, not {sorted(may_be)}")
    if active.release in ledger.refused or store.denial(active) is not None:
        wrong.append(f"release {active.release} was refused and is active")
    if state.floor < ledger.floor:
        wrong.append(f"the floor is {state.floor}, not {ledger.floor}")
    for number in sorted(ledger.refused):
        shelf = Shelf()
        if store.denied(shelf.put(tiny_files(number), number)) is None:
            wrong.append(f"release {number} was refused and is not denied")
    if not goes_on:
        return wrong
    # What is said next begins here.
    if ledger.begun is not None and store.denied(Shelf().put(tiny_files(ledger.begun[1]), ledger.begun[1])) is not None:
        ledger.refused.add(ledger.begun[1])
    ledger.active, ledger.floor, ledger.begun = active.release, state.floor, None
    return wrong
