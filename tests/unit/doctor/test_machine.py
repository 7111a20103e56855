"""What only this machine can be asked: its clock, its disk, its models, its broker."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from brokers import free_port, mosquitto
from tiny_models import tflite_model

from edgeinfer.clock import Clock
from edgeinfer.config import Config, PipelineConfig, UplinkConfig
from edgeinfer.doctor import CHECKS, Finding
from edgeinfer.doctor.broker import why_not

YEAR_NS = 365 * 86_400_000_000_000


def of(check: str, patient) -> tuple[Finding, ...]:
    return tuple(CHECKS[check].look(patient))


def config(*, uplink: UplinkConfig | None = None, **pipeline) -> Config:
    words = {"model": "blood-cells", "source": "synthetic://noise", **pipeline}
    return Config(pipeline=(PipelineConfig(**words),), uplink=uplink)


@pytest.fixture
def pi(sick):
    return sick("raspberry-pi-5")


def test_a_clock_before_the_installation_is_wrong(pi):
    wrong, *_ = of("clock", pi.patient(clock=Clock(unix_ns=lambda: YEAR_NS)))
    assert wrong.severity == "error"
    assert "the clock says 1971-01-01T00:00" in wrong.what
    assert wrong.remedy == "sudo timedatectl set-ntp true"


def test_a_clock_that_nobody_keeps_right_and_none_with_a_battery(pi):
    pi.write("sys/class/rtc/rtc0/name", "rtc-ds1307")
    assert of("clock", pi.patient(clock_state="synced")) == ()
    (unsynced,) = of("clock", pi.patient(clock_state="unsynced"))
    assert (unsynced.severity, unsynced.remedy) == ("warning", "sudo timedatectl set-ntp true")
    (pi.folder / "sys/class/rtc/rtc0/name").unlink()
    (pi.folder / "sys/class/rtc/rtc0").rmdir()
    (no_battery,) = of("clock", pi.patient(clock_state="synced"))
    assert no_battery.severity == "note"


def test_a_state_folder_that_can_be_made_or_written_is_well(pi, tmp_path):
    for state in (tmp_path, tmp_path / "not/yet/there"):
        assert of("state", pi.patient(state=state)) == ()
    assert not (tmp_path / "not").exists()
    assert list(tmp_path.glob("tmp*")) == []


def test_a_state_folder_that_cannot_be_written_is_an_error(pi):
    (closed,) = of("state", pi.patient(state=Path("/proc/self")))
    assert closed.severity == "error"
    assert "nothing can be kept in /proc/self" in closed.what


def test_a_full_and_a_nearly_full_disk(pi, tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)

    def with_free(free_bytes: int, whole_bytes: int):
        fields = list(real[:10])
        fields[0] = fields[1] = 4096
        fields[2], fields[4] = whole_bytes // 4096, free_bytes // 4096
        fields[8] = 0
        return lambda _: os.statvfs_result(fields)

    monkeypatch.setattr("edgeinfer.doctor.state.os.statvfs", with_free(10_000_000, 32_000_000_000))
    (full,) = of("disk", pi.patient(state=tmp_path))
    assert full.severity == "error"
    assert "is full: 10 MB of 32.0 GB are free" in full.what
    assert full.remedy.startswith("sudo apt clean")
    monkeypatch.setattr("edgeinfer.doctor.state.os.statvfs", with_free(500_000_000, 32_000_000_000))
    (nearly,) = of("disk", pi.patient(state=tmp_path))
    assert nearly.severity == "warning"
    (spool,) = of(
        "spool", pi.patient(state=tmp_path, config=config(uplink=UplinkConfig(url="mqtt://b", spool_bytes="1GB")))
    )
    assert spool.what == "the spool may grow to 1.0 GB, and there is room for 500 MB"
    assert spool.remedy == '[uplink] spool_bytes = "249MB"'


def test_a_spool_that_was_set_aside_is_told_of(pi, tmp_path):
    aside = tmp_path / "uplink/pi-7/spool.corrupt-1"
    aside.parent.mkdir(parents=True)
    aside.write_bytes(b"?")
    (lost,) = of("spool", pi.patient(state=tmp_path, config=config(uplink=UplinkConfig(url="mqtt://b"))))
    assert str(aside) in lost.what
    assert lost.remedy.startswith("rm ")


def test_sources_that_are_not_there(pi):
    (camera,) = of("sources", pi.patient(config=config(source="/dev/video97")))
    assert camera.severity == "error"
    assert camera.what == "pipeline main: camera '/dev/video97': there is no /dev/video97"
    (file,) = of("sources", pi.patient(config=config(source="no-such-clip.mp4")))
    assert "no-such-clip.mp4" in file.what
    assert of("sources", pi.patient(config=config())) == ()


def test_a_model_that_is_not_whole_and_one_that_runs(pi, tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(tflite_model()[:100])
    (finding,) = of("models", pi.patient(model=str(broken)))
    assert finding.severity == "error"
    assert of("models", pi.patient(model="blood-cells", config=config())) == ()
    (finding,) = of("models", pi.patient(config=config(model="no-such-bundle")))
    assert finding.what.startswith("pipeline main: ")


def test_a_broker_that_is_not_there_is_an_error_with_the_address(pi):
    port = free_port()
    (finding,) = of("broker", pi.patient(config=config(uplink=UplinkConfig(url=f"mqtt://127.0.0.1:{port}"))))
    assert finding.severity == "error"
    assert f"mqtt://127.0.0.1:{port}" in finding.what
    assert finding.remedy.endswith(f"nc -vz 127.0.0.1 {port}")


def test_what_is_wrong_with_its_files_is_said_before_it_is_asked(pi):
    uplink = UplinkConfig(url="mqtts://127.0.0.1", ca="no-such.pem")
    (finding,) = of("broker", pi.patient(config=config(uplink=uplink)))
    assert finding.what.startswith("uplink.ca: cannot read no-such.pem")


def test_a_broker_that_answers_is_well(tmp_path):
    with mosquitto(tmp_path) as broker:
        assert why_not(UplinkConfig(url=broker.url)) is None


class OldBroker:
    """Knows MQTT 3.1.1 only: hangs up on whoever comes with 5."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._socket.getsockname()[1]}"
        self.versions: list[int] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while 4 not in self.versions:
            connection, _ = self._socket.accept()
            with connection:
                # Type, length, 4 letters with their length, and then the version.
                self.versions.append(connection.recv(1000)[8])
                if self.versions[-1] == 4:
                    connection.sendall(bytes([0x20, 2, 0, 0]))
                    connection.recv(1000)

    def close(self) -> None:
        self._thread.join(30)
        self._socket.close()


def test_a_broker_that_knows_only_the_older_version_is_well(caplog):
    broker = OldBroker()
    assert why_not(UplinkConfig(url=broker.url)) is None
    broker.close()
    assert broker.versions == [5, 4]


def test_who_does_not_answer_is_no_broker():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reason = why_not(UplinkConfig(url=f"mqtt://127.0.0.1:{silent.getsockname()[1]}"), patience_s=0.5)
    assert reason == "it does not answer within 0.5 s"


def test_without_a_broker_nobody_is_asked(pi):
    assert of("broker", pi.patient(config=config())) == ()
