"""Real brokers for tests, which skip where there is none; see scripts/local_broker.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts import local_broker
from scripts.local_broker import Broker, NoBroker, free_port, running

__all__ = ["Broker", "amqtt", "free_port", "mosquitto"]


@contextmanager
def mosquitto(folder: Path, *settings: str, port: int | None = None) -> Iterator[Broker]:
    with _running(lambda: local_broker.mosquitto(folder, *settings, port=port)) as broker:
        yield broker


@contextmanager
def amqtt(folder: Path) -> Iterator[Broker]:
    with _running(lambda: local_broker.amqtt(folder)) as broker:
        yield broker


@contextmanager
def _running(make: Callable[[], Broker]) -> Iterator[Broker]:
    try:
        broker = make()
    except NoBroker as missing:
        pytest.skip(str(missing))
    with running(broker):
        yield broker
