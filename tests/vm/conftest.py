"""The virtual machine that the tests in this folder boot, where there is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
MACHINE = CHECKOUT / "../shared/vm"
BUILD_S = 420


@dataclass(frozen=True)
class Ran:
    """What came of the checks of one boot, and all that was printed."""

    results: dict[str, str]
    output: str


class Machine:
    """Built once and kept outside the checkout (half a gigabyte); each boot begins with it as it was built."""

    tools = MACHINE / "tools"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = Path(os.environ.get("VM_CACHE") or Path(tempfile.gettempdir()) / f"edgeinfer-vm-{os.getuid()}")
        self._environment = {**os.environ, "VM_CACHE": str(self.cache), "VM_TMP": str(folder)}

    def site(self, *packages: str) -> Path:
        """The folder with these packages for the machine's Python, fetched where it is not there yet."""
        if not (self.cache / "site/x86_64/cv2").is_dir():
            fetched = self._run([str(MACHINE / "fetch-wheels.sh"), "x86_64", *packages], BUILD_S)
            if fetched.returncode:
                pytest.skip(f"the machine's Python packages cannot be had: {fetched.stderr.strip()[-200:]}")
        return self.cache / "site/x86_64"

    def run(
        self, script: Path, *, shares: Mapping[str, Path], layers: Mapping[str, Path] | None = None, seconds: int
    ) -> Ran:
        """Boot, run the script, and read its lines `CHECK name seconds result`."""
        command = [str(MACHINE / "vm.sh"), "run", "--timeout", str(seconds)]
        for tag, path in shares.items():
            command += ["--share", f"{tag}={path}"]
        for tag, path in (layers or {}).items():
            command += ["--layer", f"{tag}={path}"]
        done = self._run([*command, str(script)], BUILD_S + seconds)
        output = done.stdout + done.stderr
        found = re.findall(r"^CHECK (\w+) [\d.]+ (.*)$", output, re.MULTILINE)
        return Ran({name: result.strip() for name, result in found}, output)

    def _run(self, command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    if not os.environ.get("EDGEINFER_TEST_VM"):
        pytest.skip("takes minutes: set EDGEINFER_TEST_VM=1, as CI does")
    if not (MACHINE / "vm.sh").is_file():
        pytest.skip("no virtual machine beside the checkout")
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine (Debian package {package})")
    return Machine(tmp_path_factory.mktemp("vm"))
