"""Results of every form, and the messages of a node, for tests of what is sent and of what receives it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeinfer.clock import Clock, rfc3339
from edgeinfer.result import Classification, Detection, ModelInfo, Result, SourceInfo, Timing
from edgeinfer.uplink.bodies import (
    BoardInfo,
    Meta,
    Metrics,
    PipelineInfo,
    PipelineMetrics,
    ShadowReport,
    SlotModel,
    UplinkMetrics,
)
from edgeinfer.uplink.message import Message, Spooled
from edgeinfer.uplink.messages import Composer
from edgeinfer.uplink.selection import message_of_result
from edgeinfer.uplink.topics import Topics

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
EPOCH = "0123456789abcdef"
BEGAN_UNIX_NS = 1_795_000_000_000_000_000


def detection(label: str, *, track_id: int | None = None, score: float = 0.9, left: float = 0.25) -> Detection:
    return Detection(
        label=label, class_id=0, score=score, box_xyxy=(left, 0.25, min(1.0, left + 0.5), 0.75), track_id=track_id
    )


def result(
    seq: int = 0,
    *,
    at_s: float | None = None,
    labels: Iterable[str] = (),
    detections: Iterable[Detection] | None = None,
    best: str | None = None,
    pipeline: str = "door",
    node: str = "pi-7",
    **more: Any,
) -> Result:
    """A result of a tenth of a second per frame, unless `at_s` says otherwise; `best` makes it one of a classifier."""
    passed_ns = round((seq / 10 if at_s is None else at_s) * 1e9)
    found = tuple(detection(label) for label in labels) if detections is None else tuple(detections)
    classes = None if best is None else tuple([Classification(label=best, class_id=3, score=0.8)] if best else [])
    return Result(
        id=f"{seq:026d}",
        node=node,
        pipeline=pipeline,
        seq=seq,
        captured_at=rfc3339(BEGAN_UNIX_NS + passed_ns),
        clock="synced",
        monotonic_ns=5_000_000_000 + passed_ns,
        source=SourceInfo("/dev/video0", 768, 432),
        model=ModelInfo("ssd", "3", "ab" * 32),
        device="litert:cpu",
        task="detect" if best is None else "classify",
        detections=found if best is None else None,
        **{"classes": classes, **more},
        timing_ms=Timing(0.1, 0.2, 5.1, 0.1, 6.0),
    )


def composer(node: str = "pi-7", *, done: int = 0, session: int = 3, epoch: str = EPOCH) -> Composer:
    clock = Clock(monotonic_ns=lambda: 0, unix_ns=lambda: BEGAN_UNIX_NS)
    return Composer(Topics(node), epoch, lambda: done, session=session, clock=clock)


def spooled(seq: int, message: Message | None = None) -> Spooled:
    return Spooled(seq, message or message_of_result(result(seq, labels=["person"])))


def gap(first: int, last: int, reason: str = "full") -> Spooled:
    data = json.dumps({"first": first, "last": last, "reason": reason}).encode()
    return Spooled(last, Message("gap", "", BEGAN_UNIX_NS, "synced", data))


def pipeline_info(name: str = "door", **more: Any) -> PipelineInfo:
    facts: dict[str, Any] = {
        "name": name,
        "task": "detect",
        "device": "litert:cpu",
        "source": "/dev/video0",
        "model": ModelInfo("ssd", "3", "ab" * 32),
        "send": "all",
        "labels": ("person", "dog"),
        "snapshot": 10.0,
    }
    return PipelineInfo(**{**facts, **more})


def meta(*pipelines: PipelineInfo) -> Meta:
    return Meta(
        edgeinfer="0.1.0",
        python="3.11.7",
        runtimes={"litert": "2.3.0", "onnx": "1.32.0"},
        devices=("litert:cpu", "onnx:cpu"),
        board=BoardInfo(
            model="Raspberry Pi 5 Model B Rev 1.0",
            profile="raspberry-pi-5",
            architecture="aarch64",
            cpu="Cortex-A76",
            cores=4,
            memory_bytes=8 << 30,
        ),
        mode="broker",
        commands=("pause", "resume"),
        pipelines=pipelines or (pipeline_info(),),
    )


def slot_model(**more: Any) -> SlotModel:
    """A slot with a release on trial."""
    facts: dict[str, Any] = {
        "slot": "detector",
        "state": "trial",
        "since": "2026-11-18T11:06:40.000000Z",
        "release": 4,
        "model": ModelInfo("ssd", "4", "cd" * 32),
        "previous": 3,
        "candidate": 5,
        "attempts": 2,
        "floor": 4,
        "pipelines": ("door",),
        "shadow": ShadowReport(
            share=0.05,
            frames=200,
            skipped=12,
            agreement=0.9712,
            by_class={"person": 0.98, "dog": 0.91},
            p95_ms=5.4,
            active_p95_ms=5.2,
        ),
    }
    return SlotModel(**{**facts, **more})


def metrics() -> Metrics:
    return Metrics(
        uptime_s=12.5,
        pipelines={"door": PipelineMetrics(frames=250, fps=19.96, dropped={"superseded": 3})},
        uplink=UplinkMetrics(
            accepted=250, delivered=248, spool_depth=2, spool_bytes=4096, oldest_s=0.05, dropped={"pending": 0}
        ),
        temperatures_c={"cpu-thermal": 51.2},
    )
