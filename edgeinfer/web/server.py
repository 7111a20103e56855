"""The HTTP server, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import suppress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeinfer.errors import UsageError
from edgeinfer.web.access import Access, Listen
from edgeinfer.web.app import make_app
from edgeinfer.web.state import Watch

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_CLOSE_S = 3.0
_ANSWERED_MAX, _CONNECTIONS_MAX = 40, 60
_FIRST_REQUEST_S = 10.0
_HEAD_BYTES_MAX = 16_384
_UNANSWERED_MS = 20_000


class Server:
    """Listens from now on, answers from `start` on. Raises UsageError where the address cannot be had."""

    def __init__(self, listen: Listen, access: Access, watch: Watch) -> None:
        self._watch = watch
        self._socket = _listen(listen)
        self.port: int = self._socket.getsockname()[1]
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                make_app(watch, access, port=self.port, is_closing=lambda: self._uvicorn.should_exit),
                http=_Protocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level=logging.ERROR,
                access_log=False,
                server_header=False,
                date_header=False,  # It would be renewed by the looks that are left out.
                proxy_headers=False,
                limit_concurrency=_ANSWERED_MAX,
                h11_max_incomplete_event_size=_HEAD_BYTES_MAX,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """May be called twice."""
        self._uvicorn.end()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("the page is given up; results are still produced")

    async def _serve(self) -> None:
        looking = asyncio.ensure_future(self._look())
        try:
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            looking.cancel()

    async def _look(self) -> None:
        try:
            while True:
                self._watch.look()
                await asyncio.sleep(_LOOK_EVERY_S)
        except Exception:
            log.exception("the page's numbers are given up")


class _Protocol(H11Protocol):
    """Hangs up on whoever asks for nothing, and on the one too many: strangers must not use up our open files."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # As uvicorn's own.
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS_MAX:
            transport.abort()
        else:
            self._deadline = self.loop.call_later(_FIRST_REQUEST_S, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class _Uvicorn(uvicorn.Server):
    """Waits to be ended, rather than to look ten times a second, which costs more than all else that is idle here."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._ending.wait()

    def end(self) -> None:
        """By any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # It has ended.
                self._loop.call_soon_threadsafe(self._ending.set)


def _listen(listen: Listen) -> socket.socket:
    listening = socket.socket(listen.family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: a viewer whose network is gone is not waited for long.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS)
        listening.bind((listen.host, listen.port))
        listening.listen(_CONNECTIONS_MAX)
    except OSError as refused:
        listening.close()
        raise UsageError(
            f"the page cannot listen on {listen.host}:{listen.port}: {refused.strerror}",
            hint="another program may be there; choose another port",
        ) from refused
    return listening
