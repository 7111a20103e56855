"""scripts/aarch64: what arm64 makes of the same frames as this machine; ends with 1 where that differs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE, PYTHON = "bookworm", "3.11"
# The core to emulate, and whose /proc/cpuinfo (tests/boards) is shown: by it XNNPACK chooses its kernels, and by that
# of this machine it would crash. Only the Cortex-A76 has dot products of 8 bits.
BOARDS = {
    "raspberry-pi-5": "cortex-a76",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-zero-2-w": "cortex-a53",
    "coral-dev-board": "cortex-a53",
}
BOARD = "raspberry-pi-5"
FRAMES = 3
# What Python and the wheels link to. Nothing of it is configured, so that no program for arm64 runs while it is made.
_PACKAGES = ("python3.11", "libstdc++6", "libgcc-s1", "libgomp1", "zlib1g")
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_BUILD_S = 400
_RUN_S = 300

# Kernels for another machine may round otherwise, and one step of an 8-bit score is 0.004.
BOX_TOLERANCE = 0.01
SCORE_TOLERANCE = 0.02
SCORE_MIN = 0.3

_CONFIG = """
[[pipeline]]
name = "litert"
model = "blood-cells"
source = "synthetic://test-card?frames={frames}"
score_min = {score_min}
device = "litert:cpu"
output = ["{folder}/litert.jsonl"]

[[pipeline]]
name = "isolated"
model = "blood-cells"
source = "synthetic://blood-smear?frames={frames}"
score_min = {score_min}
device = "litert:cpu"
isolate = true
output = ["{folder}/isolated.jsonl", "{folder}/isolated.mp4"]

[[pipeline]]
name = "onnx"
model = "blood-cells"
source = "synthetic://blood-smear?frames={frames}"
score_min = {score_min}
device = "onnx:cpu"
output = ["{folder}/onnx.jsonl"]
"""
PIPELINES = {"litert": "litert:cpu", "isolated": "litert:cpu", "onnx": "onnx:cpu"}

# The emulator is known to this namespace of users only (Linux 6.7), or to the whole machine by binfmt-support.
_ENTER = """
root=$1 rule=$2 cpuinfo=$3
shift 3
if mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>/dev/null; then
    printf %s "$rule" >/proc/sys/fs/binfmt_misc/register
fi
for folder in proc sys dev; do
    mkdir -p "$root/$folder"
    mount --rbind "/$folder" "$root/$folder"
done
mount --bind "$cpuinfo" "$root/proc/cpuinfo"
exec chroot "$root" "$@"
"""
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "EDGEINFER_STATE": "/tmp/state",
}


class NoEmulation(Exception):
    """What is missing here, in a line."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Over all frames: the widest distances of detections that belong together, and those that have no counterpart."""

    frames: int
    detections: int
    box: float
    score: float
    alone: tuple[str, ...]

    @property
    def is_small(self) -> bool:
        return not self.alone and self.score <= SCORE_TOLERANCE


class Arm64:
    """A root for arm64 with the Debian package in it.

    folder: for the root and what is made on the way, half a gigabyte. board: one of BOARDS. Raises NoEmulation.
    """

    def __init__(self, folder: Path, *, board: str = BOARD) -> None:
        found = [path for name in _EMULATORS if (path := shutil.which(name)) is not None]
        if not found:
            raise NoEmulation("no qemu-aarch64-static on this machine (Debian package qemu-user-static)")
        for tool, package in (("mmdebstrap", "mmdebstrap"), ("dpkg-deb", "dpkg"), ("unshare", "util-linux")):
            if shutil.which(tool) is None:
                raise NoEmulation(f"no {tool} on this machine (Debian package {package})")
        self.root = folder / "root"
        self._rule = _binfmt_rule(found[0])
        self._cpu = BOARDS[board]
        self._cpuinfo = ROOT / "tests" / "boards" / board / "proc" / "cpuinfo"
        _make("the root for arm64", _mmdebstrap(self.root))
        self._try()
        deb = ["scripts/deb", "--arch", "arm64", "--python", PYTHON, "--compress", "none", "--output", str(folder)]
        package = _make("the package for arm64", [str(ROOT / deb[0]), *deb[1:]]).splitlines()[-1]
        _make("the package's folder", ["dpkg-deb", "--extract", package, str(self.root)])

    def run(self, words: Sequence[str], *, seconds: int = _RUN_S) -> subprocess.CompletedProcess[str]:
        """A program in the root, with nothing of this machine but its kernel."""
        command = ["unshare", "--user", "--map-root-user", "--mount", "--fork", "--kill-child"]
        command += ["sh", "-euc", _ENTER, "sh", str(self.root), self._rule, str(self._cpuinfo), *words]
        environment = {**_ENVIRONMENT, "QEMU_CPU": self._cpu}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)

    def _try(self) -> None:
        tried = self.run([f"/usr/bin/python{PYTHON}", "-c", "import platform; print(platform.machine())"])
        if tried.stdout.strip() != "aarch64":
            said = (tried.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise NoEmulation(f"programs for arm64 do not run here: {said} (needs Linux 6.7, or binfmt-support)")


def results_of_arm64(arm64: Arm64, frames: int) -> dict[str, list[dict]]:
    """What each pipeline says on arm64."""
    folder = arm64.root / "tmp"
    folder.mkdir(exist_ok=True)
    (folder / "edgeinfer.toml").write_text(_config(frames, "/tmp"))
    _judge(arm64.run(["/usr/bin/edgeinfer", "run", "--quiet", "--config", "/tmp/edgeinfer.toml"]))
    return _results_in(folder)


def results_of_this_machine(folder: Path, frames: int) -> dict[str, list[dict]]:
    """What each pipeline says here."""
    (folder / "edgeinfer.toml").write_text(_config(frames, str(folder)))
    words = [sys.executable, "-m", "edgeinfer", "run", "--quiet", "--config", str(folder / "edgeinfer.toml")]
    environment = {**os.environ, "EDGEINFER_STATE": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=_RUN_S, check=False)
    _judge(done)
    return _results_in(folder)


def difference(here: Sequence[Mapping], there: Sequence[Mapping]) -> Difference:
    """Detections belong together by label and box; one that barely passes SCORE_MIN may be missing."""
    box = score = 0.0
    alone: list[str] = []
    count = 0
    if [one["seq"] for one in here] != [one["seq"] for one in there]:
        alone.append(f"{len(here)} frames here, {len(there)} there")
    for ours, theirs in zip(here, there, strict=False):
        left = list(theirs["detections"])
        for detection in ours["detections"]:
            count += 1
            other = min(left, key=lambda one: _distance(detection, one), default=None)
            if other is None or _distance(detection, other) > BOX_TOLERANCE:
                alone += _unless_faint("here", ours["seq"], detection)
                continue
            left.remove(other)
            box = max(box, _distance(detection, other))
            score = max(score, abs(detection["score"] - other["score"]))
        for detection in left:
            alone += _unless_faint("there", ours["seq"], detection)
    return Difference(len(here), count, box, score, tuple(alone))


def _config(frames: int, folder: str) -> str:
    return _CONFIG.format(frames=frames, folder=folder, score_min=SCORE_MIN)


def _distance(one: Mapping, other: Mapping) -> float:
    """Of the coordinate that differs most; infinite where the labels do."""
    if one["label"] != other["label"]:
        return float("inf")
    return max(abs(mine - its) for mine, its in zip(one["box_xyxy"], other["box_xyxy"], strict=True))


def _unless_faint(side: str, seq: int, detection: Mapping) -> Iterable[str]:
    if detection["score"] < SCORE_MIN + SCORE_TOLERANCE:
        return []
    return [f"frame {seq}: only {side}: {detection['label']} {detection['score']} at {detection['box_xyxy']}"]


def _results_in(folder: Path) -> dict[str, list[dict]]:
    return {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()] for name in PIPELINES
    }


def _judge(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise RuntimeError(f"edgeinfer run ended with {done.returncode}: {done.stderr.strip()[-1000:]}")


def _mmdebstrap(root: Path) -> list[str]:
    without = [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("man", "doc", "locale")]
    options = ["--quiet", "--variant=extract", "--architectures=arm64", f"--include={','.join(_PACKAGES)}", *without]
    return ["mmdebstrap", *options, SUITE, str(root), _mirror()]


def _mirror() -> str:
    """The archive that this machine's own apt asks, where that is Debian's."""
    usual = "http://deb.debian.org/debian"
    if shutil.which("apt-get") is None:
        return usual
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return next((place.rstrip("/") for place in listed if place.rstrip("/").endswith("/debian")), usual)


def _make(what: str, command: Sequence[str]) -> str:
    """What it printed. Raises NoEmulation."""
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise NoEmulation(f"{what} took longer than {_BUILD_S} s to make") from late
    if made.returncode:
        raise NoEmulation(f"{what} cannot be made here: {made.stderr.strip()[-300:]}")
    return made.stdout


def _binfmt_rule(emulator: str) -> str:
    """How the kernel knows an ELF file for arm64: 64 bits, little-endian, program or shared object, machine 0xb7.

    F: the emulator is opened now, since it is not in the root.
    """
    magic = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
    return f":qemu-aarch64:M::{_escaped(magic)}:{_escaped(mask)}:{emulator}:F"


def _escaped(raw: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in raw)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/aarch64", description=__doc__)
    parser.add_argument("--board", choices=BOARDS, default=BOARD, help=f"whose core to emulate (default: {BOARD})")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"of each pipeline (default: {FRAMES})")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeinfer-aarch64-") as folder:
        try:
            arm64 = Arm64(Path(folder), board=words.board)
        except NoEmulation as missing:
            print(f"error: {missing}", file=sys.stderr)
            return 2
        (mine := Path(folder) / "here").mkdir()
        here, there = results_of_this_machine(mine, words.frames), results_of_arm64(arm64, words.frames)
    return 1 if [name for name in PIPELINES if not _show(name, here[name], there[name])] else 0


def _show(name: str, here: Sequence[Mapping], there: Sequence[Mapping]) -> bool:
    """Whether they are the same."""
    found = difference(here, there)
    word = "PASS" if found.is_small else "FAIL"
    distances = f"boxes differ by at most {found.box:.4f}, scores by {found.score:.4f}"
    print(f"{word}  {name}: {found.frames} frames, {found.detections} detections: {distances}", flush=True)
    for line in found.alone:
        print(f"      {line}")
    return found.is_small


if __name__ == "__main__":
    sys.exit(main())
