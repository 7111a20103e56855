"""The camera driver on real V4L2 devices: one boot of a virtual machine, one test per check inside."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.vm.machine import BUILD_S, CHECKOUT, HERE, NoMachine

BOOT_S = 240
# What the driver needs, in the wheels of the machine's own Python.
PACKAGES = ("numpy", "opencv-python-headless")

CHECKS = tuple(re.findall(r"^@check\ndef (\w+)", (HERE / "guest_camera.py").read_text(), re.MULTILINE))

pytestmark = [pytest.mark.vm, pytest.mark.timeout(BUILD_S + BOOT_S + 60)]


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


@pytest.fixture(scope="module")
def ran(machine):
    project, scene = machine.folder / "project", machine.folder / "scene"
    shutil.copytree(CHECKOUT / "edgeinfer", project / "edgeinfer", ignore=shutil.ignore_patterns("__pycache__"))
    scene.mkdir()
    make_scene(scene)
    try:
        site = machine.site(*PACKAGES)
    except NoMachine as missing:
        pytest.skip(str(missing))
    return machine.run(
        HERE / "guest_camera.sh",
        shares={"scripts": HERE, "tools": machine.tools, "scene": scene},
        layers={"project": project, "site": site},
        seconds=BOOT_S,
    )


@pytest.mark.parametrize("check", CHECKS)
def test_camera(check: str, ran) -> None:
    assert ran.results.get(check, f"did not run: {ran.output[-3000:]}") == "PASS"


def test_nothing_else_is_printed(ran) -> None:
    assert ran.results
    assert "VIDEOIO" not in ran.output
    assert "select() timeout" not in ran.output
