"""The Debian package under the real systemd: one boot of a virtual machine, one test per check inside.

At length, with power cuts: scripts/drills.
"""

from __future__ import annotations

import os

import pytest

from tests.vm.machine import BUILD_S, NoMachine, Ran
from tests.vm.service_drills import BOOT_S, CHECKS, run_checks

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2 * BUILD_S + BOOT_S + 300)]


@pytest.fixture(scope="module")
def ran(machine) -> Ran:
    if os.environ.get("EDGEINFER_TEST_VM") != "all":
        pytest.skip("takes a quarter of an hour: set EDGEINFER_TEST_VM=all")
    try:
        return run_checks(machine)
    except NoMachine as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("check", CHECKS)
def test_service(check: str, ran: Ran) -> None:
    result = ran.results.get(check, f"did not run: {ran.output[-3000:]}")
    if result.startswith("SKIP "):
        pytest.skip(result.removeprefix("SKIP "))
    assert result == "PASS"
