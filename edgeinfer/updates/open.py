"""From the URL of a repository to a Remote: a web server, an MQTT broker, or a folder such as a USB stick's."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeinfer.clock import Clock
from edgeinfer.config import Config, UpdatesConfig, UplinkConfig
from edgeinfer.errors import ConfigError, UsageError
from edgeinfer.quantity import parse_seconds
from edgeinfer.updates.remote import Remote
from edgeinfer.updates.schedule import Schedule
from edgeinfer.updates.transport import Transport

if TYPE_CHECKING:
    from edgeinfer.updates.store import Store

_NO_WISHES: Mapping[str, int] = {}


def open_remote(
    url: str,
    store: Store,
    *,
    root: Path | None = None,
    node: str | None = None,
    groups: Collection[str] = (),
    uplink: UplinkConfig | None = None,
    clock: Clock | None = None,
) -> Remote:
    """The releases at `http(s)://…`, `mqtt(s)://broker/REPOSITORY` or in a folder that are for this node.

    root: the publisher's root metadata, which the trust begins with; needed the first time only. node: the host's name
    where None. uplink: how to come to a broker, but for its URL. Raises UsageError, ConfigError, UpdateError.
    """
    if find_spec("tuf") is None:
        raise UsageError("updates need the module 'tuf'", hint="pip install 'edgeinfer[updates]'")
    from edgeinfer.updates.trustfolder import TrustFolder
    from edgeinfer.updates.tuf import TufRemote

    transport, wishes = _transport(url, uplink)
    try:
        return TufRemote(
            transport,
            store,
            TrustFolder(store.folder / "trust"),
            root=root,
            node=node or socket.gethostname(),
            groups=groups,
            wishes=wishes,
            clock=clock,
        )
    except BaseException:
        transport.close()
        raise


def open_configured(config: Config, store: Store, *, clock: Clock | None = None) -> Remote:
    """The remote of `[updates]`. Raises ConfigError where there is no such table, and as `open_remote` does."""
    updates = config.updates
    if updates is None:
        raise ConfigError("there is no [updates]", hint="docs/updates.md says what is in it")
    root = None if updates.root is None else Path(updates.root)
    return open_remote(
        updates.url, store, root=root, node=config.node, groups=updates.groups, uplink=config.uplink, clock=clock
    )


def schedule_of(updates: UpdatesConfig, store: Store, clock: Clock) -> Schedule:
    """When the node asks. Raises ConfigError for an `every` that cannot be understood."""
    try:
        every_s = parse_seconds(updates.every)
    except ValueError as wrong:
        raise ConfigError(f"updates.every: {wrong}") from wrong
    return Schedule(store.folder / "trust", every_s, clock)


def _transport(url: str, uplink: UplinkConfig | None) -> tuple[Transport, Mapping[str, int]]:
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in ("http", "https"):
        from edgeinfer.updates.web import WebTransport

        return WebTransport(url), _NO_WISHES
    if scheme in ("mqtt", "mqtts"):
        from edgeinfer.updates.exchange import split_url
        from edgeinfer.updates.mqtt import MqttTransport

        broker, repository = split_url(url)
        config = UplinkConfig(url=broker) if uplink is None else msgspec.structs.replace(uplink, url=broker)
        mqtt = MqttTransport(config, repository)
        return mqtt, mqtt.wishes
    if scheme and scheme != "file":
        raise UsageError(
            f"{url!r} is no URL of a repository", hint="http://…, https://…, mqtt://…, mqtts://… or a folder"
        )
    from edgeinfer.updates.folder import FolderTransport

    return FolderTransport(Path(url.removeprefix("file://")).expanduser()), _NO_WISHES
