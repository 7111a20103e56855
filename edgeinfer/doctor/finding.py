"""What a check looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from edgeinfer.board import Board, Roots
from edgeinfer.clock import Clock, ClockState
from edgeinfer.config import Config, PipelineConfig
from edgeinfer.delegates.probe import DeviceRow, Libraries, probe

Severity = Literal["error", "warning", "note"]
"""error: something does not work. warning: it will not work well, or not for long. note: it could be better."""


@dataclass(frozen=True, slots=True)
class Finding:
    """remedy: the command that mends it, or in words what does; None where nobody can."""

    severity: Severity
    what: str
    remedy: str | None = None


@dataclass(frozen=True)
class Patient:
    """A machine, and what it is meant to run. model: a word for one, beside those of the configuration.

    state: the folder of it. user: another user to examine; config_file, state_of_user: what it reads, and where it
    keeps its own state. libraries: what is installed; None for this interpreter's packages. clock_state: what the
    kernel says of its wall clock; None where it is not asked.
    """

    board: Board
    roots: Roots = field(default_factory=Roots)
    config: Config | None = None
    model: str | None = None
    state: Path | None = None
    user: str | None = None
    config_file: Path | None = None
    state_of_user: Path | None = None
    libraries: Libraries | None = None
    clock: Clock = field(default_factory=Clock)
    clock_state: ClockState | None = None

    @property
    def pipelines(self) -> Sequence[PipelineConfig]:
        return () if self.config is None else self.config.pipeline

    @cached_property
    def devices(self) -> Sequence[DeviceRow]:
        return probe(self.board, self.roots, self.libraries)
