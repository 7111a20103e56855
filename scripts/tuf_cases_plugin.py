"""For scripts/tuf_cases: every updater of python-tuf's tests reads from its simulator through our transport."""

from __future__ import annotations

from typing import Any

import tuf.ngclient
from tuf.api import exceptions

from edgeinfer.errors import UpdateError
from edgeinfer.updates.transport import Chunks, NotThere
from edgeinfer.updates.tuf import MetadataFetcher

_FETCHER = 4  # Of the positional arguments.
_TheirUpdater = tuf.ngclient.Updater
_made = 0


class SimulatorTransport:
    """What their simulator gives, as a transport."""

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        try:
            content = b"".join(self._simulator.fetch(path))
        except exceptions.DownloadHTTPError as refused:
            if refused.status_code in (403, 404):
                raise NotThere(str(refused)) from refused
            raise UpdateError(str(refused)) from refused
        yield content[offset : offset + most]

    def close(self) -> None:
        pass


class SimulatorFetcher(MetadataFetcher):
    """Ours for metadata; files, which we fetch without theirs, come straight from the simulator."""

    def __init__(self, simulator: Any) -> None:
        super().__init__(SimulatorTransport(simulator))
        self._simulator = simulator

    def _fetch(self, url: str) -> Any:
        return self._simulator.fetch(url)


class Updater(_TheirUpdater):
    def __init__(self, *words: Any, **options: Any) -> None:
        global _made
        given = list(words)
        if len(given) > _FETCHER and given[_FETCHER] is not None:
            given[_FETCHER] = SimulatorFetcher(given[_FETCHER])
            _made += 1
        elif options.get("fetcher") is not None:
            options["fetcher"] = SimulatorFetcher(options["fetcher"])
            _made += 1
        super().__init__(*given, **options)


tuf.ngclient.Updater = Updater  # type: ignore[misc]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"{_made} updaters read through our transport")
