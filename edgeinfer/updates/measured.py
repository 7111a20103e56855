"""What a canary says of a model, and what is read from that into a verdict: pure rules."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgeinfer.updates.manifest import Budget

SLOWER_MAX = 1.5
LARGER_MAX = 1.5
# Below these, what is measured is the accident of a moment.
_SPARE_MS = 1.0
_SPARE_MB = 32.0
_SPARE_S = 1.0

_Amount = Annotated[float, Meta(ge=0.0, le=1e9)]


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model did in its canary.

    fault: what is wrong with it, None where nothing was found. is_ours: the fault is this node's and not the model's.
    device: what it ran on. p95_ms: of the frames, in the best of several rounds; memory_mb: resident at its peak, above
    what the process had before; load_s: of an opening whose proof is remembered. pictures: how many were shown to it;
    found: objects in all of them, None where it is no detector. network: `cut off`, or why it could not be.
    """

    fault: Annotated[str, Meta(max_length=2000)] | None = None
    is_ours: bool = False
    device: Annotated[str, Meta(max_length=200)] = ""
    p95_ms: _Amount = 0.0
    memory_mb: _Amount = 0.0
    load_s: _Amount = 0.0
    pictures: Annotated[int, Meta(ge=0, le=1000)] = 0
    found: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    network: Annotated[str, Meta(max_length=200)] = ""

    def in_words(self) -> str:
        """In one line."""
        found = "" if self.found is None else f", {self.found} found in {self.pictures} pictures"
        return (
            f"on {self.device}: p95 {self.p95_ms:.1f} ms, {self.memory_mb:.0f} MB, loaded in {self.load_s:.1f} s"
            f"{found}; network {self.network}"
        )


def fault_of(candidate: Measured, active: Measured | None, budget: Budget) -> str | None:
    """Why the candidate must not be used; None where it may. active: the model in use, None where it told nothing.

    What the budget does not say is held against the active model.
    """
    if candidate.fault is not None:
        return candidate.fault
    if candidate.found == 0 and active is not None and active.found:
        return f"it finds nothing in {candidate.pictures} pictures, in which the active model finds {active.found}"
    return slowness_of(candidate, active, budget) or _size_of(candidate, active, budget)


def slowness_of(candidate: Measured, active: Measured | None, budget: Budget) -> str | None:
    """Where it takes too long, by how much: what a busy board may have caused."""
    p95_ms = budget.p95_ms
    if p95_ms is None and active is not None:
        p95_ms = max(SLOWER_MAX * active.p95_ms, active.p95_ms + _SPARE_MS)
    if p95_ms is not None and candidate.p95_ms > p95_ms:
        return f"it takes {candidate.p95_ms:.1f} ms (p95), at most {p95_ms:.1f} ms are allowed"
    load_s = budget.load_s
    if load_s is None and active is not None:
        load_s = SLOWER_MAX * active.load_s + _SPARE_S
    if load_s is not None and candidate.load_s > load_s:
        return f"it takes {candidate.load_s:.1f} s to load, at most {load_s:.1f} s are allowed"
    return None


def _size_of(candidate: Measured, active: Measured | None, budget: Budget) -> str | None:
    memory_mb = budget.memory_mb
    if memory_mb is None and active is not None:
        memory_mb = LARGER_MAX * active.memory_mb + _SPARE_MB
    if memory_mb is not None and candidate.memory_mb > memory_mb:
        return f"it takes {candidate.memory_mb:.0f} MB of memory, at most {memory_mb:.0f} MB are allowed"
    return None
