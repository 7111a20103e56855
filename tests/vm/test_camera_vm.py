"""The camera driver on real V4L2 devices: one boot of a virtual machine, one test per check inside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
MACHINE = CHECKOUT / "../shared/vm"
BUILD_S, BOOT_S = 420, 240
# What the driver needs, in the wheels of the machine's own Python.
PACKAGES = ("numpy", "opencv-python-headless")

CHECKS = tuple(re.findall(r"^@check\ndef (\w+)", (HERE / "guest_camera.py").read_text(), re.MULTILINE))

pytestmark = [pytest.mark.vm, pytest.mark.timeout(BUILD_S + BOOT_S + 60)]


@dataclass(frozen=True)
class Ran:
    results: dict[str, str]
    output: str


def make_scene(folder: Path) -> None:
    """A film in which every part of every picture has structure, for the software webcam."""
    coarse = np.random.default_rng(1).integers(60, 190, (45, 80, 3), np.uint8)
    scene = cv2.resize(coarse, (640, 360), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(
        str(folder / "scene.avi"), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (640, 360)
    )
    for index in range(50):
        picture = scene.copy()
        cv2.putText(picture, str(index), (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 2)
        writer.write(picture)
    writer.release()


def run(command: list[str], environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    if not os.environ.get("EDGEINFER_TEST_VM"):
        pytest.skip("takes minutes: set EDGEINFER_TEST_VM=1, as CI does")
    if not (MACHINE / "vm.sh").is_file():
        pytest.skip("no virtual machine beside the checkout")
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine (Debian package {package})")
    folder = tmp_path_factory.mktemp("vm")
    # The built machine (half a gigabyte) is kept between runs, outside the checkout.
    cache = Path(os.environ.get("VM_CACHE") or Path(tempfile.gettempdir()) / f"edgeinfer-vm-{os.getuid()}")
    environment = {**os.environ, "VM_CACHE": str(cache), "VM_TMP": str(folder)}
    if not (cache / "site/x86_64/cv2").is_dir():
        fetched = run([str(MACHINE / "fetch-wheels.sh"), "x86_64", *PACKAGES], environment, BUILD_S)
        if fetched.returncode:
            pytest.skip(f"the machine's Python packages cannot be had: {fetched.stderr.strip()[-200:]}")
    project, scene = folder / "project", folder / "scene"
    shutil.copytree(CHECKOUT / "edgeinfer", project / "edgeinfer", ignore=shutil.ignore_patterns("__pycache__"))
    scene.mkdir()
    make_scene(scene)
    shares = {"scripts": HERE, "tools": MACHINE / "tools", "scene": scene}
    layers = {"project": project, "site": cache / "site/x86_64"}
    command = [str(MACHINE / "vm.sh"), "run", "--timeout", str(BOOT_S)]
    for tag, path in shares.items():
        command += ["--share", f"{tag}={path}"]
    for tag, path in layers.items():
        command += ["--layer", f"{tag}={path}"]
    done = run([*command, str(HERE / "guest_camera.sh")], environment, BUILD_S + BOOT_S)
    output = done.stdout + done.stderr
    found = re.findall(r"^CHECK (\w+) [\d.]+ (.*)$", output, re.MULTILINE)
    return Ran({name: result.strip() for name, result in found}, output)


@pytest.mark.parametrize("check", CHECKS)
def test_camera(check: str, ran: Ran) -> None:
    assert ran.results.get(check, f"did not run: {ran.output[-3000:]}") == "PASS"


def test_nothing_else_is_printed(ran: Ran) -> None:
    assert ran.results
    assert "VIDEOIO" not in ran.output
    assert "select() timeout" not in ran.output
