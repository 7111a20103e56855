"""How a crash loop is slowed down."""

from __future__ import annotations

from edgeinfer.service.restarts import Restarts


def test_the_first_restarts_are_not_delayed_and_the_later_ones_more_and_more(tmp_path):
    delays_s = [Restarts(tmp_path).begin() for _ in range(13)]
    assert delays_s == [0, 0, 0, 0, 5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_wanted_end_or_a_steady_run_begins_the_count_anew(tmp_path):
    for _ in range(6):
        restarts = Restarts(tmp_path)
        restarts.begin()
    restarts.steady()
    assert Restarts(tmp_path).begin() == 0
    restarts.end()
    restarts.end()


def test_without_a_folder_or_with_a_damaged_file_nothing_is_delayed(tmp_path):
    assert Restarts(None).begin() == 0
    Restarts(None).end()
    (tmp_path / "starts").write_bytes(b"\xff\xfe rubbish" * 1000)
    assert Restarts(tmp_path).begin() == 0
    assert Restarts(tmp_path / "absent").begin() == 0
