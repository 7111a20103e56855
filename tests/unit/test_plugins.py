"""Other packages add drivers by entry points: shown with the example package in tests/plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hatchling import build

from edgeinfer import registry
from edgeinfer.errors import DeviceNotFound, SourceError, UsageError
from edgeinfer.preprocess import WHOLE
from edgeinfer.registry import Registry
from edgeinfer.runtimes import RUNTIMES
from edgeinfer.sinks import SINKS, SinkOptions, open_sink
from edgeinfer.sources import SOURCES, SourceOptions, open_source
from edgeinfer.tasks import TASKS

EXAMPLE = Path(__file__).parents[1] / "plugin"


@pytest.fixture(scope="session")
def example_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built the way its author would."""
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(EXAMPLE)
    try:
        return folder / build.build_wheel(str(folder))
    finally:
        os.chdir(before)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, empty as yet; what a test imports from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def installed(site: Path, example_wheel: Path) -> Path:
    with zipfile.ZipFile(example_wheel) as wheel:
        wheel.extractall(site)
    return site


def install(site: Path, package: str, group: str, entry: str, module: str = "") -> None:
    """A package with one entry point, as an installer leaves it behind."""
    name = entry.partition("=")[2].partition(":")[0].strip()
    (site / f"{name}.py").write_text(module)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


@pytest.mark.parametrize(
    ("registry", "name"), [(SOURCES, "ticker"), (RUNTIMES, "brightness"), (TASKS, "daylight"), (SINKS, "tally")]
)
def test_each_kind_of_driver_can_be_added(registry, name, installed):
    assert name in registry.names()
    assert registry.get(name).__module__.startswith("edgeinfer_example.")


@pytest.mark.usefixtures("installed")
def test_finding_the_names_imports_nothing():
    SOURCES.names()
    assert "edgeinfer_example" not in sys.modules


def test_what_is_installed_is_looked_up_once_and_again_when_it_changes(installed, monkeypatch):
    """A camera from a plugin may be opened again every few seconds for years."""
    SOURCES.names()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda **_: pytest.fail("looked up once more"))
        assert "ticker" in SOURCES.names()
    (installed / "late.dist-info").mkdir()
    (installed / "late.dist-info" / "entry_points.txt").write_text("[edgeinfer.sources]\nlate = late:Late\n")
    assert "late" in SOURCES.names()


@pytest.mark.usefixtures("installed")
def test_whose_a_driver_is_is_known_by_name_and_version():
    assert RUNTIMES.package("brightness") == "edgeinfer-example 1.0"
    assert RUNTIMES.package("litert") is None
    assert RUNTIMES.package("quantum") is None


def test_a_package_that_does_not_say_its_version_or_is_one_of_two_is_not_named(site):
    install(site, "first", "edgeinfer.runtimes", "npu2 = first_driver:open", "open = 1\n")
    assert RUNTIMES.package("npu2") == "first 1.0"
    install(site, "second", "edgeinfer.runtimes", "npu2 = second_driver:open", "open = 2\n")
    assert RUNTIMES.package("npu2") is None
    install(site, "third", "edgeinfer.runtimes", "npu3 = third_driver:open", "open = 3\n")
    (site / "third-1.0.dist-info" / "METADATA").unlink()
    assert RUNTIMES.package("npu3") is None


def test_without_the_package_the_word_is_unknown():
    with pytest.raises(UsageError, match="unknown source 'ticker'"):
        SOURCES.get("ticker")


@pytest.mark.usefixtures("installed")
def test_a_misspelt_plugin_is_named_too():
    with pytest.raises(UsageError, match="did you mean 'ticker'"):
        SOURCES.get("tikcer")


@pytest.mark.usefixtures("installed")
def test_a_source_is_opened_by_its_scheme():
    source = open_source("ticker://3", SourceOptions(width=8, height=4))
    frames = [source.read(), source.read(), source.read()]
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert [int(frame.pixels.mean()) for frame in frames] == [0, 85, 170]
    assert frames[0].pixels.shape == (4, 8, 3)
    assert source.read() is None
    with pytest.raises(SourceError, match="as in ticker://3"):
        open_source("ticker://many")


def test_a_sink_is_opened_by_its_scheme(installed):
    sink = open_sink(f"tally://{installed}/counts.txt", SinkOptions())
    sink.close()
    assert (installed / "counts.txt").read_text() == ""


def test_a_plugin_cannot_take_over_a_name_of_ours(site):
    install(site, "usurper", "edgeinfer.tests", "camera = usurper:loads", "loads = None\n")
    drivers = Registry[object]("test", {"camera": "json:loads"})
    import json

    assert drivers.names() == ("camera",)
    assert drivers.get("camera") is json.loads
    assert "usurper" not in sys.modules


def test_two_packages_with_one_word_are_an_error_that_names_both(site):
    install(site, "first", "edgeinfer.sources", "lidar = first_driver:open", "open = 1\n")
    install(site, "second", "edgeinfer.sources", "lidar = second_driver:open", "open = 2\n")
    with pytest.raises(SourceError) as caught:
        SOURCES.get("lidar", error=SourceError)
    assert str(caught.value) == (
        "source 'lidar' is offered by first (first_driver:open) and second (second_driver:open); uninstall all but one"
    )


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import no_such_vendor\n", "ModuleNotFoundError: No module named 'no_such_vendor'"),
        ("def open(:\n", "SyntaxError: "),
        ("raise RuntimeError('no card\\nfirmware: none')\n", "RuntimeError: no card"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("", "AttributeError: module 'broken_driver' has no attribute 'open_it'"),
    ],
)
def test_a_broken_plugin_is_one_clear_line(module, reason, site):
    install(site, "broken", "edgeinfer.runtimes", "tpu9 = broken_driver:open_it", module)
    with pytest.raises(DeviceNotFound) as caught:
        RUNTIMES.get("tpu9", error=DeviceNotFound)
    expected = f"runtime 'tpu9' from broken (broken_driver:open_it) does not load: {reason}"
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("site")
def test_a_broken_plugin_does_not_harm_the_others(site, installed):
    install(site, "broken", "edgeinfer.sources", "lidar = broken_driver:open", "1 / 0\n")
    assert SOURCES.get("ticker").__module__ == "edgeinfer_example.ticker"


@pytest.mark.usefixtures("installed")
def test_the_example_task_decodes_a_number():
    task = TASKS.get("daylight")
    from edgeinfer.tensor import TensorSpec

    spec = TensorSpec("mean", (1, 1), np.dtype(np.float32))
    (answer,) = task(None, (spec,)).decode((np.array([[1.0]], dtype=np.float32),), WHOLE).classes
    assert (answer.label, answer.class_id, answer.score) == ("bright", 1, 1.0)


def test_all_four_work_together_from_the_command_line(installed):
    words = "run --quiet --model blood-cells --source ticker://4 --device brightness:cpu --output tally://counts.txt"
    done = subprocess.run(
        [sys.executable, "-m", "edgeinfer", *words.split(), "--task", "daylight", "--decoder", "daylight"],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed), "EDGEINFER_STATE": str(installed / "state")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Grey levels 0, 63, 127 and 191: three of four are below the middle.
    assert (installed / "counts.txt").read_text() == "3 dark\n1 bright\n"
