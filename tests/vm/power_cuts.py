"""The power of a machine goes at any moment while the service runs: what is left, held against what it had said.

Each life goes on with the disk that the cut of the life before has left. What the service says it has accepted comes
out of the machine at once; the next life must find as much in the spool. In the end all of it is delivered to a
consumer, which looks whether any number is missing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.vm.machine import HERE, TEST_DATA, Cut, Machine, Ran, Sign

_INSTALL_S, _LIFE_S, _DRAIN_S = 900, 600, 900
# Most of the cuts come while results are accepted; the others while the service begins and opens its spool.
_WHILE_RUNNING = Cut(r"^RESULTS ", 25.0)
_WHILE_BEGINNING = Cut(r"^BEGUN", 30.0)
_BEGINNING_SHARE = 0.25
# About one emulated machine in twenty hangs before anything of ours runs in it, both its cores busy. That is no life;
# but where it becomes the rule something is wrong.
_UP, _HUNG_MAX = Sign(r"^BEGUN", 150.0), 20


@dataclass
class Tally:
    """accepted: as the service said last. lives_with_results: of all; the others were cut before. hung: machines that
    did not come up, which are no lives."""

    cuts: int = 0
    hung: int = 0
    lives_with_results: int = 0
    accepted: int = 0
    delivered: int = 0
    results_after_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        slowest = f", results after {max(self.results_after_s):.0f} s at most" if self.results_after_s else ""
        hung = (
            f" ({self.hung} more machine{'' if self.hung == 1 else 's'} hung before the service was begun)"
            if self.hung
            else ""
        )
        return (
            f"{self.cuts} power cuts{hung}, {self.lives_with_results} of them in lives with results{slowest}; "
            f"{self.accepted} said to be accepted, {self.delivered} delivered in the end; {len(self.wrong)} faults"
        )


def cut_rounds(
    machine: Machine, cuts: int, *, seed: int, on_line: Callable[[str], object] = lambda line: None
) -> Tally:
    """Install, so many lives that end with a cut, and one that delivers it all. Raises NoMachine."""
    tally, choose = Tally(), random.Random(seed)
    root = machine.folder / "power-cuts.qcow2"
    root.unlink(missing_ok=True)
    data = {"testdata": TEST_DATA} if TEST_DATA.is_dir() else {}
    shares = {"scripts": HERE, "deb": machine.package(), **data}

    def boot(part: str, *words: str, cut: Cut | None = None, seconds: int) -> Ran:
        while True:
            ran = machine.run(
                HERE / "guest_power.sh",
                part,
                *words,
                shares=shares,
                root=root,
                cut=cut,
                sign=_UP,
                seconds=seconds,
                on_line=on_line,
            )
            if not ran.hung or tally.hung == _HUNG_MAX:
                return ran
            tally.hung += 1
            _look(ran, f"a machine that hung, the {tally.hung}.", tally)

    installed = boot("install", seconds=_INSTALL_S)
    if installed.code:
        tally.wrong.append(f"the installation failed: {installed.output[-1000:]}")
        return tally
    _look(installed, "the installation", tally)
    for number in range(1, cuts + 1):
        within = _WHILE_BEGINNING if choose.random() < _BEGINNING_SHARE else _WHILE_RUNNING
        cut = Cut(within.on, choose.uniform(0.0, within.after_s))
        life = boot("live", cut=cut, seconds=_LIFE_S)
        tally.cuts += 1
        _look(life, f"life {number}", tally)
        if "power cut" not in life.output:
            tally.wrong.append(f"life {number} ended otherwise: {life.output[-1000:]}")
    drained = boot("drain", str(tally.accepted), seconds=_DRAIN_S)
    _look(drained, "the last life", tally)
    _look_at_delivered(drained, tally)
    return tally


def _look(life: Ran, name: str, tally: Tally) -> None:
    """Hold what this life has found against what those before it have said."""
    tally.wrong += [f"{name}: {each}" for each in re.findall(r"^(?:BROKEN|ALARM) (.*)$", life.output, re.MULTILINE)]
    if begun := re.search(r"^RESULTS ([\d.]+)", life.output, re.MULTILINE):
        tally.lives_with_results += 1
        tally.results_after_s.append(float(begun[1]))
    said = [(int(found), int(depth)) for found, depth in re.findall(r"^SAID (-?\d+) (\d+)", life.output, re.MULTILINE)]
    if not said:
        return
    # Two counts that are not taken at the same moment: the second may be ahead of the first, never behind.
    found = min(found for found, _ in said)
    if found < tally.accepted:
        tally.wrong.append(f"{name}: found {found} messages, {tally.accepted} were accepted")
    tally.accepted = max(tally.accepted, *(depth for _, depth in said))


def _look_at_delivered(life: Ran, tally: Tally) -> None:
    said = re.search(r"^DRAINED (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", life.output, re.MULTILINE)
    if said is None:
        tally.wrong.append(f"nothing was delivered in the end: {life.output[-1000:]}")
        return
    epochs, lowest, highest, distinct, ids, gaps = map(int, said.groups())
    tally.delivered = distinct
    if (epochs, lowest, gaps) != (1, 1, 0) or highest != distinct or distinct < tally.accepted:
        tally.wrong.append(
            f"of {tally.accepted} accepted, {distinct} were delivered ({ids} results), numbers {lowest} to {highest}"
            f" of {epochs} epochs, {gaps} gaps"
        )
