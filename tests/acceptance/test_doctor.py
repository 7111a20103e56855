"""`edgeinfer doctor` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

BOARDS = Path(__file__).parents[1] / "boards"
FIELDS = {"check", "severity", "what", "remedy"}


def recorded(folder: Path) -> list[str]:
    return [word for name in ("sys", "proc", "dev") for word in (f"--{name}", str(folder / name))]


def test_this_machine_is_examined_and_a_model_is_tried_on_it(edgeinfer):
    ran = edgeinfer("doctor", "blood-cells", "--json")
    facts = json.loads(ran.out)
    assert facts["schema"] == "edgeinfer.doctor/1"
    assert facts["checks"][:4] == ["power", "heat", "memory", "clock"]
    assert all(set(each) == FIELDS for each in facts["findings"])
    assert "models" not in {each["check"] for each in facts["findings"]}
    errors = [each for each in facts["findings"] if each["severity"] == "error"]
    assert ran.code == (1 if errors else 0)


def test_an_error_is_shown_first_with_what_mends_it_and_is_the_exit_code(edgeinfer, tmp_path):
    folder = Path(shutil.copytree(BOARDS / "raspberry-pi-4", tmp_path / "pi", symlinks=True))
    sensor = folder / "sys/class/hwmon/hwmon1"
    sensor.mkdir(parents=True)
    (sensor / "name").write_text("rpi_volt\n")
    (sensor / "in0_lcrit_alarm").write_text("1\n")
    ran = edgeinfer("doctor", *recorded(folder))
    assert ran.code == 1
    first, second, *_, last = ran.out.splitlines()
    assert first.startswith("error    power: the supply's voltage is too low now")
    assert second.startswith("         to do: use the supply")
    assert last.startswith("1 error, ")


def test_a_board_with_nothing_wrong_is_exit_code_0(edgeinfer):
    ran = edgeinfer("doctor", *recorded(BOARDS / "raspberry-pi-zero-2-w"))
    assert (ran.code, ran.err) == (0, "")


def test_a_configuration_that_is_wrong_and_a_source_that_is_not_there_are_found(edgeinfer, tmp_path):
    config = tmp_path / "door.toml"
    config.write_text('[[pipeline]]\nmodel = "blood-cells"\nsource = "/dev/video97"\n')
    ran = edgeinfer("doctor", "--config", str(config))
    assert ran.code == 1
    assert "error    sources: pipeline main: camera '/dev/video97': there is no /dev/video97" in ran.out
    config.write_text('[[pipeline]]\nmodle = "blood-cells"\nsource = "x"\n')
    ran = edgeinfer("doctor", "--config", str(config))
    assert ran.code == 1
    assert "did you mean 'model'" in ran.out


def test_a_model_that_nothing_here_runs_is_an_error(edgeinfer, tmp_path):
    ran = edgeinfer("doctor", str(tmp_path / "none.tflite"))
    assert ran.code == 1
    assert "error    models: " in ran.out


def test_another_user_is_examined_where_one_is_named(edgeinfer):
    ran = edgeinfer("doctor", "--user", "no-such-user", "--json")
    facts = json.loads(ran.out)
    assert ran.code == 1
    found = [each for each in facts["findings"] if each["check"] == "user"]
    assert [each["what"] for each in found] == ["there is no user no-such-user"]
