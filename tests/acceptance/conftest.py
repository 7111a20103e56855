"""The command as a user runs it, and the test data where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TEST_DATA = Path(__file__).parents[2].parent / "shared" / "testdata"


@pytest.fixture(scope="session")
def test_data() -> Path:
    if not TEST_DATA.is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    return TEST_DATA


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def results(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if "error:" in line]


@pytest.fixture(scope="session")
def state(tmp_path_factory) -> Path:
    """One state folder for the session, so that a model is tried once and not in every test."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def environment(state) -> dict[str, str]:
    return {**os.environ, "EDGEINFER_STATE": str(state), "PYTHONWARNINGS": "error"}


@pytest.fixture
def edgeinfer(environment, tmp_path):
    """Run `edgeinfer …` in an empty folder; stdout is a pipe."""

    def run(*words: object, timeout_s: float = 100, cwd: Path = tmp_path) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "edgeinfer", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            cwd=cwd,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
