"""The broker, where one is configured: reached, and greeted as whoever we are."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from edgeinfer.config import UplinkConfig
from edgeinfer.doctor.finding import Finding, Patient
from edgeinfer.errors import EdgeInferError

_PATIENCE_S = 15.0


def broker(patient: Patient) -> Iterator[Finding]:
    if patient.config is None or patient.config.uplink is None:
        return
    # Loads what MQTT and TLS need.
    from edgeinfer.uplink.address import read_address

    try:
        address = read_address(patient.config.uplink)
    except EdgeInferError as wrong:
        yield Finding("error", wrong.message, wrong.hint)
        return
    reason = why_not(patient.config.uplink)
    if reason is not None:
        reach = f"getent hosts {address.host}; nc -vz {address.host} {address.port}"
        yield Finding("error", f"{address}: {reason}; results wait in the spool", reach)


def why_not(config: UplinkConfig, *, patience_s: float = _PATIENCE_S) -> str | None:
    """Come to the broker as a guest, and leave again. Why that is not to be had; None where it is."""
    from edgeinfer.uplink.address import read_address
    from edgeinfer.uplink.backoff import Backoff
    from edgeinfer.uplink.link import MqttLink
    from edgeinfer.uplink.publication import Connected, Lost
    from edgeinfer.uplink.wire import Timeouts

    never = Backoff(patience_s, patience_s, lambda: 0.0)
    # Another client id than the node's own, or a broker would send that one away.
    link = MqttLink(
        lambda: read_address(config),
        f"edgeinfer-doctor-{secrets.token_hex(4)}",
        keepalive_s=config.keepalive,
        backoff=never,
        stolen=never,
        timeouts=Timeouts(tcp_s=5.0, tls_s=5.0, all_s=10.0, greeting_s=5.0),
    )
    deadline_s = time.monotonic() + patience_s
    try:
        link.open(None)
        while time.monotonic() < deadline_s:
            for event in link.turn(0.2):
                if isinstance(event, Connected):
                    return None
                if isinstance(event, Lost):
                    return event.reason
    finally:
        link.close(1.0)
    return f"it does not answer within {patience_s:g} s"
