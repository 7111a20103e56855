"""The virtual machine that tests and drills boot, where there is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
MACHINE = CHECKOUT / "../shared/vm"
TEST_DATA = CHECKOUT / "../shared/testdata"
BUILD_S = 420
CHECK_LINE = re.compile(r"CHECK (\w+) ([\d.]+) (.*)")

_TOOLS = (("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"))
# Of the compiler for its kernel, which is not needed for anything else.
_MODULE_TOOLS = ("gcc-12", "make")


class NoMachine(Exception):
    """What is missing here, in a line."""


@dataclass(frozen=True)
class Cut:
    """The power goes `after_s` after a line of output that matches `on`."""

    on: str
    after_s: float


@dataclass(frozen=True)
class Sign:
    """A line of output that a machine gives that came up; one that hangs instead is ended after `within_s`."""

    on: str
    within_s: float


@dataclass(frozen=True)
class Ran:
    """What came of the checks of one boot, and all that was printed. code: the script's; 124 after the time limit, 125
    where the machine ended without the script, as after a cut; negative where it was ended by that signal. hung: it was
    ended for want of its Sign."""

    results: dict[str, str]
    output: str
    code: int
    hung: bool = False


class Machine:
    """Built once and kept outside the checkout (half a gigabyte); each boot begins with it as it was built.

    folder: for what is made on the way. Raises NoMachine.
    """

    tools = MACHINE / "tools"

    def __init__(self, folder: Path) -> None:
        if not (MACHINE / "vm.sh").is_file():
            raise NoMachine("no virtual machine beside the checkout")
        for tool, package in _TOOLS:
            if shutil.which(tool) is None:
                raise NoMachine(f"no {tool} on this machine (Debian package {package})")
        self.folder = folder
        self.cache = Path(os.environ.get("VM_CACHE") or Path(tempfile.gettempdir()) / f"edgeinfer-vm-{os.getuid()}")
        self._environment = {**os.environ, "VM_CACHE": str(self.cache), "VM_TMP": str(folder)}

    def site(self, *packages: str) -> Path:
        """The folder with these packages for the machine's Python, fetched where it is not there. Raises NoMachine."""
        if not (self.cache / "site/x86_64/cv2").is_dir():
            fetched = self._make([str(MACHINE / "fetch-wheels.sh"), "x86_64", *packages])
            if fetched.returncode:
                raise NoMachine(f"the machine's Python packages cannot be had: {fetched.stderr.strip()[-200:]}")
        return self.cache / "site/x86_64"

    def package(self) -> Path:
        """A folder with the Debian package for the machine's Python. Raises NoMachine."""
        if shutil.which("dpkg-deb") is None:
            raise NoMachine("no dpkg-deb on this machine (Debian package dpkg)")
        folder = self.folder / "deb"
        # Not compressed, since an emulated machine unpacks it.
        command = [str(CHECKOUT / "scripts/deb"), "--python", "3.11", "--arch", "amd64", "--compress", "none"]
        built = self._make([*command, "--output", str(folder)])
        if built.returncode:
            raise NoMachine(f"the package cannot be built here: {built.stderr.strip()[-200:]}")
        return folder

    def add_loopback(self) -> bool:
        """Compile v4l2loopback for the machine's kernel, so that its next build has it; whether that could be done."""
        if (self.cache / "kmods/amd64/v4l2loopback.ko").is_file():
            return True
        if any(shutil.which(tool) is None for tool in _MODULE_TOOLS):
            return False
        return self._make([str(MACHINE / "build-kmods.sh")]).returncode == 0

    def run(
        self,
        script: Path,
        *words: str,
        shares: Mapping[str, Path] | None = None,
        layers: Mapping[str, Path] | None = None,
        root: Path | None = None,
        cut: Cut | None = None,
        sign: Sign | None = None,
        seconds: int,
        on_line: Callable[[str], object] = lambda line: None,
    ) -> Ran:
        """Boot, run the script, and read its lines `CHECK name seconds result`.

        shares: folders of this machine, at /vm/NAME. layers: the same as disks, which are faster. root: a file that
        keeps what becomes of the machine's disk; made where it is not there. on_line: told of each line as it comes.
        """
        command = [str(MACHINE / "vm.sh"), "run", "--timeout", str(seconds)]
        for tag, path in (shares or {}).items():
            command += ["--share", f"{tag}={path}"]
        for tag, path in (layers or {}).items():
            command += ["--layer", f"{tag}={path}"]
        if root is not None:
            command += ["--state", str(root)]
        if cut is not None:
            command += ["--cut-on", cut.on, "--cut-after", f"{cut.after_s:.2f}"]
        if sign is not None:
            # What takes minutes the first time is no sign of a machine that hangs.
            built = self._make([str(MACHINE / "vm.sh"), "build"])
            if built.returncode:
                raise NoMachine(f"the machine cannot be built: {built.stderr.strip()[-1000:]}")
        lines: list[str] = []
        hung = threading.Event()
        with subprocess.Popen(
            [*command, str(script), *words],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None

            def end_hung() -> None:
                hung.set()
                process.terminate()

            limits = [threading.Timer(BUILD_S + seconds, process.kill)]
            if sign is not None:
                limits.append(threading.Timer(sign.within_s, end_hung))
            for limit in limits:
                limit.start()
            try:
                for line in process.stdout:
                    lines.append(line)
                    if sign is not None and re.match(sign.on, line):
                        limits[-1].cancel()
                    on_line(line.rstrip())
            finally:
                for limit in limits:
                    limit.cancel()
                process.terminate()
        found = filter(None, map(CHECK_LINE.match, lines))
        return Ran({each[1]: each[3].strip() for each in found}, "".join(lines), process.returncode, hung.is_set())

    def _make(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Raises NoMachine where it takes too long."""
        try:
            return subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=BUILD_S, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise NoMachine(f"{Path(command[0]).name} took longer than {BUILD_S} s") from late
