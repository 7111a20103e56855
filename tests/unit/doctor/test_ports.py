"""What the doctor says of serial ports, without opening them."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from edgeinfer.config import PipelineConfig
from edgeinfer.errors import SourceError
from edgeinfer.sources import serial


def findings(sick, source: str):
    return sick("raspberry-pi-4").findings("sources", pipelines=(PipelineConfig(model="m", source=source),))


def test_a_port_that_is_there_is_well_and_one_that_is_not_is_said(sick, tmp_path: Path) -> None:
    end, port = pty.openpty()
    try:
        assert findings(sick, f"serial://{os.ttyname(port)}") == ()
    finally:
        os.close(end)
        os.close(port)
    (absent,) = findings(sick, "serial:///dev/ttyNONE0")
    assert absent.severity == "error"
    assert "there is no /dev/ttyNONE0" in absent.what
    (wrong,) = findings(sick, "serial:///dev/ttyNONE0?baud=fast")
    assert "baud=fast" in wrong.what
    (tmp_path / "file").touch()
    (no_port,) = findings(sick, f"serial://{tmp_path}/file")
    assert "is no serial port" in no_port.what


def test_no_permission_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SourceError, match="no permission for /dev/null; join its group: .*group root"):
        serial.check_access("serial:///dev/null", serial.read_port("serial:///dev/null"))


def test_the_name_that_stays(tmp_path: Path) -> None:
    (tmp_path / "usb-Sensor").symlink_to("/dev/ttyUSB7")
    assert serial.stable_name("/dev/ttyUSB7", tmp_path) == str(tmp_path / "usb-Sensor")
    assert serial.stable_name("/dev/ttyUSB8", tmp_path) is None
    assert serial.stable_name("/dev/ttyS0", tmp_path) is None
