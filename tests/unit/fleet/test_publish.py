"""`edgeinfer fleet` as it is typed, with the bundle that comes with the package and one without golden outputs."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.bundle import load_bundle
from edgeinfer.cli import main
from edgeinfer.delegates import load_golden
from edgeinfer.errors import ModelError
from edgeinfer.updates.manifest import parse_manifest

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EDGEINFER_FLEET_PASSPHRASE", "correct horse battery")


def fleet(*words: str) -> int:
    return main(["fleet", *words])


def bundle_without_golden(folder: Path) -> Path:
    """Only the TFLite weights, and no samples."""
    shutil.copytree(MODELS / "blood-cells", folder)
    text = (folder / "model.toml").read_text()
    text = re.sub(r"^onnx = .*\n", "", text, flags=re.MULTILINE)
    (folder / "model.toml").write_text(text[: text.index("[[golden]]")])
    for name in ("blood-cells.onnx", "smear.jpg", "smear.npz", "README.md"):
        (folder / name).unlink()
    return folder


def test_from_a_bundle_to_a_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_without_golden(tmp_path / "cells")
    assert fleet("init", "--publisher", "the lab", "--timestamp-days", "5") == 0
    assert fleet("publish", str(bundle), "--slot", "detector", "--p95-ms", "50", "--note", "first") == 0
    manifest = parse_manifest((tmp_path / "fleet/repository/targets/slots/detector/1.json").read_bytes())
    assert (manifest.slot, manifest.release, manifest.publisher) == ("detector", 1, "the lab")
    assert manifest.runtimes == ("litert",)
    assert manifest.budget.p95_ms == 50
    assert re.match(r"first; litert on .*: p95 [\d.]+ ms, \d+ MB more memory, loaded in [\d.]+ s", manifest.note)
    (sample,) = manifest.golden
    assert {sample.input, sample.outputs} <= manifest.files.keys()
    assert not (bundle / sample.input).exists()  # The publisher's own folder is left as it is.

    # As a node puts it together; the golden outputs are those of the reference kernels, computed there, too.
    folder = tmp_path / "installed"
    folder.mkdir()
    for path, entry in manifest.files.items():
        shutil.copy(tmp_path / "fleet/repository/targets/blobs" / entry.sha256, folder / path)
    (golden,) = load_golden(load_bundle(folder))
    assert golden.outputs is not None

    assert fleet("publish", str(bundle), "--slot", "detector", "--to", "canary", "--rollout", "10%") == 0
    assert fleet("rollout", "50%", "--slot", "detector") == 0
    capsys.readouterr()
    assert fleet("status") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^timestamp +\S+ \S+ UTC  5 days$", shown, re.MULTILINE)
    assert re.search(r"^detector 2: blood-cells 1  to canary, 50%", shown, re.MULTILINE)
    assert fleet("recall", "--slot", "detector") == 0
    recall = parse_manifest((tmp_path / "fleet/repository/targets/slots/detector/3.json").read_bytes())
    assert (recall.recall_of, recall.floor, recall.files) == (2, 3, manifest.files)
    assert fleet("rotate", "online", "targets") == 0
    assert fleet("renew") == 0
    capsys.readouterr()
    assert fleet("status") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[4:]] == ["detector 1", "detector 3"]


def test_a_bundle_that_does_not_do_what_it_says_is_not_signed(tmp_path: Path) -> None:
    bundle = tmp_path / "cells"
    shutil.copytree(MODELS / "blood-cells", bundle)
    weights = bundle / "blood-cells.tflite"
    weights.write_bytes(weights.read_bytes()[:-1000] + bytes(1000))
    assert fleet("init") == 0
    assert fleet("publish", str(bundle), "--slot", "detector") == ModelError.exit_code
    assert not list((tmp_path / "fleet/repository/targets/slots").iterdir())
    assert not [path for path in (tmp_path / "fleet").iterdir() if path.name.startswith(".publish-")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("publish", "blood-cells", "--slot", "Upper"), "no name of a slot"),
        (("publish", str(MODELS / "blood-cells" / "blood-cells.tflite"), "--slot", "a"), "a folder with a model.toml"),
        (("recall", "--slot", "nothing"), "no release of slot 'nothing'"),
        (("rotate", "master"), "no key is called 'master'"),
        (("init",), "there is a fleet in fleet already"),
        (("publish", "blood-cells", "--slot", "a", "--rollout", "110%"), "no share"),
        (("serve", "--listen", "nowhere"), "no host:port"),
        (("status", "--fleet", "elsewhere"), "edgeinfer fleet init"),
    ],
)
def test_what_makes_no_sense(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet("init") == 0
    assert fleet(*words) == 2
    assert said in capsys.readouterr().err


def test_keys_are_encrypted_and_need_their_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet("init") == 0
    keys = sorted((tmp_path / "fleet/keys").iterdir())
    assert [path.name for path in keys] == ["online.pem", "root-1.pem", "root-2.pem", "root-3.pem", "targets.pem"]
    for path in keys:
        assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("EDGEINFER_FLEET_PASSPHRASE")
    assert fleet("renew") == 2
    assert "--passphrase-file" in capsys.readouterr().err
    for text, code in (("correct horse battery\n", 0), ("another passphrase\n", 2), ("short\n", 2)):
        (tmp_path / "passphrase").write_text(text)
        assert fleet("renew", "--passphrase-file", "passphrase") == code
    # The online key is all that is needed every day.
    for path in keys[1:]:
        path.unlink()
    (tmp_path / "passphrase").write_text("correct horse battery")
    assert fleet("renew", "--passphrase-file", "passphrase") == 0


def test_a_passphrase_is_asked_for_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEINFER_FLEET_PASSPHRASE")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgeinfer", "fleet", "init"]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        for question in (b"Passphrase", b"Once more"):
            while question not in shown and select.select([ours], [], [], 30)[0]:
                shown += os.read(ours, 4096)
            os.write(ours, b"typed by somebody\n")
        assert child.wait(30) == 0, shown
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    monkeypatch.setenv("EDGEINFER_FLEET_PASSPHRASE", "typed by somebody")
    assert fleet("renew") == 0
