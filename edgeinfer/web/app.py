"""What is asked for by HTTP, and what is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.web.access import Access, is_same_origin
from edgeinfer.web.live import LivePicture
from edgeinfer.web.state import Watch

if TYPE_CHECKING:
    from edgeinfer.web.metrics import Exposition

log = logging.getLogger(__name__)

_BODY_MAX = 4096
_WRONG_TOKEN_S = 0.5
_MONTH_S = 30 * 24 * 3600
_MAY_ACT = "edgeinfer.may_act"

_PAGE = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "chart.js": "text/javascript",
    "login.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "login.html": "text/html",
    "index.html": "text/html",
}
# What shows nothing of the node: whoever has no token yet needs it to give one.
_FOR_ALL = frozenset({"/login", "/login.js", "/page.css", "/icon.svg"})

_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """score_min: 0..1."""

    score_min: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


def make_app(watch: Watch, access: Access, *, port: int, is_closing: Callable[[], bool]) -> ASGIApp:
    """All routes, behind a guard that lets in who may come."""
    answers = _Answers(watch, access, f"edgeinfer-{port}", is_closing)
    routes = [
        Route("/", answers.page),
        Route("/login", answers.login, methods=["GET", "POST"]),
        Route("/logout", answers.logout, methods=["POST"]),
        Route("/healthz", answers.healthz),
        Route("/metrics", answers.metrics),
        Route("/api/state", answers.state),
        Route("/api/history", answers.history),
        Route("/api/events", answers.events),
        Route("/api/log", answers.log_lines),
        Route("/api/pipelines/{name}/{action}", answers.act, methods=["POST"]),
        Route("/events/{number:int}.jpg", answers.event_picture),
        Route("/live/{name}.mjpg", answers.live),
        *(Route(f"/{name}", answers.file) for name in _PAGE if not name.endswith(".html")),
    ]
    return _Guard(Starlette(routes=routes), access, answers.cookie)


class _Guard:
    """Adds the headers that bind a browser, and turns away who may not look."""

    def __init__(self, app: ASGIApp, access: Access, cookie: str) -> None:
        self._app = app
        self._access = access
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        request = Request(scope)
        has_token = self._access.has_token(request.headers.get("authorization"), request.cookies.get(self._cookie))
        scope[_MAY_ACT] = has_token
        refused = None if has_token else self._refusal(request)
        await (refused or self._app)(scope, receive, send_bound)

    def _refusal(self, request: Request) -> Response | None:
        if self._access.is_loopback:
            if self._access.is_ours(request.headers.get("host", "")):
                return None
            return _error(421, "this is not a name of this machine; add it to hosts in [web]")
        if request.url.path in _FOR_ALL:
            return None
        if request.url.path == "/":
            return RedirectResponse("/login", 303)
        return _error(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})


class _Answers:
    def __init__(self, watch: Watch, access: Access, cookie: str, is_closing: Callable[[], bool]) -> None:
        self.cookie = cookie
        self._watch = watch
        self._access = access
        self._is_closing = is_closing
        folder = files("edgeinfer.web") / "page"
        self._files = {name: (folder / name).read_bytes() for name in _PAGE}
        self._exposition = _exposition(watch)

    async def page(self, request: Request) -> Response:
        return self._file("index.html")

    async def file(self, request: Request) -> Response:
        return self._file(request.url.path.removeprefix("/"))

    async def healthz(self, request: Request) -> Response:
        """200 while it works, degraded or not; 503 where it hangs, is not ready yet, or no pipeline works."""
        health = self._watch.health()
        return _json(health, 200 if health.alive and health.ready else 503)

    async def metrics(self, request: Request) -> Response:
        if self._exposition is None:
            return _error(501, "/metrics needs prometheus-client: pip install 'edgeinfer[metrics]'")
        text, content_type = self._exposition()
        return Response(text, media_type=None, headers={"content-type": content_type})

    async def state(self, request: Request) -> Response:
        return _json(self._watch.state(may_act=_may_act(request), may_sign_in=self._access.token is not None))

    async def history(self, request: Request) -> Response:
        return _json(self._watch.history(_number(request, "after")))

    async def events(self, request: Request) -> Response:
        return _json(self._watch.events.after(_number(request, "after")))

    async def log_lines(self, request: Request) -> Response:
        return _json(self._watch.log.after(_number(request, "after")))

    async def event_picture(self, request: Request) -> Response:
        picture = self._watch.events.picture(request.path_params["number"])
        return (
            _error(404, "no such picture, or no more")
            if picture is None
            else Response(picture, 200, None, "image/jpeg")
        )

    async def live(self, request: Request) -> Response | ASGIApp:
        observer = self._watch.observer(request.path_params["name"])
        if observer is None:
            return _error(404, "no such pipeline")
        return LivePicture(observer.screen, self._is_closing)

    async def act(self, request: Request) -> Response:
        if not _may_act(request):
            return _error(403, "to act needs the token")
        if not is_same_origin(request.headers):
            return _error(403, "this comes from another page")
        try:
            act = self._action(request.path_params["name"], request.path_params["action"], await _body(request))
            # It may wait for a frame in work.
            await asyncio.to_thread(act)
            log.info("by the page: %s of pipeline %s", request.path_params["action"], request.path_params["name"])
        except EdgeInferError as refused:
            return _error(400, str(refused))
        return Response(status_code=204)

    async def login(self, request: Request) -> Response:
        if request.method == "GET":
            return self._file("login.html")
        brought = await _body(request)
        if not self._access.is_token(brought.decode("ascii", "replace").strip()):
            await asyncio.sleep(_WRONG_TOKEN_S)
            return _error(401, "wrong token")
        answer = Response(status_code=204)
        answer.set_cookie(
            self.cookie, self._access.cookie, max_age=_MONTH_S, httponly=True, samesite="strict", path="/"
        )
        return answer

    async def logout(self, request: Request) -> Response:
        answer = Response(status_code=204)
        answer.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")
        return answer

    def _file(self, name: str) -> Response:
        return Response(self._files[name], media_type=_PAGE[name])

    def _action(self, name: str, action: str, body: bytes) -> Callable[[], None]:
        node = self._watch.node
        if action == "pause":
            return lambda: node.pause(name)
        if action == "resume":
            return lambda: node.resume(name)
        if action != "threshold":
            raise UsageError("there are pause, resume and threshold")
        try:
            score_min = msgspec.json.decode(body, type=Threshold).score_min
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refused:
            raise UsageError(f"threshold: {refused}") from refused
        return lambda: node.set_score_min(name, score_min)


def _exposition(watch: Watch) -> Callable[[], tuple[bytes, str]] | None:
    """None where the extra is not installed. Loaded when first asked for: it takes 2 MB of memory."""
    if find_spec("prometheus_client") is None:
        return None

    @cache
    def exposition() -> Exposition:
        from edgeinfer.web.metrics import Exposition

        return Exposition(watch)

    return lambda: (exposition().text(), exposition().content_type)


def _may_act(request: Request) -> bool:
    return bool(request.scope.get(_MAY_ACT))


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


async def _body(request: Request) -> bytes:
    """Raises UsageError where it is larger than anything we ask for."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_MAX:
            raise UsageError(f"at most {_BODY_MAX} bytes are taken")
    return body


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, None, "application/json")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode({"error": message}), status, dict(headers or {}), "application/json")
