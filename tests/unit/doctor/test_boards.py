"""What is wrong with a board is said of recorded ones, each finding with what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeinfer.config import Config, PipelineConfig
from edgeinfer.doctor import Finding, examine

BOARDS = Path(__file__).parents[2] / "boards"
HEALTHY = ("raspberry-pi-zero-2-w", "intel-nuc", "rock-5b", "rockpro64", "jetson-nano")


@pytest.mark.parametrize("name", HEALTHY)
def test_a_board_with_nothing_wrong_has_no_error_and_no_warning(sick, name):
    found = [each for _, findings in examine(sick(name).patient()) for each in findings]
    assert [each for each in found if each.severity != "note"] == []


@pytest.mark.parametrize("name", sorted(path.name for path in BOARDS.iterdir() if path.is_dir()))
def test_every_finding_of_every_recorded_board_says_what_to_do(sick, name):
    for _, findings in examine(sick(name).patient()):
        assert all(each.what and each.remedy for each in findings)


def test_a_recorded_board_is_not_examined_for_what_only_this_machine_has(sick):
    assert [name for name, _ in examine(sick("raspberry-pi-4").patient())] == ["power", "heat", "memory", "devices"]


def test_a_supply_that_is_too_weak_now_is_an_error_and_of_the_past_a_warning(sick):
    pi = sick("raspberry-pi-4")
    assert pi.findings("power") == ()
    pi.write("sys/class/hwmon/hwmon1/name", "rpi_volt")
    pi.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1")
    (now,) = pi.findings("power")
    assert (now.severity, "voltage is too low now" in now.what) == ("error", True)
    assert "supply" in now.remedy
    old = sick("raspberry-pi-5")
    old.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50000")
    (was,) = old.findings("power")
    assert was.severity == "warning"
    (hot,) = old.findings("heat")
    assert (hot.severity, "has throttled" in hot.what) == ("note", True)


def test_a_board_that_is_about_to_throttle_is_warned_of(sick):
    pi = sick("raspberry-pi-4")
    pi.write("sys/class/thermal/thermal_zone0/temp", "77000")
    (finding,) = pi.findings("heat")
    assert finding.what == "cpu-thermal is at 77 °C, and clocks go down at 80 °C"
    assert "[governor]" in finding.remedy


def test_a_kernel_that_throttles_is_warned_of(sick):
    pi = sick("raspberry-pi-4")
    pi.write("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0")
    pi.write("sys/class/thermal/cooling_device0/cur_state", "3")
    (finding,) = pi.findings("heat")
    assert finding.what == "the kernel throttles (cpufreq-cpu0) now"


def test_little_memory_and_programs_that_were_killed_for_it(sick):
    pi = sick("raspberry-pi-zero-2-w")
    pi.write("proc/meminfo", "MemTotal:         431744 kB\nMemFree:           10000 kB\nMemAvailable:      22528 kB")
    pi.write("proc/vmstat", "nr_free_pages 100\noom_kill 3")
    little, killed = pi.findings("memory")
    assert little.what == "only 22 MiB of memory are left"
    assert "were killed" in killed.what
    assert killed.what.endswith(": 3")


def test_a_usb_coral_at_the_wrong_port_without_its_library(sick):
    pi = sick("raspberry-pi-4")
    (library,) = pi.findings("devices")
    assert library.severity == "warning"
    assert "libedgetpu.so.1 is not installed" in library.what
    assert "feranick" in library.remedy
    pi.write("sys/bus/usb/devices/2-1/speed", "480")
    _, slow = pi.findings("devices")
    assert "the Edge TPU at 2-1 talks at 480 Mbit/s" in slow.what
    assert "USB 3" in slow.remedy


def with_libedgetpu(board, version: str) -> None:
    board.write("usr/lib/aarch64-linux-gnu/libedgetpu.so.1", "")
    package = f"Package: libedgetpu1-std\nStatus: install ok installed\nPriority: optional\nVersion: {version}\n"
    board.write("var/lib/dpkg/status", f"Package: libc6\nVersion: 2.36\n\n{package}Description: x\n")


def test_googles_old_libedgetpu_is_said_to_be_too_old(sick):
    pi = sick("raspberry-pi-4")
    with_libedgetpu(pi, "16.0")
    (old,) = pi.findings("devices")
    assert "libedgetpu 16.0 is too old" in old.what
    assert "feranick" in old.remedy
    with_libedgetpu(pi, "16.0tf2.17.1-1.bookworm")
    assert pi.findings("devices") == ()


def test_a_dead_coral_on_pcie_and_on_usb(sick):
    board, stick = sick("coral-dev-board"), sick("raspberry-pi-4")
    with_libedgetpu(board, "16.0tf2.17.1-1")
    with_libedgetpu(stick, "16.0tf2.17.1-1")
    board.write("sys/class/apex/apex_0/status", "ALIVE")
    assert board.findings("devices") == stick.findings("devices") == ()
    board.write("sys/class/apex/apex_0/status", "DEAD")
    (dead,) = board.findings("devices")
    assert "apex_0 does not answer (its driver says DEAD)" in dead.what
    assert dead.remedy.startswith("sudo modprobe -r apex && sudo modprobe apex")
    stick.write("sys/bus/usb/devices/2-1/power/runtime_status", "error")
    (dead,) = stick.findings("devices")
    assert "the Edge TPU at 2-1 does not answer" in dead.what
    driver = "/sys/bus/usb/drivers/usb"
    assert dead.remedy == f"echo 2-1 | sudo tee {driver}/unbind && sleep 1 && echo 2-1 | sudo tee {driver}/bind"


def test_a_device_that_is_closed_to_us_is_named_with_the_way_in(sick, monkeypatch):
    board = sick("coral-dev-board")
    with_libedgetpu(board, "16.0tf2.17.1-1")
    monkeypatch.setattr("edgeinfer.delegates.probe.hardware.os.access", lambda *_: False)
    (closed,) = board.findings("devices")
    assert "apex_0 is closed to this user" in closed.what
    assert "sudo" in closed.remedy


def test_a_runtime_that_came_with_edgeinfer_and_is_gone_is_an_error(sick):
    pi = sick("raspberry-pi-5")
    del pi.packages.versions["ai-edge-litert"]
    errors = [each for each in pi.findings("devices") if each.severity == "error"]
    assert errors == [Finding("error", "litert:cpu: ai-edge-litert is not installed", "pip install ai-edge-litert")]


def test_what_the_configuration_asks_for_is_an_error_where_it_is_missing(sick):
    pipeline = PipelineConfig(model="m.tflite", source="clip.mp4", device="openvino:cpu")
    config = Config(pipeline=(pipeline,))
    errors = [
        each for each in sick("raspberry-pi-zero-2-w").findings("devices", config=config) if each.severity == "error"
    ]
    assert [each.what for each in errors] == ["openvino:cpu: openvino is not installed"]
