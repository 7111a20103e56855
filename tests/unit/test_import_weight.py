"""Nothing heavy is loaded before it is used: seconds on a small board."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUNTIMES = {"ai_edge_litert", "tflite_runtime", "onnxruntime", "openvino"}
HEAVY = {*RUNTIMES, "cv2", "numpy"}


def loaded_by(program: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after `program`."""
    report = "import atexit, sys; atexit.register(lambda: print('\\nLOADED', *sys.modules))\n"
    done = subprocess.run([sys.executable, "-c", report + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    line = done.stdout.rpartition("\nLOADED ")[2]
    return {name.partition(".")[0] for name in line.split()}


def command(*arguments: str) -> str:
    return f"import sys; sys.argv = ['edgeinfer', *{arguments!r}]; from edgeinfer.cli import main; sys.exit(main())"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    assert not loaded_by(command(*arguments)) & HEAVY


def test_the_package_loads_no_runtime_and_no_opencv():
    assert not loaded_by("import edgeinfer") & (RUNTIMES | {"cv2"})


def test_the_public_names_can_be_listed_without_loading_a_runtime():
    assert not loaded_by("import edgeinfer; dir(edgeinfer)") & (RUNTIMES | {"cv2"})
