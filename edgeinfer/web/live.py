"""A pipeline's pictures as they come, one replacing the other: MJPEG, which every browser shows in an <img>."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from edgeinfer.web.screen import Screen, Viewer

_BOUNDARY = b"edgeinfer-picture"
_LOOK_EVERY_S = 0.5
# Who takes no byte for so long is gone.
_PATIENCE_S = 15.0


class LivePicture:
    """An ASGI answer that ends when the viewer goes, or `is_closing`."""

    def __init__(self, screen: Screen, is_closing: Callable[[], bool]) -> None:
        self._screen = screen
        self._is_closing = is_closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type = b"multipart/x-mixed-replace; boundary=" + _BOUNDARY
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})
        leaving = asyncio.ensure_future(_left(receive))
        try:
            with self._screen.watch() as viewer:
                await self._show(viewer, send, leaving)
        finally:
            leaving.cancel()

    async def _show(self, viewer: Viewer, send: Send, leaving: asyncio.Future[None]) -> None:
        # The boundary comes right behind each picture: browsers show one when they see where it ends.
        await _send_part(send, b"--" + _BOUNDARY + b"\r\n")
        while not leaving.done() and not self._is_closing():
            picture = await viewer.next(_LOOK_EVERY_S)
            if picture is None:
                continue
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
            if not await _send_part(send, head + picture + b"\r\n--" + _BOUNDARY + b"\r\n"):
                return
        if not leaving.done():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_part(send: Send, part: bytes) -> bool:
    """Whether it was taken in time."""
    try:
        await asyncio.wait_for(send({"type": "http.response.body", "body": part, "more_body": True}), _PATIENCE_S)
    except (asyncio.TimeoutError, TimeoutError, OSError):
        return False
    return True


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
