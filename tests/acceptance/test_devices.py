"""`edgeinfer devices` as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

BOARDS = Path(__file__).parents[1] / "boards"


def recorded(name: str) -> list[str]:
    return [word for root in ("sys", "proc", "dev") for word in (f"--{root}", str(BOARDS / name / root))]


def test_it_shows_this_machine_in_100_columns(edgeinfer):
    ran = edgeinfer("devices")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[:3]] == ["Board", "Profile", "CPU"]
    assert f"{len(os.sched_getaffinity(0))} core" in ran.out or f"{os.cpu_count()} core" in ran.out
    assert any(line.startswith("litert:cpu") and line.split()[1] == "yes" for line in lines)


def test_json_holds_the_same_rows(edgeinfer):
    ran, text = edgeinfer("devices", "--json"), edgeinfer("devices").out
    facts = json.loads(ran.out)
    assert (facts["schema"], facts["recorded"]) == ("edgeinfer.devices/1", False)
    assert facts["board"]["cores"] == os.sysconf("SC_NPROCESSORS_ONLN")
    starts = [line.split()[:2] for line in text.splitlines() if line and not line.startswith(" ")]
    shown = {start[0]: start[1] for start in starts if start[1] in ("yes", "no")}
    assert {row["word"]: "yes" if row["usable"] else "no" for row in facts["devices"]} == shown
    for row in facts["devices"]:
        assert set(row) == {"word", "usable", "evidence", "reason", "remedy"}


@pytest.mark.parametrize("name", sorted(path.name for path in BOARDS.iterdir() if path.is_dir()))
def test_it_shows_a_recorded_board(edgeinfer, name):
    facts = json.loads(edgeinfer("devices", "--json", *recorded(name)).out)
    expected = {"rock-5b": "rock-5", "rockpro64": "generic"}.get(name, name)
    assert (facts["recorded"], facts["board"]["profile"]) == (True, expected)


def test_a_recorded_board_says_that_the_packages_are_from_here(edgeinfer):
    out = edgeinfer("devices", *recorded("rock-5b")).out
    assert "Radxa ROCK 5 Model B" in out
    assert "4 x Cortex-A76 + 4 x Cortex-A55, aarch64, 8 cores (big: 4, 5, 6, 7)" in out
    assert "the packages those of this machine" in out
    assert "Known of Radxa ROCK 5 (RK3588):" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_proof_runs_a_model(edgeinfer):
    facts = json.loads(edgeinfer("devices", "--json", "--prove").out)
    rows = {row["word"]: row for row in facts["devices"]}
    assert "ran a model just now" in rows["litert:cpu"]["evidence"]
    assert "ran a model just now" in rows["onnx:cpu"]["evidence"]


def test_a_broken_profile_is_one_line_and_exit_6(edgeinfer, state):
    folder = state / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.toml").write_text('schema = "edgeinfer.device/1"\nname = "mine"\ntitel = "x"\n')
    try:
        ran = edgeinfer("devices")
    finally:
        (folder / "mine.toml").unlink()
    assert ran.code == 6
    assert ran.err.count("\n") == 1
    assert "mine.toml: titel: unknown key; did you mean 'title'?" in ran.err


def test_a_folder_that_is_not_there_is_a_usage_error(edgeinfer):
    ran = edgeinfer("devices", "--sys", "/no/such/folder")
    assert ran.code == 2
    assert ran.errors == [
        "edgeinfer: error: --sys /no/such/folder is not a folder; name the folder of the recorded tree"
    ]
