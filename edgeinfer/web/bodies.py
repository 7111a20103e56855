"""What `/api/state` answers; light to load, for whoever only reads it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edgeinfer.result import ModelInfo
from edgeinfer.uplink.bodies import BoardInfo, SlotModel
from edgeinfer.web.health import Health

SCHEMA = "edgeinfer.state/1"


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the last result found: a label with how often it is there, or a class with its score."""

    label: str
    count: int | None = None
    score: float | None = None


class PipelineState(msgspec.Struct, frozen=True, kw_only=True):
    """state: see Pipeline. error: what ended it. ladder: device -> `in use`, `ready`, `lost: …`, the best first.

    fps, age_ms, infer_ms: of the last seconds, None where there was no result. since_last_s: since the frame of the
    last result was taken, None before the first. counts: see Report. viewers: of its picture.
    """

    name: str
    state: str
    error: str | None
    source: str
    task: str
    device: str
    ladder: Mapping[str, str]
    model: ModelInfo
    score_min: float
    fps: float
    age_ms: float | None
    infer_ms: float | None
    since_last_s: float | None
    seen: tuple[Seen, ...]
    counts: Mapping[str, int]
    viewers: int


class Trouble(msgspec.Struct, frozen=True):
    """A pipeline that does not run, and is tried again; why, in one line."""

    name: str
    reason: str


class UplinkState(msgspec.Struct, frozen=True, kw_only=True):
    """state: see Uplink. Messages since the start; depth, bytes, oldest_s: of those that wait in the spool."""

    state: str
    is_connected: bool
    accepted: int
    delivered: int
    depth: int
    bytes: int
    oldest_s: float
    dropped: Mapping[str, int]
    reconnects: int


class MachineState(msgspec.Struct, frozen=True, kw_only=True):
    """cpu_percent: of one core, by this process and the workers that ended; load: of the whole machine, of a minute."""

    cpu_percent: float
    memory_bytes: int
    memory_available_bytes: int | None
    load: float
    temperatures_c: Mapping[str, float]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A node as it is now. at: RFC 3339. may_act: whoever asks brought the token; may_sign_in: there is one.
    models: of the slots that pipelines name. last_event, last_line: numbers of the newest in the journals. troubles:
    pipelines that do not run. care: why the governor slows the others down, None where it does not."""

    node: str
    version: str
    at: str
    uptime_s: float
    may_act: bool
    may_sign_in: bool
    health: Health
    board: BoardInfo
    machine: MachineState
    pipelines: tuple[PipelineState, ...]
    uplink: UplinkState | None
    models: tuple[SlotModel, ...] = ()
    last_event: int
    last_line: int
    troubles: tuple[Trouble, ...] = ()
    care: str | None = None
    schema: str = SCHEMA
