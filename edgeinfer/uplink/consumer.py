"""The messages of all nodes at a broker, each once, acknowledged when they were dealt with.

from edgeinfer import Consumer

Consumer("mqtt://localhost/", state="seen.json").run(lambda message: print(message.node, message.data))
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from time import monotonic_ns
from typing import Any

from edgeinfer.durable import replace_file, sweep
from edgeinfer.errors import OutputError, UsageError
from edgeinfer.uplink.messages import BadMessage, Numbered
from edgeinfer.uplink.publication import Acknowledged, Connected, Event, Link, Lost, Publication, Received, Unheard
from edgeinfer.uplink.reception import Missing, Reception
from edgeinfer.uplink.subscriber import open_subscriber, subscriber_config
from edgeinfer.uplink.topics import filters

log = logging.getLogger(__name__)

__all__ = ["Consumer", "Missing", "Numbered"]

_STATE_BYTES_MAX = 64 << 20
_LOOK_EVERY_S = 1.0
_GOODBYE_S = 2.0
_DENIED = 0x80

Handler = Callable[[Numbered], object]


class Consumer:
    """Listens to the results, events and gaps of all nodes, or of `node`, under `prefix`.

    url: `mqtt://host[:1883]` or `mqtts://host[:8883]`. state: a file to go on from after a restart; made where it is
    not there. acknowledge: False for who only listens, beside a consumer that acknowledges.
    options: as in `[uplink]`: prefix, ca, cert, key, server_name, alpn, user_file, password_file, client_id, keepalive.

    A message is acknowledged once the handler has returned for it: with a hundred others or half a second later, and
    never before all that comes before it. So it is delivered at least once; the same one comes a second time only when
    this process dies in that half second, and then it bears the same `node`, `epoch` and `seq`.

    Raises UsageError, ConfigError; OutputError for a state that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        node: str | None = None,
        state: str | PathLike[str] | None = None,
        acknowledge: bool = True,
        **options: Any,
    ) -> None:
        self._config = subscriber_config(url, **options)
        self._filters = filters(("results", "events", "gaps", "status"), node=node, prefix=self._config.prefix)
        self._reception = Reception(self._config.prefix, acknowledges=acknowledge)
        self._state = None if state is None else Path(state)
        if self._state is not None:
            sweep(self._state.parent, self._state.stem)
            _restore(self._reception, self._state)
        self._stopped = threading.Event()
        self._link: Link | None = None
        self._is_lost = self._is_denied = False

    @property
    def duplicates(self) -> int:
        """How many messages came once more, and were not handed on."""
        return self._reception.duplicates

    def run(self, handler: Handler, *, on_missing: Callable[[Missing], object] | None = None) -> None:
        """Call `handler` for each message, in this thread, until `stop`; connect again whenever that is needed.

        What the handler raises ends this, and its message comes again next time. It should return within the
        `keepalive` (30 s), or the broker takes this client for dead. on_missing: told of messages that the node holds
        for done and that never came here; without it they are logged. Raises OutputError where `state` cannot be
        written.
        """
        self._stopped.clear()
        self._link = link = open_subscriber(self._config)
        try:
            while not self._stopped.is_set():
                wait_s = self._reception.wait_s(monotonic_ns())
                for event in link.turn(_LOOK_EVERY_S if wait_s is None else wait_s):
                    self._hear(link, event, handler, on_missing or _log_missing)
                    if self._stopped.is_set():
                        break
                self._acknowledge_when_due(link)
        finally:
            try:
                self._acknowledge(link)
            finally:
                self._link = None
                link.close(_GOODBYE_S)

    def stop(self) -> None:
        """End `run` after the message in hand. From any thread, and from the handler."""
        self._stopped.set()
        if self._link is not None:
            self._link.wake()

    def _hear(self, link: Link, event: Event, handler: Handler, on_missing: Callable[[Missing], object]) -> None:
        if isinstance(event, Received):
            self._receive(link, event, handler, on_missing)
        elif isinstance(event, Connected):
            if self._is_lost:
                log.warning("connected again")
            self._is_lost = False
            link.subscribe(self._filters)
            _publish(link, self._reception.connected())
        elif isinstance(event, Lost):
            if not self._is_lost:
                log.warning("%s; trying again until it works", event.reason)
            self._is_lost = True
        elif isinstance(event, Unheard):
            log.warning("the broker refuses a subscription to %s", event.topic)
        elif isinstance(event, Acknowledged) and event.reason_code >= _DENIED and not self._is_denied:
            self._is_denied = True
            log.warning(
                "the broker denies our acknowledgements (code %d); may this user write to …/ack?", event.reason_code
            )

    def _receive(
        self, link: Link, received: Received, handler: Handler, on_missing: Callable[[Missing], object]
    ) -> None:
        for each in self._reception.feed(received, monotonic_ns()):
            if isinstance(each, Numbered):
                handler(each)
                self._reception.handled(each, monotonic_ns())
                self._acknowledge_when_due(link)
            elif isinstance(each, Missing):
                on_missing(each)
            else:
                _publish(link, [each])

    def _acknowledge_when_due(self, link: Link) -> None:
        if self._reception.is_due(monotonic_ns()):
            self._acknowledge(link)

    def _acknowledge(self, link: Link) -> None:
        """The state first: what is acknowledged never comes again."""
        if self._reception.wait_s(monotonic_ns()) is None:
            return
        if self._state is not None:
            try:
                replace_file(self._state, self._reception.state())
            except OSError as failed:
                raise OutputError(f"cannot write {self._state}: {failed.strerror}") from failed
        _publish(link, self._reception.acknowledge())


def _publish(link: Link, publications: Sequence[Publication]) -> None:
    for publication in publications:
        link.publish(publication)


def _log_missing(missing: Missing) -> None:
    log.warning("%s: messages %d to %d never came here", missing.node, missing.first, missing.last)


def _restore(reception: Reception, path: Path) -> None:
    """Raises OutputError, UsageError."""
    try:
        with path.open("rb") as file:
            state = file.read(_STATE_BYTES_MAX + 1)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} for {path.name}") from None
        return
    except OSError as unreadable:
        raise OutputError(f"cannot read {path}: {unreadable.strerror}") from unreadable
    try:
        reception.restore(state)
    except BadMessage as bad:
        raise OutputError(f"{path} is {bad}", hint="name another file, or take this one away") from bad
