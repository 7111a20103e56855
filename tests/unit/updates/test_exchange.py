"""Which pieces of a file are under way over MQTT, against a channel that loses, delays and repeats them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.errors import UsageError
from edgeinfer.updates.exchange import (
    PIECE_BYTES_MAX,
    Answer,
    FleetTopics,
    Piece,
    Window,
    read_answer,
    split_url,
)

CONTENT = bytes(range(256)) * 4096  # 1 MiB


def answer(piece: Piece, content: bytes = CONTENT) -> Answer:
    return Answer("here", piece.offset, len(content), content[piece.offset : piece.offset + piece.length])


@given(
    losses=st.lists(st.integers(0, 9), max_size=200),
    offset=st.integers(0, len(CONTENT)),
    most=st.integers(1, 2 * len(CONTENT)),
)
def test_whatever_is_lost_the_file_comes_whole_and_in_order(losses: Sequence[int], offset: int, most: int) -> None:
    window, came = Window(offset, most), b""
    fates = iter(losses)
    late: list[tuple[int, Answer]] = []
    for _ in range(10_000):
        if window.is_done:
            break
        pieces = window.due()
        assert all(piece.length <= PIECE_BYTES_MAX for piece in pieces)
        heard = False
        for piece in pieces:
            fate = next(fates, 9)
            if fate == 0:
                continue
            if fate == 1:
                late.append((piece.ticket, answer(piece)))
                continue
            for _ in range(2 if fate == 2 else 1):
                came += b"".join(window.take(piece.ticket, answer(piece)))
            heard = True
        if not heard:
            window.silence()
        while late and next(fates, 9) > 4:
            came += b"".join(window.take(*late.pop()))
    assert came == CONTENT[offset : offset + most]


def test_the_first_answer_says_how_long_the_file_is() -> None:
    window = Window(0, 5_000_000)
    (first,) = window.due()
    assert b"".join(window.take(first.ticket, answer(first, b"short"))) == b"short"
    assert window.is_done
    assert window.due() == []


def test_a_loss_is_noticed_by_what_comes_after_it() -> None:
    window = Window(0, len(CONTENT))
    (first,) = window.due()
    window.take(first.ticket, answer(first))
    lost, *rest = window.due()
    assert window.take(rest[0].ticket, answer(rest[0])) == ()
    assert window.due()[0].offset == lost.offset


def test_the_window_is_bounded() -> None:
    window = Window(0, len(CONTENT))
    (first,) = window.due()
    window.take(first.ticket, answer(first))
    under_way = list(window.due())
    while not window.is_done:
        assert len(under_way) <= 16
        piece = under_way.pop(0)
        window.take(piece.ticket, answer(piece))
        under_way += window.due()


@pytest.mark.parametrize(
    "payload", [b"", b"x" * 23, bytes([9]) + bytes(23), bytes(8) + b"\xff" * 8 + bytes(9), bytes(200_000)]
)
def test_what_is_no_answer(payload: bytes) -> None:
    assert read_answer(payload) is None


def test_an_answer_survives_the_way() -> None:
    said = Answer("here", 7, 100, b"piece")
    assert read_answer(said.encode()) == said


def test_the_publisher_answers_nowhere_else() -> None:
    topics = FleetTopics("main")
    assert topics.may_be_answered_at(topics.answers_of("me"))
    for topic in (
        None,
        "",
        "edgeinfer/v1/fleet/main/to/",
        "edgeinfer/v1/fleet/main/to/a/b",
        "edgeinfer/v1/pi/cmd/reload",
    ):
        assert not topics.may_be_answered_at(topic)
    assert not topics.may_be_answered_at("edgeinfer/v1/fleet/main/to/+")


def test_repository_names() -> None:
    assert split_url("mqtt://host:1883/shop") == ("mqtt://host:1883", "shop")
    assert split_url("mqtts://user@host/") == ("mqtts://user@host", "main")
    for name in ("a/b", "+", "", "ä"):
        with pytest.raises(UsageError):
            FleetTopics(name)
