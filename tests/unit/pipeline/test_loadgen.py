"""MLPerf's own LoadGen drives a fake device."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from edgeinfer.bundle import load_bundle
from edgeinfer.errors import RuntimeFailed, UsageError
from edgeinfer.pipeline.loadgen import drive, require_loadgen
from edgeinfer.runtimes.fake import FakeRuntime, Faults
from edgeinfer.sources import open_source

CARD = partial(open_source, "synthetic://test-card?frames=5&width=64&height=48")


@pytest.fixture
def loadgen():
    return pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")


def test_without_it_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(UsageError) as refused:
        require_loadgen()
    assert str(refused.value) == "LoadGen is not installed here; pip install mlcommons-loadgen"


def test_both_scenarios_have_results(loadgen):
    bundle = load_bundle("blood-cells")
    runtime = FakeRuntime(bundle.file, Faults(latency_ms=2))
    said = drive(loadgen, bundle, runtime, CARD, seconds=0.3, expected_fps=300)
    assert said["SingleStream"]["result_validity"] == "VALID"
    assert said["SingleStream"]["result_90.00_percentile_latency_ns"] >= 2_000_000
    assert 0 < said["Offline"]["result_samples_per_second"] <= 500
    # LoadGen asks for a tenth more samples than are expected to fill the time.
    assert runtime.runs == said["SingleStream"]["result_query_count"] + round(300 * 1.1 * 0.3)


def test_a_device_that_fails_ends_it(loadgen):
    bundle = load_bundle("blood-cells")
    with pytest.raises(RuntimeFailed, match="as asked"):
        drive(loadgen, bundle, FakeRuntime(bundle.file, Faults(fail_at=20)), CARD, seconds=0.1, expected_fps=1000)
