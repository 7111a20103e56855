"""`edgeinfer models` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from releases import Shelf, files_of

from edgeinfer.cli import main
from edgeinfer.updates.store import open_store

BLOOD_CELLS = Path(__file__).parents[3] / "models" / "blood-cells"


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@pytest.fixture
def typed(capsys):
    def run(*words: object) -> tuple[int, str]:
        code = main(["models", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def commit(release: int) -> None:
    store, shelf = open_store(), Shelf()
    store.fetch(
        store.offer(shelf.put(files_of(BLOOD_CELLS) | {"n.txt": b"%d" % release}, release, publisher="ann")),
        shelf.fetch,
    )
    store.verified("detector")
    store.begin_canary("detector")
    store.pass_canary("detector", "well")
    store.begin_trial("detector")
    store.commit("detector")
    store.close()


def test_a_slot_from_its_factory_model_and_back(typed):
    assert typed("list") == (0, "no slots; 'edgeinfer models add BUNDLE --slot detector' makes the first\n")
    assert typed("add", BLOOD_CELLS, "--slot", "detector") == (
        0,
        "slot detector uses blood-cells 1, its factory model\n",
    )
    commit(4)
    code, said = typed("list")
    assert code == 0
    assert [line.split()[:6] for line in said.splitlines()[1:]] == [["detector", "committed", "4", "0", "-", "4"]]
    (slot,) = json.loads(typed("list", "--json")[1])["slots"]
    assert (slot["active"], slot["previous"], slot["floor"]) == (4, 0, 4)
    code, said = typed("verify")
    assert code == 0
    assert "detector active, release 4: whole" in said
    assert typed("rollback", "detector", "--why", "it is blind") == (0, "slot detector uses release 0, blood-cells 1\n")
    history = typed("history", "detector")[1].splitlines()
    assert history[2].split()[1:4] == ["updater", "fetching", "4"]
    assert "published by ann" in history[2]
    assert history[-1].split()[1:] == ["operator", "rolled_back", "0", "it", "is", "blind"]
    entries = json.loads(typed("history", "detector", "--json")[1])["history"]
    assert entries[-1]["why"] == "it is blind"


def test_what_is_damaged_is_named_and_ends_with_the_code_of_a_bad_model(typed):
    typed("add", BLOOD_CELLS, "--slot", "detector")
    store = open_store()
    blob = store.folder / "blobs" / store.active("detector").files["labels.txt"]
    blob.chmod(0o644)
    with blob.open("rb+") as file:
        file.write(b"X")
    code, said = typed("verify", "--slot", "detector")
    assert code == 3
    assert "labels.txt is damaged" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("history", "detector"), 2, "there is no slot detector"),
        (("rollback", "../x"), 2, "is no name of a slot"),
        (("add", BLOOD_CELLS / "blood-cells.onnx", "--slot", "x"), 2, "is a file, and a slot holds bundles"),
        (("update",), 2, "it is not said where from"),
        (("update", "x", "--url", "/x", "--limit", "0"), 2, "is not between 1 and 86400"),
        ((), 2, "ACTION"),
    ],
)
def test_what_cannot_be_is_a_line(typed, words, code, said):
    got, line = typed(*words)
    assert got == code
    assert said in line
    assert len(line.splitlines()) == 1
