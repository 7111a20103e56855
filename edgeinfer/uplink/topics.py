"""Topic names: `<prefix>/<node>/…`, made by the node and read by whoever subscribes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args
from urllib.parse import quote, unquote

from edgeinfer.errors import UsageError
from edgeinfer.uplink.message import Message

PREFIX = "edgeinfer/v1"

Kind = Literal["status", "meta", "metrics", "ack", "gaps", "results", "events", "snapshots", "model", "cmd"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_OF_A_NODE = frozenset({"status", "meta", "metrics", "ack", "gaps"})
_TOPIC_BYTES_MAX = 65_535  # A string of MQTT is no longer.


class Place(NamedTuple):
    """What a topic is about. name: the pipeline, the slot or the command; "" where the topic is the node's."""

    node: str
    kind: Kind
    name: str
    is_answer: bool = False


class Topics:
    """The topics of one node. Raises UsageError for a prefix or a node that cannot be in a topic."""

    def __init__(self, node: str, prefix: str = PREFIX) -> None:
        self.node = node
        self.prefix = checked_prefix(prefix)
        self.root = f"{prefix}/{level(node)}"
        self.status = f"{self.root}/status"
        self.meta = f"{self.root}/meta"
        self.metrics = f"{self.root}/metrics"
        self.ack = f"{self.root}/ack"
        self.gaps = f"{self.root}/gaps"
        self.commands = f"{self.root}/cmd/+"

    def results(self, pipeline: str) -> str:
        return f"{self.root}/results/{level(pipeline)}"

    def events(self, pipeline: str) -> str:
        return f"{self.root}/events/{level(pipeline)}"

    def snapshots(self, pipeline: str) -> str:
        return f"{self.root}/snapshots/{level(pipeline)}"

    def model(self, slot: str) -> str:
        return f"{self.root}/model/{level(slot)}"

    def command(self, name: str) -> str:
        return f"{self.root}/cmd/{level(name)}"

    def answer(self, command: str) -> str:
        """Where a command is answered that came without a response topic."""
        return f"{self.command(command)}/answer"

    def topic_of(self, message: Message) -> str:
        """Where a spooled message goes."""
        if message.channel == "gap":
            return self.gaps
        return self.results(message.pipeline) if message.channel == "result" else self.events(message.pipeline)


def level(name: str) -> str:
    """A name as one level of a topic: all but ASCII letters, digits and `._~-` as %XX of its UTF-8, as in a URL.

    So two names never share a topic, and `unquote` gives the name back. Raises UsageError for an empty one.
    """
    if not name:
        raise UsageError("an empty name cannot be in a topic")
    return quote(name, safe="", errors="replace")


def checked_prefix(prefix: str) -> str:
    """The prefix itself. Raises UsageError unless it is some levels without wildcards that do not begin with $."""
    levels = prefix.split("/")
    if not all(levels) or any(sign in prefix for sign in "+#\0") or prefix.startswith("$"):
        raise UsageError(f"topic prefix {prefix!r} must be names with / between, without + and #")
    return prefix


def place_of(topic: str, prefix: str = PREFIX) -> Place | None:
    """What a received topic is about; None where it is none of ours."""
    if not topic.startswith(f"{prefix}/"):
        return None
    node, *rest = topic[len(prefix) + 1 :].split("/")
    kind = next((each for each in KINDS if rest[:1] == [each]), None)
    if not node or kind is None:
        return None
    if kind in _OF_A_NODE:
        return Place(unquote(node), kind, "") if len(rest) == 1 else None
    is_answer = kind == "cmd" and rest[2:] == ["answer"]
    if len(rest) != 2 + is_answer or not rest[1]:
        return None
    return Place(unquote(node), kind, unquote(rest[1]), is_answer)


def filters(
    kinds: Iterable[Kind], *, node: str | None = None, name: str | None = None, prefix: str = PREFIX
) -> tuple[str, ...]:
    """What to subscribe to for topics of these kinds; of all nodes and pipelines where none is named."""
    root = f"{checked_prefix(prefix)}/{'+' if node is None else level(node)}"
    return tuple(
        f"{root}/{kind}" if kind in _OF_A_NODE else f"{root}/{kind}/{'+' if name is None else level(name)}"
        for kind in kinds
    )


def may_be_answered_at(topic: str, topics: Topics) -> bool:
    """Whether a response topic that somebody else chose may be published to: a plain topic, and none of a node's own.

    Otherwise who may only give a command could speak in the node's name.
    """
    if not topic or len(topic.encode(errors="replace")) > _TOPIC_BYTES_MAX or topic.startswith("$"):
        return False
    if any(sign in topic for sign in "+#\0"):
        return False
    place = place_of(topic, topics.prefix)
    return place.is_answer if place is not None else not topic.startswith(f"{topics.prefix}/")
