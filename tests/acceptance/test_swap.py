"""24 swaps under a camera of 30 fps with a canary beside: no frame is dropped. How late they are, `scripts/bench swap`
says."""

from __future__ import annotations

import pytest

from scripts.benchmarks import swap


@pytest.mark.timeout(300)
def test_24_swaps_drop_no_frame(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    row = swap.run(24, idle_s=0.5)
    assert row["versions"][1:] == [f"swap-{release}" for release in range(1, 25)]
    assert row["dropped"] == 0
