"""Commands that come over MQTT: read, bounded, carried out once, answered."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from edgeinfer.clock import Clock
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.uplink.bodies import Answer, Command, CommandName, ThresholdCommand
from edgeinfer.uplink.publication import Publication, Received
from edgeinfer.uplink.topics import Topics, may_be_answered_at, place_of

log = logging.getLogger(__name__)

COMMAND_BYTES_MAX = 4096
_PER_SECOND = 5
_AT_ONCE = 10
_REMEMBERED = 256
_ERROR_MAX = 300


class Controls(Protocol):
    """What can be commanded. Each returns soon, and raises EdgeInferError, in one line, where it cannot be done."""

    def pause(self, pipeline: str | None) -> None:
        """Take up no more frames, of all pipelines where none is named. Does nothing where it is paused already."""
        ...

    def resume(self, pipeline: str | None) -> None: ...

    def snapshot(self, pipeline: str | None) -> None:
        """Send a picture of the next frame."""
        ...

    def set_score_min(self, pipeline: str, score_min: float) -> None:
        """Leave out what scores below, 0..1, until the next start."""
        ...

    def reload(self) -> None:
        """Read the configuration anew."""
        ...


class Commands:
    """Answers what comes on `cmd/…`. Called by the uplink's thread.

    allowed: all others are answered with an error. The same id of the same command gets the answer that it got, and is
    not carried out again, among the last 256. A retained command is ignored: it would strike anew at each connection.
    Of more than 10 at once, or 5 a second, the rest is ignored and counted in `ignored`.
    """

    def __init__(
        self, topics: Topics, controls: Controls, allowed: Collection[CommandName], *, clock: Clock | None = None
    ) -> None:
        self.ignored = 0
        self._topics = topics
        self._controls = controls
        self._allowed = frozenset(allowed)
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._budget = _Budget((clock or Clock()).monotonic_ns)

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to; nothing where nothing is allowed."""
        return (self._topics.commands,) if self._allowed else ()

    def handle(self, received: Received) -> Publication | None:
        """Carry a command out; its answer, or None where there is none to give."""
        place = place_of(received.topic, self._topics.prefix)
        if place is None or place.kind != "cmd" or place.is_answer or place.node != self._topics.node:
            return None
        if received.retain:
            log.warning("retained command on %s ignored; clear it: mosquitto_pub -r -n -t TOPIC", received.topic)
            return None
        if not self._budget.take():
            self.ignored += 1
            if self.ignored == 1:
                log.warning("more than %d commands a second; the rest is ignored", _PER_SECOND)
            return None
        return self._publication(received, place.name, self._answer(place.name, received.payload))

    def _answer(self, name: str, payload: bytes) -> Answer:
        try:
            command = _read(name, payload)
        except UsageError as refused:
            return Answer(id="", ok=False, error=str(refused)[:_ERROR_MAX])
        key = (name, command.id)
        if key not in self._answers:
            self._answers[key] = self._carry_out(name, command)
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _carry_out(self, name: str, command: Command | ThresholdCommand) -> Answer:
        if name not in self._allowed:
            return Answer(id=command.id, ok=False, error=f"{name} is not allowed here; see commands in [uplink]")
        try:
            self._call(name, command)
        except EdgeInferError as refused:
            return Answer(id=command.id, ok=False, error=str(refused)[:_ERROR_MAX])
        except Exception as bug:
            log.exception("command %s failed", name)
            return Answer(id=command.id, ok=False, error=f"a bug in edgeinfer: {type(bug).__name__}")
        log.info("command %s carried out", name)
        return Answer(id=command.id, ok=True)

    def _call(self, name: str, command: Command | ThresholdCommand) -> None:
        if isinstance(command, ThresholdCommand):
            self._controls.set_score_min(command.pipeline, command.score_min)
            return
        if name == "reload":
            self._controls.reload()
            return
        of_pipelines: dict[str, Callable[[str | None], None]] = {
            "pause": self._controls.pause,
            "resume": self._controls.resume,
            "snapshot": self._controls.snapshot,
        }
        of_pipelines[name](command.pipeline)

    def _publication(self, received: Received, name: str, answer: Answer) -> Publication:
        wanted = received.response_topic
        is_usable = wanted is not None and may_be_answered_at(wanted, self._topics)
        return Publication(
            wanted if wanted is not None and is_usable else self._topics.answer(name),
            msgspec.json.encode(answer),
            content_type="application/json",
            correlation=received.correlation,
        )


class _Budget:
    """So many at once, and so many a second on average."""

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._left = float(_AT_ONCE)
        self._at_ns = monotonic_ns()

    def take(self) -> bool:
        now_ns = self._monotonic_ns()
        self._left = min(float(_AT_ONCE), self._left + (now_ns - self._at_ns) / 1e9 * _PER_SECOND)
        self._at_ns = now_ns
        if self._left < 1:
            return False
        self._left -= 1
        return True


_SHAPES: dict[str, type[Command] | type[ThresholdCommand]] = {
    "pause": Command,
    "resume": Command,
    "snapshot": Command,
    "reload": Command,
    "threshold": ThresholdCommand,
}


def _read(name: str, payload: bytes) -> Command | ThresholdCommand:
    """Raises UsageError: one line for who sent it."""
    shape = _SHAPES.get(name)
    if shape is None:
        raise UsageError(f"no command {name[:64]!r}; there are {', '.join(_SHAPES)}")
    if len(payload) > COMMAND_BYTES_MAX:
        raise UsageError(f"{len(payload)} bytes are too many for a command, {COMMAND_BYTES_MAX} are allowed")
    try:
        return msgspec.json.decode(payload, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refused:
        raise UsageError(f"{name}: {refused}") from refused
