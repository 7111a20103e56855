"""From the words of `[uplink]` to an uplink: the parts that are real, put together."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeinfer.clock import Clock
from edgeinfer.config import UplinkConfig
from edgeinfer.errors import ConfigError, EdgeInferError
from edgeinfer.metrics import Tally
from edgeinfer.quantity import parse_bytes, parse_bytes_per_day, parse_seconds
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.budget import FlashBudget
from edgeinfer.uplink.link import MqttLink
from edgeinfer.uplink.publication import Publication, Received
from edgeinfer.uplink.session import Sessions
from edgeinfer.uplink.spool import Spool
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.uplink import Uplink
from edgeinfer.uplink.wire import Timeouts

log = logging.getLogger(__name__)

_RETRY_S = (1.0, 60.0)
_STOLEN_S = (30.0, 600.0)


def open_uplink(
    config: UplinkConfig,
    topics: Topics,
    folder: Path,
    *,
    filters: Sequence[str] = (),
    on_command: Callable[[Received], Publication | None] | None = None,
    url_error: type[EdgeInferError] = ConfigError,
    retry_s: tuple[float, float] = _RETRY_S,
    stolen_s: tuple[float, float] = _STOLEN_S,
    timeouts: Timeouts | None = None,
    clock: Clock | None = None,
    tally: Tally | None = None,
) -> Uplink:
    """An uplink that is not started yet. folder: for the spool. retry_s: the first and the longest interval between
    attempts to connect; stolen_s: after another client has taken our id.

    Raises `url_error` for the URL, and ConfigError. What may be well later it does not raise, but tries again.
    """
    clock = clock or Clock()
    address = read_address(config, url_error=url_error)
    if address.password is not None and address.tls is None:
        log.warning("user and password go to %s unencrypted; mqtts:// would hide them", address)
    max_bytes = _amount("spool_bytes", config.spool_bytes, parse_bytes)
    max_age_s = _amount("spool_age", config.spool_age, parse_seconds)
    per_day = None if config.max_writes is None else _amount("max_writes", config.max_writes, parse_bytes_per_day)
    link = MqttLink(
        lambda: read_address(config),
        config.client_id or f"edgeinfer-{topics.node}",
        keepalive_s=config.keepalive,
        backoff=Backoff(*retry_s, random.random),
        stolen=Backoff(*stolen_s, random.random),
        timeouts=timeouts,
        clock=clock,
    )
    return Uplink(
        config,
        topics,
        lambda: Spool.open(folder / "spool", max_bytes=max_bytes, max_age_s=max_age_s, clock=clock),
        link,
        sessions=Sessions(folder / "session", clock),
        budget=FlashBudget(per_day, commit_ms=config.commit_ms, commit_rows=config.commit_rows, clock=clock),
        filters=filters,
        on_command=on_command,
        clock=clock,
        tally=tally,
    )


def _amount(key: str, text: str, parse: Callable[[str], float]) -> int:
    try:
        return round(parse(text))
    except ValueError as wrong:
        raise ConfigError(f"uplink.{key}: {wrong}") from wrong
