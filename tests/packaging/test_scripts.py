"""scripts/environment.sh: installs once, takes up what was broken off, and says in one line what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "sh", "cat", "dirname", "head", "mv", "rm", "sha256sum", "tee", "env")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing in it but what an installation needs."""
    folder = tmp_path / "a checkout"
    (folder / "edgeinfer").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("blood_cells", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "edgeinfer/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder that serves as the whole PATH: no uv, and no Python unless a test puts one there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found, f"{name} is missing here"
        (folder / name).symlink_to(found)
    return folder


def put(tools: Path, name: str, script: str) -> None:
    (tools / name).write_text(f"#!/bin/sh\n{script}\n")
    (tools / name).chmod(0o755)


def bash(checkout: Path, tools: Path, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(tools), "HOME": str(tools), "PIP_CONFIG_FILE": "/dev/null", **variables}
    command = ["bash", "-euo", "pipefail", "-c", f"source scripts/environment.sh; {program}"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=100)


@pytest.fixture
def finished(checkout: Path, tools: Path) -> Path:
    """A checkout whose environment bears the stamp of a finished installation at level `test`."""
    venv.create(checkout / ".venv", symlinks=True)
    done = bash(checkout, tools, 'venv=$root/.venv python=$venv/bin/python; fingerprint >"$venv/installed-test"')
    assert done.returncode == 0, done.stderr
    return checkout


@pytest.mark.parametrize("level", ["runtime", "test"])
def test_what_is_installed_is_not_installed_again(level, finished, tools):
    done = bash(finished, tools, f'prepare_environment {level}; echo "$python"')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(finished / ".venv" / "bin" / "python")


def test_a_higher_level_is_installed_on_top(finished, tools):
    done = bash(finished, tools, "is_installed dev")
    assert done.returncode == 1


def test_another_pyproject_is_installed_anew(finished, tools):
    with (finished / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    assert bash(finished, tools, "venv=$root/.venv python=$venv/bin/python; is_installed test").returncode == 1


def test_a_moved_checkout_is_installed_anew(finished, tools):
    moved = finished.rename(finished.with_name("moved"))
    done = bash(moved, tools, "venv=$root/.venv python=$venv/bin/python; ! is_installed test && ! is_sound ''")
    assert done.returncode == 0, done.stderr


def test_a_python_that_went_away_is_noticed(finished, tools):
    python = finished / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert bash(finished, tools, "venv=$root/.venv python=$venv/bin/python; is_sound ''").returncode == 1


def test_no_python_new_enough_is_one_line(checkout, tools):
    put(tools, "python3", '[ "$1" = --version ] && echo Python 3.9.2 || echo 3 9')
    done = bash(checkout, tools, "prepare_environment runtime")
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.10 to 3.14 is needed, python3 here is Python 3.9.2\n"


def test_no_python_at_all_is_one_line(checkout, tools):
    done = bash(checkout, tools, "prepare_environment runtime")
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.10 to 3.14 is needed, python3 here is missing\n"


def test_a_python_that_is_not_here_is_named(checkout, tools):
    done = subprocess.run(
        ["bash", "scripts/test", "--python", "3.12"],
        cwd=checkout,
        env={"PATH": str(tools), "HOME": str(tools)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "error: no python3.12 here; install it, or take another --python\n")


def test_a_shim_that_leads_nowhere_is_passed_over(checkout, tools):
    put(tools, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    behind = tools / ".pyenv" / "versions" / "3.12.1" / "bin"
    behind.mkdir(parents=True)
    put(behind, "python3.12", 'case "$*" in *version_info*) echo 3 12;; *) echo "$0";; esac')
    done = bash(checkout, tools, "find_python 3.12")
    assert done.stdout.strip() == str(behind / "python3.12")


@pytest.mark.parametrize("uv", ["echo 'pyenv: uv: command not found' >&2; exit 127", "echo an old uv"])
def test_a_uv_that_does_not_serve_is_passed_over(uv, checkout, tools):
    put(tools, "uv", uv)
    assert bash(checkout, tools, "! have_uv").returncode == 0


def test_a_missing_venv_module_names_the_package(checkout, tools):
    put(tools, "python3", 'case "$*" in *version_info*) echo 3 11;; *executable*) echo "$0";; *) exit 1;; esac')
    done = bash(checkout, tools, "prepare_environment runtime")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tools / 'python3'} has no venv module; sudo apt install python3-venv (or python3.11-venv)"
    )


def test_without_a_network_it_says_so_and_leaves_no_stamp(checkout, tools):
    put(tools, "python3", f'exec "{sys._base_executable}" "$@"')
    nobody = "http://127.0.0.1:9/simple"
    done = bash(checkout, tools, "prepare_environment runtime", PIP_INDEX_URL=nobody, PIP_RETRIES="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no network: the package index cannot be reached")
    assert list((checkout / ".venv").glob("installed-*")) == []
