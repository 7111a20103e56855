"""Nothing heavy is loaded before it is used: seconds on a small board."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgeinfer.cli import COMMANDS

RUNTIMES = {"ai_edge_litert", "tflite_runtime", "onnxruntime", "openvino"}
HEAVY = {*RUNTIMES, "cv2", "numpy", "paho"}


def loaded_by(program: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after `program`."""
    report = "import atexit, sys; atexit.register(lambda: print('\\nLOADED', *sys.modules))\n"
    done = subprocess.run([sys.executable, "-c", report + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    line = done.stdout.rpartition("\nLOADED ")[2]
    return {name.partition(".")[0] for name in line.split()}


def command(*arguments: str) -> str:
    return f"import sys; sys.argv = ['edgeinfer', *{arguments!r}]; from edgeinfer.cli import main; sys.exit(main())"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_loads_nothing_heavy(arguments):
    assert loaded_by(command(*arguments)) & HEAVY == set()


def test_numpy_starts_no_threads_of_its_own():
    program = "import os\nfrom edgeinfer.cli import main\nmain(['--version'])\nimport numpy\n"
    counting = "print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-c", program + counting],
        env={name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "1", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_no_runtime(name):
    assert loaded_by(command(name, "--help")) & RUNTIMES == set()


@pytest.mark.parametrize("program", ["import edgeinfer", "import edgeinfer; dir(edgeinfer)"])
def test_the_package_loads_no_runtime_no_opencv_and_no_numpy(program):
    assert loaded_by(program) & HEAVY == set()


def test_a_page_loads_what_writes_metrics_when_it_is_first_asked_for_them():
    begin = """
from edgeinfer.config import Config, PipelineConfig, WebConfig
from edgeinfer.node import Node
from edgeinfer.web.web import Web
pipeline = PipelineConfig(model="blood-cells", source="synthetic://test-card?fps=5", device="fake")
web = Web(WebConfig(listen="127.0.0.1:0"))
node = Node(Config(pipeline=(pipeline,)), sinks_for=web.sinks_for)
web.start(node)
"""
    ask = "import urllib.request; urllib.request.urlopen(web.url + 'metrics').read()\n"
    end = "web.close(); node.close()\n"
    assert "prometheus_client" not in loaded_by(begin + end)
    assert "prometheus_client" in loaded_by(begin + ask + end)
