"""How a board is now, by recorded trees to which a test adds what a kernel shows under strain."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeinfer.board import Heat, Roots, Watch, recognise_board
from edgeinfer.board.firmware import THROTTLED, UNDER_VOLTAGE, throttled_flags

BOARDS = Path(__file__).parents[1] / "boards"
SHIPPED = Path(__file__).parents[2] / "devices"


class Tree:
    """A copy of a recorded board."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = Roots(sys=folder / "sys", proc=folder / "proc", dev=folder / "dev")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def watch(self, **more) -> Watch:
        return Watch(recognise_board(self.roots, [SHIPPED]), self.roots, **more)


@pytest.fixture
def tree(tmp_path):
    def tree_of(name: str) -> Tree:
        return Tree(Path(shutil.copytree(BOARDS / name, tmp_path / name, symlinks=True)))

    return tree_of


def test_a_sensor_is_read_anew_and_has_the_limit_of_the_profile(tree):
    pi = tree("raspberry-pi-4")
    watch = pi.watch()
    for millidegrees in (61_300, 79_900):
        pi.write("sys/class/thermal/thermal_zone0/temp", str(millidegrees))
        assert watch.look().heats == (Heat("cpu-thermal", millidegrees / 1000, 80.0),)


@pytest.mark.parametrize("text", ["", "hot", "-9999999999"])
def test_a_sensor_that_does_not_answer_is_left_out(tree, text):
    pi = tree("raspberry-pi-4")
    watch = pi.watch()
    pi.write("sys/class/thermal/thermal_zone0/temp", text)
    assert watch.look().heats == ()


def test_a_limit_of_the_configuration_holds_where_it_is_lower_or_none_is_known(tree):
    pi, nuc = tree("raspberry-pi-4"), tree("intel-nuc")
    assert [heat.limit_c for heat in pi.watch(limit_c=70).look().heats] == [70]
    assert [heat.limit_c for heat in pi.watch(limit_c=95).look().heats] == [80]
    assert nuc.watch().look().heats == ()
    assert [heat.limit_c for heat in nuc.watch(limit_c=95).look().heats] == [95]


def test_a_board_that_only_says_where_it_switches_off_is_spared_before(tree):
    limits = {heat.type: heat.limit_c for heat in tree("rock-5b").watch().look().heats}
    assert limits == {"package-thermal": 105, "bigcore0-thermal": 85, "bigcore2-thermal": 85}


def test_a_cooling_device_at_work_is_throttling_but_a_fan_is_not(tree):
    pi = tree("raspberry-pi-4")
    for number, (kind, state) in enumerate([("pwm-fan", 4), ("cpufreq-cpu0", 0)]):
        pi.write(f"sys/class/thermal/cooling_device{number}/type", kind)
        pi.write(f"sys/class/thermal/cooling_device{number}/cur_state", str(state))
    watch = pi.watch()
    assert watch.look().throttled == ()
    pi.write("sys/class/thermal/cooling_device1/cur_state", "2")
    assert watch.look().throttled == ("the kernel throttles (cpufreq-cpu0)",)


def test_a_jetson_that_draws_too_much_current_says_so_when_its_counter_grows(tree):
    jetson = tree("jetson-orin-nano")
    counter = "sys/class/hwmon/hwmon1/oc3_event_cnt"
    jetson.write(counter, "7")
    watch = jetson.watch()
    assert watch.look().throttled == ()
    jetson.write(counter, "8")
    assert watch.look().throttled == ("the board draws too much current",)
    assert watch.look().throttled == ()


def test_the_flags_of_a_raspberry_pi_come_from_hwmon_or_an_older_kernels_file(tree):
    pi = tree("raspberry-pi-4")
    assert throttled_flags(pi.roots) is None
    pi.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    assert throttled_flags(pi.roots) == 0x50005
    vitals = pi.watch().look()
    assert vitals.under_voltage
    assert vitals.throttled == ("the firmware throttles",)
    pi.write("sys/class/hwmon/hwmon2/name", "rpi_volt")
    pi.write("sys/class/hwmon/hwmon2/in0_lcrit_alarm", "0")
    assert throttled_flags(pi.roots) == 0
    pi.write("sys/class/hwmon/hwmon2/in0_lcrit_alarm", "1")
    assert throttled_flags(pi.roots) == UNDER_VOLTAGE
    assert not UNDER_VOLTAGE & THROTTLED


def test_load_is_per_core_and_stalls_are_a_share(tree):
    pi = tree("raspberry-pi-4")
    watch = pi.watch()
    assert (watch.look().load, watch.look().memory_stalled) == (None, None)
    pi.write("proc/loadavg", "6.20 3.00 1.00 3/512 4711")
    pi.write("proc/pressure/memory", "some avg10=6.27 avg60=4.25 avg300=2.49 total=1\nfull avg10=0.80 avg60=0 total=1")
    vitals = watch.look()
    assert vitals.load == pytest.approx(1.55)
    assert vitals.memory_stalled == pytest.approx(0.0627)
    pi.write("proc/loadavg", "nonsense")
    pi.write("proc/pressure/memory", "nonsense")
    assert (watch.look().load, watch.look().memory_stalled) == (None, None)
