"""What a process of the service is to be started with here, for it to be what the unit starts."""

from __future__ import annotations

import re
from pathlib import Path

UNIT = Path(__file__).parents[1] / "systemd" / "edgeinfer.service"


def environment_of(unit: Path = UNIT) -> dict[str, str]:
    """The variables that a unit sets; how malloc keeps memory is among them."""
    return dict(re.findall(r"^Environment=(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
