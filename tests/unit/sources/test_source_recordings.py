"""Recordings, tables and pipes: real files, followed while they grow, are rotated and cut."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.bundle.facts import WindowInput
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import open_any
from edgeinfer.sources.account import Account
from edgeinfer.sources.times import TimeReader
from edgeinfer.sources.windows import Windows

TEN_HZ = WindowInput(0, 10.0, 5, 5, (), (0.0,), (1.0,), "linear", 0.3)


def windows_of(word: str, wanted: WindowInput = TEN_HZ) -> list:
    with closing(Windows(open_any(word), wanted)) as windows:
        return list(iter(windows.read, None))


@pytest.mark.parametrize(
    ("stated", "unit", "at_ns"),
    [
        ("2026-11-26T12:00:00Z", None, 1_795_694_400_000_000_000),
        ("2026-11-26 14:00:00.25+02:00", None, 1_795_694_400_250_000_000),
        ("2026-11-26T12:00:00,123456789", None, 1_795_694_400_123_456_789),
        ("2026-11-26T06:30:00-0530", None, 1_795_694_400_000_000_000),
        ("1795694400.5", None, 1_795_694_400_500_000_000),
        ("1795694400500", None, 1_795_694_400_500_000_000),
        ("1795694400500000", None, 1_795_694_400_500_000_000),
        (1795694400500, None, 1_795_694_400_500_000_000),
        ("12.5", None, 12_500_000_000),
        ("12.5", "ms", 12_500_000),
    ],
)
def test_times_as_people_write_them(stated: str | float, unit, at_ns: int) -> None:
    assert abs(TimeReader(unit).read(stated) - at_ns) < 300


@pytest.mark.parametrize("stated", ["", "noon", "nan", "1e400", "2026-13-01T00:00:00Z", "1e30"])
def test_what_is_no_time(stated: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        TimeReader().read(stated)


def test_the_unit_of_the_first_time_holds() -> None:
    times = TimeReader()
    times.read("1795694400")
    assert times.read("1") == 10**9
    by_name = TimeReader()
    by_name.guess_from("time_ms")
    assert by_name.read("250") == 250_000_000


def test_a_table_with_a_header_and_one_without(tmp_path: Path) -> None:
    rows = [f"2026-11-26T12:00:00.{tenth}Z,{tenth},pump,{10 * tenth}" for tenth in range(10)]
    named = tmp_path / "named.csv"
    named.write_text("\n".join(["time,a,unit,b", *rows]))
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(f"{1795694400 + tenth / 10:.1f};{tenth};{10 * tenth}" for tenth in range(10)))
    for word, channels in ((str(named), ("a", "b")), (str(bare), ("1", "2"))):
        made = windows_of(word)
        assert [window.channels for window in made] == [channels] * 2
        assert made[1].values[:, 1].tolist() == pytest.approx([50, 60, 70, 80, 90], rel=1e-5)
        assert made[1].position_s == 0.5
        moment = datetime.fromtimestamp(made[1].captured_unix_ns / 1e9, tz=timezone.utc)
        assert f"{moment:%Y-%m-%d %H:%M:%S.%f}"[:21] == "2026-11-26 12:00:00.9"


def test_channels_without_names_are_taken_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time,temp,note,vibration\n" + "".join(f"{i / 10},{i},x,{-i}\n" for i in range(6)))
    (window,) = windows_of(str(path), replace(TEN_HZ, channels=("0", "1")))
    assert window.channels == ("temp", "vibration")
    assert window.values.tolist() == [[i, -i] for i in range(5)]
    with pytest.raises(SourceError, match="takes 3 channels, and there are 2 columns with numbers: temp, vibration"):
        windows_of(str(path), replace(TEN_HZ, channels=("0", "1", "2")))


def test_json_lines_and_a_channel_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"ts": {tenth * 100}, "v": {{"x": {tenth}, "y": null}}}}\n' for tenth in range(10)))
    wanted = WindowInput(0, 10.0, 5, 5, ("v.x",), (0.0,), (1.0,), "linear", 0.3)
    made = windows_of(f"{path}?unit=ms", wanted)
    assert made[1].values.tolist() == [[5], [6], [7], [8], [9]]


@pytest.mark.parametrize(
    ("name", "text", "query", "says"),
    [
        ("a.csv", "", "", "is empty"),
        ("a.csv", "a,b\n1,2\n", "", "no column with times, only a, b"),
        ("a.csv", "a,b\n1,2\n", "time=when", "unknown column 'when'"),
        ("a.csv", "hello\nworld\n", "", "holds no line with numbers"),
        ("a.jsonl", "time,a\n1,2\n", "", "garbage: 'time,a'|garbage: '1,2'"),
        ("a.csv", "time,a\n1,2\n", "follow=maybe", "follow=maybe"),
        ("a.csv", "time,a\n1,2\n", "folow=1", "did you mean 'follow'"),
        ("a.csv", "time,a\n1,2\n", "format=json", "holds csv, not json"),
        ("a.csv", "time,a\nnoon,2\n", "", "no time: 'noon,2'"),
    ],
)
def test_a_recording_that_makes_no_sense(tmp_path: Path, name: str, text: str, query: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SourceError, match=says):
        open_any(f"{path}?{query}" if query else str(path))


def test_too_few_samples_say_what_became_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,a\n0.0,1\n0.1,x\n0.2,\n0.1,1\n")
    with pytest.raises(SourceError, match=r"no whole window: the model takes 0.5 s.*garbage 1"):
        windows_of(str(path))


def followed(word: str):
    source = open_any(word)
    account = Account()
    source.begin((), account)
    return source, account


def rows_of(source, count: int) -> list:
    """The rows that come next, exactly so many."""
    rows: list = []
    while len(rows) < count:
        rows += source.read().values.tolist()
    assert len(rows) == count
    return rows


def test_a_file_is_followed_through_rotation_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,a\n1,1\n2,2\n3")
    source, account = followed(f"{path}?follow=1")
    assert source.live
    with path.open("a") as file:
        file.write(",3\n4,4\n5,")
        file.flush()
        assert rows_of(source, 1) == [[4]]
        file.write("5\n")
        file.flush()
        assert rows_of(source, 1) == [[5]]
        path.rename(tmp_path / "a.csv.1")
        file.write("6,6\n7,")
    path.write_text("time,a\n8,8\n")
    assert rows_of(source, 2) == [[6], [8]]
    assert source.channels == ("a",)
    path.write_text("9,9\n")
    assert rows_of(source, 1) == [[9]]
    assert account.notes() == {"rotated": 1, "truncated": 1}
    assert account.fates() == {"half line": 2}
    source.close()
    assert source.read() is None


def test_a_followed_file_that_is_moved_away_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": 1, "a": 1}\n')
    source, _ = followed(f"{path}?follow=1&from=start")
    assert rows_of(source, 1) == [[1]]
    path.unlink()
    assert len(source.read().values) == 0
    path.write_text('{"t": 2, "a": 2}\n')
    assert rows_of(source, 1) == [[2]]
    source.close()


@pytest.fixture
def table(tmp_path: Path):
    path = tmp_path / "r.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE readings (ts TEXT, temp REAL, hum INTEGER, note TEXT)")
    yield path, connection
    connection.close()


def add(connection: sqlite3.Connection, *rows: tuple) -> None:
    connection.executemany("INSERT INTO readings VALUES (?, ?, ?, ?)", rows)
    connection.commit()


def test_a_table_is_read_by_rowid_and_followed(table) -> None:
    path, connection = table
    add(connection, *((f"2026-11-26T12:00:00.{tenth}Z", tenth, None, "ok") for tenth in range(10)))
    made = windows_of(f"sqlite://{path}?table=readings&follow=0", wanted_of("temp"))
    assert [window.values[0, 0] for window in made] == [0, 5]
    source, account = followed(f"sqlite://{path}?table=readings")
    assert source.live
    add(connection, ("2026-11-26T12:00:01Z", 10, 3, "ok"), ("garbled", 11, 3, ""))
    add(connection, ("2026-11-26T12:00:02Z", b"x", 3, ""))
    add(connection, ("2026-11-26T12:00:03Z", None, 4, "low"))
    rows = rows_of(source, 2)
    assert rows[0] == [10, 3]
    assert np.isnan(rows[1][0])
    assert account.fates() == {"no time": 1, "garbage": 1}
    connection.execute("DROP TABLE readings")
    connection.commit()
    with pytest.raises(SourceLost, match="no such table"):
        source.read()
    source.close()
    source.close()
    assert source.read() is None


def wanted_of(*channels: str) -> WindowInput:
    return WindowInput(0, 10.0, 5, 5, channels, (0.0,), (1.0,), "linear", 0.3)


def test_the_table_is_never_written(table) -> None:
    path, connection = table
    add(connection, ("2026-11-26T12:00:01Z", 10, 3, None))
    source = open_any(f"sqlite://{path}?table=readings")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        source._connection.execute("DELETE FROM readings")
    source.close()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "names no table; table=NAME; there are readings"),
        ("table=reading", "did you mean 'readings'"),
        ("table=readings&format=csv", "neither format nor names"),
        ("table=readings&from=middle", "neither start nor end"),
        ("table=x%22%3B--", "unknown table"),
    ],
)
def test_a_table_that_cannot_be(table, query: str, says: str) -> None:
    path, _ = table
    with pytest.raises(SourceError, match=says):
        open_any(f"sqlite://{path}?{query}")


def test_a_file_that_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.db").write_text("no database, " * 100)
    with pytest.raises(SourceError, match="not a database"):
        open_any(f"sqlite://{tmp_path}/a.db?table=readings")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"did you mean sqlite://a\.db"):
        open_any("sqlite:///a.db?table=readings")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("-", "time,a\n1.0,1\n1.1,2\n"),
        ("-", '{"t": 1.0, "a": 1}\n{"t": 1.1, "a": 2}'),
        ("-", "t=1.0 a=1\nt=1.1 a=2\n"),
        ("-?names=t,a", "1.0 1\n1.1 2\n"),
    ],
)
def test_lines_are_read_from_a_pipe(word: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, text.encode())
    os.close(theirs)
    with open(ours) as file:  # noqa: PTH123 - a handle.
        monkeypatch.setattr(sys, "stdin", file)
        source, account = followed(word)
        assert rows_of(source, 2) == [[1], [2]]
        while (rest := source.read()) is not None:
            assert not rest.values.size
        assert source.channels == ("a",)
        assert account.fates() == {}
