"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgeinfer.doctor import board, broker, clock, devices, models, sources, state, user
from edgeinfer.doctor.finding import Finding, Patient


@dataclass(frozen=True, slots=True)
class Check:
    """needs_machine: it makes no sense for a recorded tree of another board."""

    look: Callable[[Patient], Iterable[Finding]]
    needs_machine: bool = False


CHECKS: Mapping[str, Check] = {
    "power": Check(board.power),
    "heat": Check(board.heat),
    "memory": Check(board.memory),
    "clock": Check(clock.clock, needs_machine=True),
    "state": Check(state.folder, needs_machine=True),
    "disk": Check(state.disk, needs_machine=True),
    "spool": Check(state.spool, needs_machine=True),
    "devices": Check(devices.devices),
    "user": Check(user.user, needs_machine=True),
    "sources": Check(sources.sources, needs_machine=True),
    "models": Check(models.models, needs_machine=True),
    "broker": Check(broker.broker, needs_machine=True),
}


def examine(patient: Patient) -> Iterator[tuple[str, tuple[Finding, ...]]]:
    """By the name of the check what it finds, as soon as it is found; a check that says nothing found nothing wrong."""
    for name, check in CHECKS.items():
        if patient.roots.is_here or not check.needs_machine:
            yield name, tuple(check.look(patient))
