"""The checks of guest_service.py, from this side of the machine."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.vm.machine import HERE, TEST_DATA, Machine, Ran

BOOT_S = 2100
CHECKS = tuple(re.findall(r"^@check\ndef (\w+)", (HERE / "guest_service.py").read_text(), re.MULTILINE))


def run_checks(machine: Machine, *names: str, on_line: Callable[[str], object] = lambda line: None) -> Ran:
    """All checks in one boot, or those that are named and what they go on from. Raises NoMachine."""
    machine.add_loopback()
    data = {"testdata": TEST_DATA} if TEST_DATA.is_dir() else {}
    return machine.run(
        HERE / "guest_service.sh",
        *names,
        shares={"scripts": HERE, "tools": machine.tools, "deb": machine.package(), **data},
        seconds=BOOT_S,
        on_line=on_line,
    )
