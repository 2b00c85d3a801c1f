"""`serve`: shows the report as a live page.

The server listens on the loopback address (from another machine, use `ssh -L`), or on the address of `--bind`. It
accepts a request only under three conditions. `Host` names this machine, so that another domain name cannot lead here.
The request does not come from another web page (`Origin`, `Sec-Fetch-Site`). It has the token of the printed URL, which
the browser then keeps as a cookie. The server has five resources for GET and accepts no data. No part of a request
becomes a path: a request names a run by a digest, and a video by its number in the run's listing.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from rlresearch.errors import ConfigError, format_value, one_line
from rlresearch.optional import import_optional
from rlresearch.review.commands import report
from rlresearch.review.runs.index import Index
from rlresearch.review.web import json_answers
from rlresearch.review.web.json_answers import Source

NAMES = ("127.0.0.1", "localhost", "[::1]")
_LONGEST_TARGET = 2_048
_AT_ONCE = 256  # connections; a browser makes a handful
PATIENCE_S = 10.0  # the time for a client to complete its request
_PIECE = 1 << 20  # bytes of a video that are sent at once
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",  # in addition to the page's own policy
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def serve(arguments: argparse.Namespace) -> int:
    """Runs the server until Ctrl-C."""
    import_optional("uvicorn", "serve")
    report.plotly_script()
    with Index(arguments.runs_dir, arguments.cache):
        pass  # a missing folder must be an error before the server listens
    address = _address(arguments.bind)
    with _listener(address, arguments.port) as listener:
        token, source = secrets.token_urlsafe(32), Source(arguments)
        names = NAMES if address.is_loopback else (*arguments.name, socket.gethostname())
        threading.Thread(target=_prepare, args=(source,), daemon=True).start()
        _announce(address, listener.getsockname()[1], token, names)
        app = application(source, arguments.title, token, names)
        server(app).run(sockets=[listener])
    return 0


def server(app: Any) -> Any:
    """Returns a server with limits for connections, waiting times and headers; it does not reveal its software."""
    uvicorn = import_optional("uvicorn", "serve")
    quiet = {"log_level": "error", "server_header": False, "date_header": False, "access_log": False}
    limits = {"limit_concurrency": _AT_ONCE, "timeout_keep_alive": 5, "h11_max_incomplete_event_size": 16_384}
    return uvicorn.Server(uvicorn.Config(app, **quiet, **limits, ws="none", http=_impatient()))


def application(source: Source, title: str, token: str, names: Sequence[str] = NAMES) -> Any:
    """Returns an ASGI application: the page and its data, behind `AuthMiddleware`."""
    applications, routing = (
        import_optional("starlette.applications", "serve"),
        import_optional("starlette.routing", "serve"),
    )
    responses = import_optional("starlette.responses", "serve")
    whole_page = report.render(None, title, "'self'")

    def answer(body: bytes | None, nothing: int = 404) -> Any:
        if body is None:
            return responses.Response(status_code=nothing)
        return responses.Response(body, media_type="application/json")

    def answered(ask: Any) -> Any:
        def endpoint(request: Any) -> Any:
            given = request.query_params
            try:
                return ask(json_answers.page_query(*(given.get(name, "") for name in ("by", "filter", "all"))), given)
            except ConfigError as error:
                return responses.JSONResponse({"problem": one_line(str(error))}, 422)

        return endpoint

    routes = {
        "/": lambda _: responses.HTMLResponse(whole_page),
        "/data.json": answered(lambda asked, given: answer(source.overview(asked, given.get("have", "")), 204)),
        "/metric.json": answered(lambda asked, given: answer(source.metric_curve(asked, given.get("name", "")))),
        "/run.json": lambda request: answer(source.run_detail(request.query_params.get("run", ""))),
        "/video": lambda request: _video(source, request),
    }
    app = applications.Starlette(routes=[routing.Route(path, get, methods=["GET"]) for path, get in routes.items()])
    app.router.redirect_slashes = False  # a redirect would repeat the URL with its token
    return AuthMiddleware(app, token, names)


def _video(source: Source, request: Any) -> Any:
    """Returns a video, or the range of it that a player requests; players need ranges to jump in a video."""
    responses = import_optional("starlette.responses", "serve")
    found = source.video(request.query_params.get("run", ""), request.query_params.get("at", ""))
    if found is None:
        return responses.Response(status_code=404)
    file, size = os.fdopen(found[0], "rb"), found[1]
    wanted = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", request.headers.get("range", ""), re.ASCII)
    begin = int(wanted[1]) if wanted else 0
    end = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
    headers = {"accept-ranges": "bytes", "content-length": str(max(0, end - begin))}
    if wanted and begin >= end:
        file.close()
        return responses.Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    if wanted:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    if request.method == "HEAD":
        file.close()
        return responses.Response(status_code=206 if wanted else 200, headers=headers, media_type="video/mp4")
    status = 206 if wanted else 200
    return responses.StreamingResponse(_pieces(file, begin, end), status, headers, media_type="video/mp4")


def _pieces(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(begin)
        while begin < end and (piece := file.read(min(_PIECE, end - begin))):
            begin += len(piece)
            yield piece


class AuthMiddleware:
    """Passes on requests with the right token and host name that do not come from another web page. All other requests
    get a short error. names: the host names of this machine.
    """

    def __init__(self, app: Any, token: str, names: Sequence[str] = NAMES) -> None:
        self._app, self._token, self._names = app, token, {name.lower() for name in names}
        self.cookie_name = (
            "rlresearch_" + hashlib.sha256(token.encode()).hexdigest()[:8]
        )  # unique, because one browser may use several servers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        responses = import_optional("starlette.responses", "serve")
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = import_optional("starlette.requests", "serve").Request(scope)
        refused = self._refused(request)
        if refused:
            answer = responses.PlainTextResponse(refused[1], refused[0])
        elif request.query_params.get("token") and scope["path"] == "/":
            answer = responses.RedirectResponse("/", 303)  # so the token is not in the browser's history
            answer.set_cookie(self.cookie_name, self._token, httponly=True, samesite="strict", path="/")
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
        if len(hosts) != 1 or _name(hosts[0]) not in self._names | _reached(request.scope):
            return 421, "not this host"
        foreign = headers.get("origin", f"http://{hosts[0]}") != f"http://{hosts[0]}"
        if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "not from another page"
        given = request.query_params.get("token") or request.cookies.get(self.cookie_name) or ""
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return 403, "the address that `serve` printed has a token; this one does not"
        return None


def _reached(scope: Any) -> set[str]:
    """Returns the IP address that the client connected to. As a `Host` it is safe: it is not another domain name."""
    address = (scope.get("server") or ("",))[0]
    return {_in_an_address(address)} if address else set()


def _name(host: str) -> str:
    """Returns the name in `name:port`; "" where the port is not a number."""
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


def _address(text: str) -> Any:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"--bind={format_value(text)}: must be an address of this machine, as 127.0.0.1 or ::1."
        ) from None


def _listener(address: Any, port: int) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(address), port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise ConfigError(f"--bind={address}: {why}; it is none of this machine.") from error
        raise ConfigError(f"--port={port}: {why}; choose another, or 0 for any.") from error


def _announce(address: Any, port: int, token: str, names: Sequence[str]) -> None:
    host = names[0] if address.is_unspecified else _in_an_address(str(address))
    print(f"http://{host}:{port}/?token={token}", flush=True)
    if not address.is_loopback:
        print("not encrypted: whoever can see this network's traffic can read the runs and the token", flush=True)
    print("Ctrl-C ends it", flush=True)


def _in_an_address(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _prepare(source: Source) -> None:
    """Computes the first answers; an error is shown later, when the page asks for them."""
    with contextlib.suppress(ConfigError):
        source.prepare()


def _impatient() -> Any:
    """Returns uvicorn's protocol class, changed so that it closes connections without a complete request."""
    protocol: Any = import_optional("uvicorn.protocols.http.h11_impl", "serve")

    class Impatient(protocol.H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(PATIENCE_S, self._look, None)

        def _look(self, earlier: Any) -> None:
            if self.transport.is_closing():
                return
            answered = self.cycle is None or self.cycle.response_complete
            if answered and self.cycle is earlier:  # no new request since the last check
                self.transport.close()
            else:
                self.loop.call_later(PATIENCE_S, self._look, self.cycle)

    return Impatient
