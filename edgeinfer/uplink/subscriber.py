"""A link for programs that listen: under a client id of its own, without a will."""

from __future__ import annotations

import random
import secrets
from typing import Any

from edgeinfer.config import UplinkConfig
from edgeinfer.errors import UsageError
from edgeinfer.tomlfile import convert
from edgeinfer.uplink.address import read_address
from edgeinfer.uplink.backoff import Backoff
from edgeinfer.uplink.link import MqttLink
from edgeinfer.uplink.messages import PAYLOAD_BYTES_MAX
from edgeinfer.words import unknown

OPTIONS = (
    "ca",
    "cert",
    "key",
    "server_name",
    "alpn",
    "user_file",
    "password_file",
    "client_id",
    "keepalive",
    "prefix",
)

_ROOM_FOR_A_TOPIC = 128 << 10


def subscriber_config(url: str, *, is_uplink: bool = True, **options: Any) -> UplinkConfig:
    """Where to listen, in the words of `[uplink]`: those of OPTIONS. Raises UsageError, ConfigError.

    is_uplink: whether it is the node's own broker, for which systemd's credentials are; see `read_address`.
    """
    for name in options:
        if name not in OPTIONS:
            raise UsageError(unknown("option", name, OPTIONS))
    stated = {name: value for name, value in options.items() if value is not None}
    config = convert({"url": url, **stated}, UplinkConfig, UsageError)
    # What cannot be read now is said now, and not as one failed attempt after the other.
    read_address(config, url_error=UsageError, is_uplink=is_uplink)
    return config


def open_subscriber(config: UplinkConfig, *, is_uplink: bool = True) -> MqttLink:
    """A link that begins to connect at its next turn."""
    # Nobody else has a client id that was drawn: where it seems so, the broker is not well.
    stolen_s = (1.0, 30.0) if config.client_id is None else (30.0, 300.0)
    link = MqttLink(
        lambda: read_address(config, is_uplink=is_uplink),
        config.client_id or f"edgeinfer-{secrets.token_hex(6)}",
        keepalive_s=config.keepalive,
        backoff=Backoff(1.0, 30.0, random.random),
        stolen=Backoff(*stolen_s, random.random),
        packet_max=PAYLOAD_BYTES_MAX + _ROOM_FOR_A_TOPIC,
    )
    link.open(None)
    return link
