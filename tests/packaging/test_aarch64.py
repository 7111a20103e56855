"""The package for arm64 in a root of its own, under emulation: the same results as here. At length: scripts/aarch64."""

from __future__ import annotations

import os
from copy import deepcopy

import pytest

from scripts import aarch64
from scripts.aarch64 import FRAMES, PIPELINES, Arm64, NoEmulation, difference

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return aarch64.results_of_this_machine(tmp_path_factory.mktemp("here"), FRAMES)


@pytest.fixture(scope="module")
def arm64(tmp_path_factory):
    if not os.environ.get("EDGEINFER_TEST_VM"):
        pytest.skip("takes a minute or two: set EDGEINFER_TEST_VM=1, as CI does")
    try:
        return Arm64(tmp_path_factory.mktemp("arm64"))
    except NoEmulation as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def there(arm64):
    return aarch64.results_of_arm64(arm64, FRAMES)


@pytest.mark.parametrize("name", PIPELINES)
def test_arm64_sees_what_this_machine_sees(name, here, there):
    found = difference(here[name], there[name])
    assert (found.frames, found.alone) == (FRAMES, ())
    assert found.detections >= 4 * FRAMES
    assert found.is_small, found


@pytest.mark.parametrize("name", PIPELINES)
def test_each_result_says_the_device_that_was_asked_for(name, there):
    assert {result["device"] for result in there[name]} == {PIPELINES[name]}


def test_the_core_is_recognised_by_what_its_kernel_shows(arm64):
    done = arm64.run(["/usr/bin/edgeinfer", "devices"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "Cortex-A76, aarch64" in done.stdout
    assert "int8 by asimddp" in done.stdout


def test_a_difference_is_found(here):
    """Of what is compared above, by this machine's own results with something else about them."""
    results = here["onnx"]
    assert difference(results, results).is_small
    other = deepcopy(results)
    del other[0]["detections"][0]
    moved, doubtful = deepcopy(results), deepcopy(results)
    moved[1]["detections"][0]["box_xyxy"][0] += 0.02
    doubtful[2]["detections"][0]["score"] -= 0.03
    assert not any(difference(results, changed).is_small for changed in (other, moved, doubtful, results[:-1]))
