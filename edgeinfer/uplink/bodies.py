"""What the bodies hold, besides a result: of a node, a slot, an event, an acknowledgement, a command, its answer.

`docs/schemas/` says the same in JSON Schema, for other languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta as Rule

from edgeinfer.result import ModelInfo

State = Literal["online", "degraded", "stopped", "offline"]
SlotStep = Literal[
    "idle",
    "fetching",
    "verified",
    "canary",
    "staged",
    "shadow",
    "trial",
    "committed",
    "rejected",
    "rolled_back",
]
CommandName = Literal["pause", "resume", "snapshot", "threshold", "reload"]

Epoch = Annotated[str, Rule(pattern=r"^([0-9a-f]{16})?\Z")]
CommandId = Annotated[str, Rule(pattern=r"^[\x21-\x7e]+\Z", max_length=64)]
PipelineName = Annotated[str, Rule(min_length=1, max_length=64)]


class Status(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How the node is. A state of a session below one that was seen already is late, and no longer true.

    session: a number for each connection, increasing. since: when it came to be so, RFC 3339; None in a will, which was
    written before. reason: why degraded. epoch: of the spool, "" while it cannot be opened.
    """

    state: State
    session: int
    epoch: str
    since: str | None = None
    reason: str | None = None


class BoardInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the node runs on. memory_bytes: None where not known."""

    model: str
    profile: str
    architecture: str
    cpu: str
    cores: int
    memory_bytes: int | None


class ValueInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number that a model gives, and names."""

    name: str
    unit: str | None = None


class PipelineInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a pipeline does. labels, values: of its model, where few. send_rate: per second; snapshot: seconds."""

    name: str
    task: str
    device: str
    source: str
    model: ModelInfo
    send: str
    labels: tuple[str, ...] = ()
    values: tuple[ValueInfo, ...] = ()
    send_rate: float | None = None
    snapshot: float | None = None


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What the node is. runtimes: name -> version; devices: those its pipelines compute on; commands: those allowed."""

    edgeinfer: str
    python: str
    runtimes: Mapping[str, str]
    devices: tuple[str, ...]
    board: BoardInfo
    mode: Literal["broker", "consumer"]
    commands: tuple[str, ...]
    pipelines: tuple[PipelineInfo, ...]


class PipelineMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Since the start: frames that were inferred or answered by the gate, drops by reason. fps: of late."""

    frames: int
    fps: float
    dropped: Mapping[str, int]


class UplinkMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """accepted, delivered, dropped: messages since the start. spool_depth: those not done; oldest_s: the age of the
    oldest of them, 0 where there is none."""

    accepted: int
    delivered: int
    spool_depth: int
    spool_bytes: int
    oldest_s: float
    dropped: Mapping[str, int]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers only. pipelines: by name; temperatures_c: by sensor, empty where the kernel shows none."""

    uptime_s: float
    pipelines: Mapping[str, PipelineMetrics]
    uplink: UplinkMetrics
    temperatures_c: Mapping[str, float]


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a candidate did beside the active model. share: of the frames that it was to see; frames: that it saw;
    skipped: for lack of time. agreement, by_class: 0..1, the first None where neither found anything. p95: of a frame.
    """

    share: float
    frames: int
    skipped: int
    agreement: float | None
    by_class: Mapping[str, float]
    p95_ms: float
    active_p95_ms: float


class SlotModel(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a slot stands. release: the active one, 0 the factory's; previous, candidate: likewise. since: RFC 3339.

    model: what answers now, which in a trial is the candidate; None while no pipeline of the slot runs. attempts: that
    are left of a trial. floor: no release up to it is taken any more. pipelines: that name this slot.
    """

    slot: str
    state: SlotStep
    since: str | None = None
    reason: str | None = None
    release: int | None = None
    model: ModelInfo | None = None
    previous: int | None = None
    candidate: int | None = None
    attempts: int | None = None
    floor: int
    pipelines: tuple[str, ...]
    shadow: ShadowReport | None = None


class Ack(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """All messages of the epoch up to `seq` are done. resume: send again what comes after; epoch "" asks for all."""

    epoch: Epoch
    seq: Annotated[int, Rule(ge=0, le=(1 << 63) - 1)]
    resume: bool = False


class Command(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """pause, resume, snapshot, reload. id: chosen by who asks: the same one twice is carried out once.

    pipeline: all of them where none is named; `reload` is for the whole node.
    """

    id: CommandId
    pipeline: PipelineName | None = None


class ThresholdCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """threshold. score_min: 0..1."""

    id: CommandId
    pipeline: PipelineName
    score_min: Annotated[float, Rule(ge=0.0, le=1.0)]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """To a command. id: the command's, "" where it could not be read; error: one line, where it is not ok."""

    id: str
    ok: bool
    error: str | None = None
