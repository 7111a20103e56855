"""What scripts/drills and scripts/soak make of what they see: they must find a loss, and a slope."""

from __future__ import annotations

import pytest

from scripts.soak import Sample, slope_mb_h
from tests.vm import machine, power_cuts
from tests.vm.machine import Machine, Ran, Sign
from tests.vm.power_cuts import Tally, cut_rounds

INSTALLED = Ran({}, "SAID 0 3\n", 0)
SOUND = (
    "BEGUN\nRESULTS 20.0 litert:cpu\nSAID 4 4\nSAID 3 9\nvm: power cut\n",
    "BEGUN\nvm: power cut\n",
    "BEGUN\nRESULTS 21.0 litert:cpu\nSAID 11 12\nvm: power cut\n",
)
DRAINED = "DRAINED 1 1 14 14 14 0\n"


class Scripted:
    """A machine that says what it is told to, and knows which parts it was asked for."""

    def __init__(self, folder, lives, drained=DRAINED) -> None:
        self.folder = folder
        self.asked: list[tuple[str, ...]] = []
        self._outputs = [
            INSTALLED,
            *(Ran({}, life, 125, hung=not life) for life in lives),
            Ran({}, drained, 0),
        ]

    def package(self):
        return self.folder

    def run(self, script, *words, cut=None, **_):
        self.asked.append(words)
        assert (cut is not None) == (words[0] == "live")
        return self._outputs[len(self.asked) - 1]


def rounds(folder, lives=SOUND, **words) -> tuple[Tally, Scripted]:
    machine = Scripted(folder, lives, **words)
    return cut_rounds(machine, len(SOUND), seed=1), machine


def test_lives_that_find_what_was_accepted_are_well(tmp_path):
    tally, machine = rounds(tmp_path)
    assert tally.wrong == []
    assert (tally.cuts, tally.lives_with_results, tally.accepted, tally.delivered) == (3, 2, 12, 14)
    assert machine.asked[-1] == ("drain", "12")


@pytest.mark.parametrize(
    ("job", "within_s", "code", "hung"),
    [
        ("echo BEGUN", 100.0, 0, False),
        ("exec sleep 100", 0.2, -15, True),
        # That is a fault, and not the emulator's.
        ("exit 1", 100.0, 1, False),
    ],
)
def test_a_machine_that_gives_no_sign_is_ended(job, within_s, code, hung, tmp_path, monkeypatch):
    program = tmp_path / "vm.sh"
    program.write_text(f'#!/bin/sh\n[ "$1" = run ] || exit 0\n{job}\n')
    program.chmod(0o755)
    monkeypatch.setattr(machine, "MACHINE", tmp_path)
    monkeypatch.setattr(machine, "_TOOLS", ())
    ran = Machine(tmp_path).run(program, sign=Sign("^BEGUN", within_s), seconds=100)
    assert (ran.code, ran.hung) == (code, hung)


def test_a_machine_that_hangs_before_the_service_is_begun_is_no_life(tmp_path):
    tally, machine = rounds(tmp_path, [SOUND[0], "", "", *SOUND[1:]])
    assert tally.wrong == []
    assert (tally.cuts, tally.hung, tally.accepted) == (3, 2, 12)
    assert "3 power cuts (2 more machines hung before the service was begun)" in str(tally)
    assert [words[0] for words in machine.asked].count("live") == 5


def test_machines_that_hang_as_a_rule_are_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(power_cuts, "_HUNG_MAX", 1)
    tally, _ = rounds(tmp_path, ["", "", *SOUND[1:]])
    assert tally.hung == 1
    assert len(tally.wrong) == 1
    assert "ended otherwise" in tally.wrong[0]


@pytest.mark.parametrize(
    ("at", "life", "words"),
    [
        (0, SOUND[0].replace("SAID 3 9", "SAID 2 9"), "found 2 messages, 3 were accepted"),
        (2, SOUND[2].replace("SAID 11 12", "SAID 8 12"), "found 8 messages, 9 were accepted"),
        (1, "BROKEN /var/lib/edgeinfer/uplink/cut/spool.corrupt-1 was set aside\n" + SOUND[1], "set aside"),
        (1, "BEGUN\nvm: timeout\n", "ended otherwise"),
        (0, SOUND[0] + "ALARM the spool is damaged\n", "is damaged"),
    ],
)
def test_a_loss_is_found(at, life, words, tmp_path):
    tally, _ = rounds(tmp_path, [*SOUND[:at], life, *SOUND[at + 1 :]])
    assert len(tally.wrong) == 1
    assert words in tally.wrong[0]


@pytest.mark.parametrize(
    "drained",
    [
        "",
        "DRAINED 2 1 14 14 14 0\n",
        "DRAINED 1 1 14 13 13 0\n",
        "DRAINED 1 2 14 13 13 0\n",
        "DRAINED 1 1 11 11 11 0\n",
    ],
)
def test_numbers_that_are_missing_in_the_end_are_found(drained, tmp_path):
    tally, _ = rounds(tmp_path, drained=drained)
    assert len(tally.wrong) == 1


def test_moments_of_cuts_differ_and_come_from_the_seed(tmp_path, monkeypatch):
    moments = []
    monkeypatch.setattr(Scripted, "run", lambda _, *words, cut=None, **more: moments.append(cut) or INSTALLED)
    for seed in (1, 1, 2):
        cut_rounds(Scripted(tmp_path, ()), 12, seed=seed)
    first, again, other = (moments[at : at + 14] for at in (0, 14, 28))
    assert first == again != other
    assert {cut.on for cut in first if cut} == {power_cuts._WHILE_RUNNING.on, power_cuts._WHILE_BEGINNING.on}


def test_the_slope_of_memory_is_that_of_the_line_drawn():
    samples = [Sample(at_s, 80.0 + 3.0 * at_s / 3600 + (-1) ** at_s, 20.0) for at_s in range(0, 7200, 5)]
    assert slope_mb_h(samples, lambda each: each.own_mb) == pytest.approx(3.0, abs=0.05)
