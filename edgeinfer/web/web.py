"""The page of a node, from opening its address to closing it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec

from edgeinfer.clock import Clock
from edgeinfer.config import PipelineConfig, WebConfig
from edgeinfer.errors import UsageError
from edgeinfer.sinks import Sink
from edgeinfer.web.access import Access, read_listen, read_token, refuse_open
from edgeinfer.web.health import Health
from edgeinfer.web.state import Told, Watch

log = logging.getLogger(__name__)


class Web:
    """Listens from the beginning, so that an address that is taken is said before a model is loaded.

    Raises UsageError, ConfigError.
    """

    def __init__(self, config: WebConfig, *, clock: Clock | None = None) -> None:
        listen, token = read_listen(config.listen), read_token(config)
        refuse_open(listen, token, config.listen)
        for module in ("starlette", "uvicorn"):
            if find_spec(module) is None:
                raise UsageError(f"the page needs {module}", hint="pip install 'edgeinfer[web,metrics]'")
        from edgeinfer.web.server import Server

        self._watch = Watch(config, clock)
        self._server = Server(listen, Access(listen.is_loopback, token, frozenset(config.hosts)), self._watch)
        # From now on: what is said while models are opened is worth reading.
        logging.getLogger("edgeinfer").addHandler(self._watch.log)
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        self.url = f"http://{host}:{self._server.port}/"

    def sinks_for(self, config: PipelineConfig) -> Sequence[Sink]:
        """What a pipeline is to give its results to, so that the page shows it."""
        return (self._watch.sink_for(config),)

    def start(self, node: Told) -> None:
        self._watch.begin(node)
        self._server.start()
        log.info("the page is at %s", self.url)

    def health(self) -> Health:
        """Once started."""
        return self._watch.health()

    def close(self) -> None:
        """May be called twice."""
        logging.getLogger("edgeinfer").removeHandler(self._watch.log)
        self._server.close()
