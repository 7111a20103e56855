"""A few rounds of scripts/download_kills: kill -9 of updater, publisher and broker while a model is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import download_kills
from scripts.local_broker import NoBroker


@pytest.mark.parametrize("over", ["mqtt", "http"])
def test_downloads_come_whole_whatever_is_killed(tmp_path: Path, over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    try:
        verdict = download_kills.run(downloads=1, over=over, megabytes=15, seed=3, folder=tmp_path)
    except NoBroker as missing:
        pytest.skip(str(missing))
    assert verdict.holds, (tmp_path / "programs.log").read_text()[-2000:]
