"""What the doctor says of serial ports, without opening them."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from edgeinfer.config import Config, PipelineConfig
from edgeinfer.doctor.sources import sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import serial


@pytest.fixture
def findings(sick):
    board = sick("raspberry-pi-4")

    def of(source: str) -> list:
        config = Config(pipeline=(PipelineConfig(model="m", source=source),))
        return list(sources(board.patient(config=config)))

    return of


def test_a_port_that_is_there_is_well_and_one_that_is_not_is_said(findings, tmp_path: Path) -> None:
    end, port = pty.openpty()
    try:
        assert findings(f"serial://{os.ttyname(port)}") == []
    finally:
        os.close(end)
        os.close(port)
    (absent,) = findings("serial:///dev/ttyNONE0")
    assert absent.severity == "error"
    assert "there is no /dev/ttyNONE0" in absent.what
    (wrong,) = findings("serial:///dev/ttyNONE0?baud=fast")
    assert "baud=fast" in wrong.what
    (tmp_path / "file").touch()
    (no_port,) = findings(f"serial://{tmp_path}/file")
    assert "is no serial port" in no_port.what


@pytest.mark.parametrize(
    ("group", "hint"),
    [("dialout", r"join its group: sudo usermod -aG dialout \$USER"), ("root", "ls -l /dev/null says")],
)
def test_no_permission_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, group: str, hint: str) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "group", lambda _: group)
    with pytest.raises(SourceError, match=f"no permission for /dev/null; {hint}"):
        serial.check_access("serial:///dev/null", serial.read_port("serial:///dev/null"))


def test_the_name_that_stays(tmp_path: Path) -> None:
    (tmp_path / "usb-Sensor").symlink_to("/dev/ttyUSB7")
    assert serial.stable_name("/dev/ttyUSB7", tmp_path) == str(tmp_path / "usb-Sensor")
    assert serial.stable_name("/dev/ttyUSB8", tmp_path) is None
    assert serial.stable_name("/dev/ttyS0", tmp_path) is None
