"""What node and publisher say to each other over MQTT: topics, requests, answers, and which are under way."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from edgeinfer.errors import UsageError
from edgeinfer.uplink.topics import PREFIX, checked_prefix, level

PIECE_BYTES_MAX = 96_000
"""Of a file in one answer."""

ANSWER_BYTES_MAX = PIECE_BYTES_MAX + 64

_MAIN = "main"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEAD = struct.Struct(">B7xQQ")  # What came of it, the offset, and the length of the whole file.
State = Literal["here", "missing", "refused"]
_STATES: tuple[State, ...] = ("here", "missing", "refused")
_PIECE_BYTES, _PIECE_BYTES_MIN = 64 << 10, 4 << 10
_WINDOW_FIRST, _WINDOW_MAX = 4, 16


class FleetTopics:
    """The topics of a repository: `<prefix>/fleet/<repository>/…`. Raises UsageError for what cannot be in a topic."""

    def __init__(self, repository: str, prefix: str = PREFIX) -> None:
        if _NAME.fullmatch(repository) is None:
            raise UsageError(f"repository {repository[:40]!r} is no name", hint="letters, digits, '.', '_' and '-'")
        self.root = f"{checked_prefix(prefix)}/fleet/{repository}"
        self.get = f"{self.root}/get"
        self.answers = f"{self.root}/to/"
        self.wishes = f"{self.root}/desired/+"

    def answers_of(self, client: str) -> str:
        return f"{self.answers}{level(client)}"

    def wish(self, slot: str) -> str:
        return f"{self.root}/desired/{level(slot)}"

    def slot_of_wish(self, topic: str) -> str | None:
        """None for another topic."""
        head, _, slot = topic.rpartition("/")
        return slot if head == f"{self.root}/desired" else None

    def may_be_answered_at(self, topic: str | None) -> bool:
        """Only where answers are looked for: who may ask must not speak elsewhere in the publisher's name."""
        if topic is None or not topic.startswith(self.answers) or len(topic) > 256:
            return False
        client = topic[len(self.answers) :]
        return bool(client) and not any(sign in client for sign in "/+#\0")


def split_url(url: str) -> tuple[str, str]:
    """`mqtt://host/REPOSITORY` -> the broker's URL, and the repository's name, `main` where none is given."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="")), parts.path.strip("/") or _MAIN


class Wish(msgspec.Struct, frozen=True):
    """The release that somebody wishes for, retained on `…/desired/<slot>`."""

    release: Annotated[int, Meta(ge=1, le=2**53)]


class Request(msgspec.Struct, frozen=True):
    """A piece of a file, by its path in the repository; the answer bears the request's correlation data."""

    path: Annotated[str, Meta(max_length=512)]
    offset: Annotated[int, Meta(ge=0, le=2**53)]
    length: Annotated[int, Meta(ge=1, le=PIECE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Answer:
    """A piece. size: of the whole file, in bytes."""

    state: State
    offset: int = 0
    size: int = 0
    piece: bytes = b""

    def encode(self) -> bytes:
        return _HEAD.pack(_STATES.index(self.state), self.offset, self.size) + self.piece


def read_answer(payload: bytes) -> Answer | None:
    """None for what is none."""
    if not _HEAD.size <= len(payload) <= ANSWER_BYTES_MAX:
        return None
    state, offset, size = _HEAD.unpack_from(payload)
    if state >= len(_STATES) or offset + len(payload) - _HEAD.size > size:
        return None
    return Answer(_STATES[state], offset, size, payload[_HEAD.size :])


class Piece(NamedTuple):
    """What is asked for. ticket: of the request; each has another one, in rising order."""

    ticket: int
    offset: int
    length: int


class Window:
    """Which pieces of a file are under way. Nothing is sent or read here.

    One is asked for first, since only its answer says how long the file is. Then there are more of them under way with
    each that comes; when one is lost half as many, and where nothing comes they are smaller, too.
    Answers come in the order of the requests, so that one which comes too early tells of a loss.
    """

    def __init__(self, offset: int, most: int) -> None:
        self._given = offset
        self._asked_to = offset
        self._end = offset + most
        self._is_end_known = False
        self._ticket = 0
        self._under_way: dict[int, Piece] = {}
        self._early: dict[int, bytes] = {}
        self._room = 1.0
        self._piece_bytes = _PIECE_BYTES

    @property
    def is_done(self) -> bool:
        return self._given >= self._end

    def due(self) -> Sequence[Piece]:
        """What is to be asked for now."""
        pieces = []
        while len(self._under_way) < int(self._room):
            while self._asked_to in self._early:
                self._asked_to += len(self._early[self._asked_to])
            if self._asked_to >= self._end:
                break
            self._ticket += 1
            piece = Piece(self._ticket, self._asked_to, min(self._piece_bytes, self._end - self._asked_to))
            self._under_way[piece.ticket] = piece
            self._asked_to += piece.length
            pieces.append(piece)
        return pieces

    def take(self, ticket: int, answer: Answer) -> Sequence[bytes]:
        """What can be given on in order, now that this has come; it may be late."""
        if self._under_way.pop(ticket, None) is not None:
            self._learn(answer)
            if any(earlier < ticket for earlier in self._under_way):
                self._go_back()
        if answer.offset + len(answer.piece) > self._given and len(self._early) < 2 * _WINDOW_MAX:
            self._early[answer.offset] = answer.piece
        given = tuple(self._in_order())
        self._asked_to = max(self._asked_to, self._given)
        return given

    def silence(self) -> None:
        """Nothing came for a while: all that was under way is taken for lost."""
        self._piece_bytes = max(_PIECE_BYTES_MIN, self._piece_bytes // 2)
        self._go_back()
        self._room = 1.0

    def _learn(self, answer: Answer) -> None:
        self._end = min(self._end, answer.size)
        self._room = min(_WINDOW_MAX, self._room + 1.0) if self._is_end_known else float(_WINDOW_FIRST)
        self._is_end_known = True
        self._piece_bytes = min(_PIECE_BYTES, self._piece_bytes * 2)

    def _go_back(self) -> None:
        self._under_way.clear()
        self._asked_to = self._given
        self._room = max(1.0, self._room / 2)

    def _in_order(self) -> Iterator[bytes]:
        while self._early:
            offset = min(self._early)
            if offset > self._given:
                return
            piece = self._early.pop(offset)[self._given - offset : self._end - offset]
            self._given += len(piece)
            if piece:
                yield piece
