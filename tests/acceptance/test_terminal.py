"""What a person sees on a terminal, and what a program sees in a pipe."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

# For a second: long enough for a line to be drawn.
SOURCE = "synthetic://blood-smear?frames=40&live=1&fps=40"
RUN = [sys.executable, "-m", "edgeinfer", "run", "--model", "blood-cells", "--source", SOURCE]


def on_a_terminal(words, environment, cwd, *, stdout):
    """Run with stderr, and stdout where asked, on a pseudo-terminal; what the terminal showed, and the rest."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs if stdout == "terminal" else subprocess.PIPE,
        stderr=theirs,
        env={**environment, "COLUMNS": "100"},
        cwd=cwd,
    )
    os.close(theirs)
    piped = process.stdout.read() if process.stdout else b""
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # EIO: the other side closed its last terminal.
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    if process.stdout:
        process.stdout.close()
    assert process.wait(60) == 0, shown.decode()
    return shown.decode(), piped.decode()


def test_a_terminal_shows_a_live_line_and_no_json(environment, tmp_path):
    shown, _ = on_a_terminal(RUN, environment, tmp_path, stdout="terminal")
    assert "fps" in shown
    assert "ms old" in shown
    assert "RBC" in shown
    assert '"schema"' not in shown
    assert "frames in" in shown


def test_a_pipe_gets_json_lines_while_the_terminal_shows_the_live_line(environment, tmp_path):
    shown, piped = on_a_terminal(RUN, environment, tmp_path, stdout="pipe")
    assert "fps" in shown
    seqs = [json.loads(line)["seq"] for line in piped.splitlines()]
    assert len(seqs) > 5
    assert seqs == sorted(set(seqs))


def test_quiet_shows_nothing(environment, tmp_path):
    shown, _ = on_a_terminal([*RUN, "--quiet"], environment, tmp_path, stdout="terminal")
    assert shown == ""


def test_without_a_terminal_there_is_no_live_line(edgeinfer):
    ran = edgeinfer(*RUN[3:])
    assert ran.code == 0
    assert "\r" not in ran.err
    assert ran.results
