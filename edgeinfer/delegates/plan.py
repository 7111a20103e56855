"""What `edgeinfer tune` found out about a model on this board, kept in the state folder and used by later runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.board import Board
from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.installed import runtime_versions
from edgeinfer.delegates.ladder import Rung, rung_of_ladder
from edgeinfer.durable import replace_file, sweep
from edgeinfer.errors import DeviceNotFound
from edgeinfer.paths import state_folder

log = logging.getLogger(__name__)

Goal = Literal["fps", "p90"]
"""What a plan is ranked by: frames per second end to end, or the 90th percentile of a frame's latency."""

_MAX_BYTES = 256 << 10
_MAX_ROWS = 256


class PlanRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One way to run the model, as it was measured; see Rung for `threads` and `sleeps`.

    fps: frames per second, end to end, the median of the rounds. p90_ms: the 90th percentile of preprocessing,
    inference and decoding together, likewise.
    """

    device: Annotated[str, Meta(min_length=1, max_length=4096)]
    threads: Annotated[int, Meta(ge=1, le=256)] | None
    sleeps: bool
    fps: Annotated[float, Meta(ge=0, le=1e7)]
    p90_ms: Annotated[float, Meta(ge=0, le=1e9)]


class Plan(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The ways to run one model on one board, the best first; it fits while board and versions are the same.

    made_at: RFC 3339, for people. versions: of the runtimes, by their name.
    """

    schema: Literal["edgeinfer.plan/1"] = "edgeinfer.plan/1"
    sha256: str
    board: str
    versions: Mapping[str, str]
    ranked_by: Goal
    made_at: str
    rows: Annotated[tuple[PlanRow, ...], Meta(min_length=1, max_length=_MAX_ROWS)]


def board_key(board: Board) -> str:
    """What tells this board from another one that the same card may be put into."""
    return f"{board.profile.name}: {board.model}, {board.cpu}, {board.cores} cores, {board.architecture}"


def write_plan(plan: Plan, folder: Path | None = None) -> Path:
    """Keep the plan in place of an earlier one for the same model. Raises OSError."""
    path = _path(plan.sha256, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    replace_file(path, msgspec.json.format(msgspec.json.encode(plan), indent=1))
    return path


def fitting_plan(file: ModelFile, board: Board, folder: Path | None = None) -> Plan | None:
    """The plan for this model on this board with these runtimes; one that no longer fits is said and ignored."""
    plan = _read(_path(file.sha256, folder), file.sha256)
    if plan is None:
        return None
    stale = _why_stale(plan, board_key(board), runtime_versions())
    if stale is None:
        return plan
    log.warning("the plan of %s for %s is ignored: %s; edgeinfer tune makes a new one", plan.made_at, file.path, stale)
    return None


def by_plan(rungs: Sequence[Rung], plan: Plan, *, word: str, threads: int | None) -> tuple[Rung, ...]:
    """The rungs in the plan's order and with its settings, then those that it knows nothing of.

    word: as the user typed it; `auto` also takes what was measured beyond the board's ladder. threads: as the user
    said, then only what was measured with so many counts.
    """
    known = {rung.word: rung for rung in rungs}
    found: dict[str, Rung] = {}
    for row in plan.rows:
        if row.device in found or (threads is not None and row.threads not in (None, threads)):
            continue
        rung = known.get(row.device) or (_beyond(row.device) if word == "auto" else None)
        if rung is not None:
            found[row.device] = replace(rung, threads=row.threads, sleeps=row.sleeps)
    return (*found.values(), *(rung for rung in rungs if rung.word not in found))


def _beyond(word: str) -> Rung | None:
    """A device that is not on the board's ladder; `auto` never ends on `fake`, whatever a file says."""
    try:
        rung = rung_of_ladder(word)
    except DeviceNotFound:
        return None
    return None if rung.runtime == "fake" else rung


def _path(sha256: str, folder: Path | None) -> Path:
    return (state_folder() / "plans" if folder is None else folder) / f"{sha256[:32]}.json"


def _read(path: Path, sha256: str) -> Plan | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as unreadable:
        log.warning("the plan %s cannot be read: %s", path, unreadable.strerror)
        return None
    try:
        plan = msgspec.json.decode(content[:_MAX_BYTES], type=Plan)
    except msgspec.DecodeError as damaged:
        log.warning("the plan %s is damaged and ignored: %s", path, damaged)
        return None
    return plan if plan.sha256 == sha256 else None


def _why_stale(plan: Plan, board: str, versions: Mapping[str, str]) -> str | None:
    if plan.board != board:
        return f"it was made on {plan.board}"
    for name in sorted({*plan.versions, *versions}):
        then, now = plan.versions.get(name, f"no {name}"), versions.get(name, f"no {name}")
        if then != now:
            return f"it was made with {then}, here is {now}"
    return None
