"""`serve`: the report as a live page, for this machine alone.

It listens on the loopback address and nowhere else (from another machine: `ssh -L`). Whoever asks must name this
machine in `Host`, so that no foreign name leads here, must not come from another page (`Origin`, `Sec-Fetch-Site`), and
must have the token in the address that is printed at the start; the browser then keeps it as a cookie. There are two
things to GET, the page and its data, and nothing to send; no part of a request becomes a path or stands in an answer.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import secrets
import socket
import threading
from typing import Any

from rlresearch.errors import ConfigError
from rlresearch.review import query, report
from rlresearch.review.extras import need
from rlresearch.review.index import Index

ADDRESS = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost", "[::1]")
_LONGEST_TARGET = 2_048
_AT_ONCE = 32  # requests; a browser makes a handful
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",  # beside the page's own, which no header can widen
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def serve(arguments: argparse.Namespace) -> int:
    """Answers until Ctrl-C."""
    need("uvicorn", "serve")
    report.plotly_script()
    with Index(arguments.runs_dir, arguments.cache):
        pass  # a folder that is not there is said before anything listens
    try:
        listener = socket.create_server((ADDRESS, arguments.port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--port={arguments.port}: {why}; choose another, or 0 for any.") from error
    with listener:
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        print(f"http://{ADDRESS}:{port}/?token={token}\nCtrl-C ends it", flush=True)
        server(application(arguments, token)).run(sockets=[listener])
    return 0


def server(app: Any) -> Any:
    """The server, which says nothing of itself and takes no more at once than a browser sends."""
    uvicorn = need("uvicorn", "serve")
    quiet = {"log_level": "error", "server_header": False, "date_header": False, "access_log": False}
    limits = {"limit_concurrency": _AT_ONCE, "timeout_keep_alive": 5, "h11_max_incomplete_event_size": 16_384}
    return uvicorn.Server(uvicorn.Config(app, **quiet, **limits, ws="none", http="h11"))


def application(arguments: argparse.Namespace, token: str) -> Any:
    """The page and its data behind the guard, as an ASGI application."""
    applications, routing = need("starlette.applications", "serve"), need("starlette.routing", "serve")
    responses = need("starlette.responses", "serve")
    source = Source(arguments)

    def page(_: Any) -> Any:
        data = source.data()
        return responses.HTMLResponse(report.render(data, arguments.title, "'self'"))

    def data(request: Any) -> Any:
        if request.query_params.get("have") == source.mark():
            return responses.Response(status_code=204)
        return responses.Response(report.tables.to_json(source.data()), media_type="application/json")

    routes = [routing.Route("/", page, methods=["GET"]), routing.Route("/data.json", data, methods=["GET"])]
    app = applications.Starlette(routes=routes)
    app.router.redirect_slashes = False  # a redirection would repeat the address, token and all
    return Guard(app, token)


class Source:
    """The data of the page, made anew when a run has changed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._known: tuple[str, dict[str, Any]] | None = None

    def mark(self) -> str:
        """Changes whenever a run does."""
        with Index(self._arguments.runs_dir, self._arguments.cache) as index:
            index.runs()
            return _digest(index)

    def data(self) -> dict[str, Any]:
        """As `report.contents` makes them, and `mark`."""
        wanted = self._arguments
        with self._lock, Index(wanted.runs_dir, wanted.cache) as index:
            runs = query.choose(index, wanted.runs, wanted.since, wanted.status).runs
            mark = _digest(index)
            if self._known is None or self._known[0] != mark:
                self._known = mark, report.contents(index, runs, wanted) | {"mark": mark}
            return self._known[1]


class Guard:
    """Lets through what is asked by this machine's own browser with the token; answers everything else in a word."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._token = app, token
        self._cookie = "rlresearch_" + hashlib.sha256(token.encode()).hexdigest()[:8]  # several servers, one browser

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        responses = need("starlette.responses", "serve")
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = need("starlette.requests", "serve").Request(scope)
        refused = self._refused(request)
        if refused:
            answer = responses.PlainTextResponse(refused[1], refused[0])
        elif request.query_params.get("token") and scope["path"] == "/":
            answer = responses.RedirectResponse("/", 303)  # the token leaves the address, and with it the history
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        else:
            answer = self._app
        await answer(scope, receive, _with_headers(send))

    def _refused(self, request: Any) -> tuple[int, str] | None:
        headers = request.headers
        if request.method not in ("GET", "HEAD"):
            return 405, "method not allowed"
        target = request.scope.get("raw_path", b"") + request.scope["query_string"]
        if len(target) > _LONGEST_TARGET or headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return 400, "bad request"
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in NAMES:
            return 421, "not this host"
        foreign = headers.get("origin", f"http://{hosts[0]}") != f"http://{hosts[0]}"
        if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "not from another page"
        given = request.query_params.get("token") or request.cookies.get(self._cookie) or ""
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return 403, "the address that `serve` printed has a token; this one does not"
        return None


def _name(host: str) -> str:
    """The name in `name:port`; nothing where the port is none."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return host.lower()
    return name.lower() if port.isascii() and port.isdigit() else ""


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = message | {"headers": [*message["headers"], *extra]}
        await send(message)

    return sending


def _digest(index: Index) -> str:
    return hashlib.sha256(repr(sorted(index.stamps.items())).encode()).hexdigest()[:24]
