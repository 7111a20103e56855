"""The five commands of docs/updates.md, typed as they are written, each in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts.local_broker import free_port

DOCS = Path(__file__).parents[3] / "docs" / "updates.md"
WRITTEN_PORT = "8321"


def five_commands() -> list[str]:
    section = DOCS.read_text().split("## Five commands")[1].split("\n## ")[0]
    return [line.split("#")[0].strip() for line in section.splitlines() if line.startswith("    edgeinfer ")]


def words(command: str, port: str) -> list[str]:
    typed = shlex.split(command.removesuffix("&").replace(WRITTEN_PORT, port))
    assert typed[0] == "edgeinfer"
    return [sys.executable, "-m", *typed]


@contextmanager
def in_background(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    with (folder / "serve.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + 30
        while b"serving" not in (folder / "serve.log").read_bytes():
            has_time = child.poll() is None and time.monotonic() < until_s
            assert has_time, (folder / "serve.log").read_text()
            time.sleep(0.05)
        yield
    finally:
        child.kill()
        child.wait()


def test_five_commands_from_init_to_a_running_update(tmp_path: Path) -> None:
    commands = five_commands()
    assert len(commands) == 5
    # Two things are not as for a reader: the port may be taken here, and nobody is there to type a passphrase.
    port = str(free_port())
    environment = {
        **os.environ,
        "EDGEINFER_FLEET_PASSPHRASE": "correct horse battery",
        "EDGEINFER_STATE": str(tmp_path / "state"),
    }

    def typed(command: str) -> str:
        done = subprocess.run(words(command, port), cwd=tmp_path, env=environment, capture_output=True, timeout=110)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode() + done.stderr.decode()

    init, publish, serve, update, run = commands
    assert serve.endswith("&")
    typed(init)
    assert re.search(r"signed release 1 of detector", typed(publish))
    with in_background([*words(serve, port), "--listen", f"127.0.0.1:{port}"], tmp_path, environment):
        assert "detector: staged, release 1" in typed(update)
    typed(run)
    assert [line.split()[2:4] for line in typed("edgeinfer models history detector").splitlines()][-2:] == [
        ["staged", "1"],
        ["trial", "1"],
    ]
