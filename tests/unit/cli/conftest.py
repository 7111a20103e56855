"""The package's logger as it was: a command configures it for the whole process."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _logger():
    logger = logging.getLogger("edgeinfer")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
