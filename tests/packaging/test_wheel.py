"""The wheel carries the code, its types, and the data folders, and finds them once unpacked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling import build

import edgeinfer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / build.build_wheel(str(folder))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_beside(unpacked: Path, program: str) -> str:
    """What `program` prints where the unpacked wheel comes before every other edgeinfer."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "EDGEINFER_STATE": str(unpacked / "state")}
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", program]
    done = subprocess.run(command, env=environment, cwd=unpacked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_fits_every_machine(wheel):
    assert wheel.name == f"edgeinfer-{edgeinfer.__version__}-py3-none-any.whl"


def test_it_holds_code_types_and_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgeinfer/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "edgeinfer").rglob("*.py")}
    assert modules <= set(names)
    strangers = [name for name in names if not re.match(r"edgeinfer(-[^/]+\.dist-info)?/", name)]
    assert strangers == []


@pytest.mark.parametrize("kind", ["devices", "models", "systemd"])
def test_each_data_file_is_carried(kind, wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = [path for path in (ROOT / kind).rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert {f"edgeinfer/data/{path.relative_to(ROOT)}" for path in tracked} <= names


def test_unpacked_it_is_the_package_that_runs_and_finds_its_models(unpacked):
    program = """
import edgeinfer, edgeinfer.bundle, edgeinfer.paths
print(edgeinfer.__version__, edgeinfer.__file__)
print(edgeinfer.bundle.find_bundle("blood-cells"))
print(*(folder for folder in edgeinfer.paths.data_folders("models") if folder.is_dir()), sep="\\n")
"""
    version_and_file, bundle, *folders = run_beside(unpacked, program).splitlines()
    assert version_and_file == f"{edgeinfer.__version__} {unpacked / 'edgeinfer' / '__init__.py'}"
    assert bundle == str(unpacked / "edgeinfer" / "data" / "models" / "blood-cells")
    assert str(unpacked / "edgeinfer" / "data" / "models") in folders
    assert str(ROOT / "models") not in folders


def test_the_checkout_finds_its_own_models():
    from edgeinfer.paths import data_folders

    assert ROOT / "models" in data_folders("models")
