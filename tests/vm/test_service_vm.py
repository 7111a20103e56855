"""The Debian package under the real systemd: one boot of a virtual machine, one test per check inside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD_S, BOOT_S = 420, 1500

CHECKS = tuple(re.findall(r"^@check\ndef (\w+)", (HERE / "guest_service.py").read_text(), re.MULTILINE))

pytestmark = [pytest.mark.vm, pytest.mark.timeout(BUILD_S + BOOT_S + 300)]


@pytest.fixture(scope="module")
def package(machine) -> Path:
    """A folder with the package for the machine's Python; uncompressed, since an emulated machine unpacks it."""
    if os.environ.get("EDGEINFER_TEST_VM") != "all":
        pytest.skip("takes a quarter of an hour: set EDGEINFER_TEST_VM=all")
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this machine (Debian package dpkg)")
    folder = machine.folder / "deb"
    command = [str(HERE.parents[1] / "scripts/deb"), "--python", "3.11", "--arch", "amd64", "--compress", "none"]
    built = subprocess.run([*command, "--output", str(folder)], capture_output=True, text=True, timeout=BUILD_S)
    if built.returncode:
        pytest.skip(f"the package cannot be built here: {built.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def ran(machine, package):
    return machine.run(HERE / "guest_service.sh", shares={"scripts": HERE, "deb": package}, seconds=BOOT_S)


@pytest.mark.parametrize("check", CHECKS)
def test_service(check: str, ran) -> None:
    assert ran.results.get(check, f"did not run: {ran.output[-3000:]}") == "PASS"
