"""The steps of a release in its slot, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Step = Literal["idle", "fetching", "verified", "canary", "staged", "trial", "committed", "rolled_back", "rejected"]

RESTING: frozenset[Step] = frozenset({"idle", "committed", "rolled_back", "rejected"})
"""Nothing is under way: there is no candidate."""

CANARY_ATTEMPTS = 3
"""A canary that takes the machine along is begun so often; then the release is rejected."""

_BEGINS: frozenset[Step] = frozenset({"fetching", "staged"})
_FOLLOWS: Mapping[Step, frozenset[Step]] = {
    **dict.fromkeys(RESTING, _BEGINS),
    "fetching": _BEGINS | {"verified", "rejected", "idle"},
    "verified": _BEGINS | {"canary", "rejected", "idle"},
    "canary": _BEGINS | {"canary", "verified", "rejected", "idle"},
    "staged": _BEGINS | {"trial", "rolled_back", "rejected", "idle"},
    "trial": frozenset({"trial", "staged", "committed", "rolled_back", "rejected"}),
}


def may_follow(step: Step, coming: Step) -> bool:
    """Whether a slot at `step` may go to `coming`: what is in use on trial is never replaced by another one."""
    return coming in _FOLLOWS[step]
