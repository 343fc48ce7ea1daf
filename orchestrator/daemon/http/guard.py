"""What must be so before a request is looked at, and what is so of every answer?

Before anything else runs: the method, exactly one Host header with a name of ours (or a page of somebody else could
reach us by a name that it lets point here), no Origin but ours, no request that another site's page made, a token or a
session, and a body of a kind and a size that is expected. A change needs the token in a header, which no page of
another site can send; forms of our own pages bring a key instead (`pages`).

Every answer says what a browser may do with it: nothing from elsewhere, no script but our file, no frame, no store.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

import anyio
import structlog
from starlette.requests import ClientDisconnect

from orchestrator.daemon.http.listen import HEADER_BYTES_MAX, Door
from orchestrator.daemon.http.tokens import Tokens

log = structlog.get_logger()

BODY_BYTES_MAX = 65_536
BODY_PIECE_S = 30.0
"""A body that pauses for longer is given up."""
READ_AWAY_BYTES, READ_AWAY_S = 4_000_000, 2.0
METHODS = frozenset({"GET", "HEAD", "POST"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login", "/style.css", "/script.js", "/icon.svg"})
"""They say nothing about any load."""
API = "/api/"
UPLOADS = "/api/v1/uploads"
COOKIE = "orchestrator_session"
FORM, JSON, BINARY = "application/x-www-form-urlencoded", "application/json", "application/octet-stream"
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class RefusedError(Exception):
    """A request that is not answered: status, and why, for whoever sent it; of 303, where to go instead."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Guard:
    """The ASGI application round all others. `answered` hears of each status."""

    def __init__(
        self,
        app: Any,
        door: Door,
        tokens: Tokens,
        now: Callable[[], float],
        *,
        upload_bytes: Callable[[], int],
        answered: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._app, self._door, self._tokens, self._now = app, door, tokens, now
        self._upload_bytes, self._answered = upload_bytes, answered

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._answered(message["status"])
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in HEADERS if name not in given]
                if b"content-security-policy" not in given:
                    more.append((b"content-security-policy", POLICY))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            limit = self._check(scope)
            await self._app(scope, _limited(receive, limit), sending)
        except RefusedError as error:
            if not begun:
                if error.status == 413 and not any(name == b"expect" for name, _ in scope["headers"]):
                    await _read_away(receive)
                await _refuse(sending, error.status, error.why)
        except ClientDisconnect:
            pass  # nobody is left to be answered
        except Exception:
            log.exception("request.broken", path=str(scope["path"])[:200])
            if not begun:
                await _refuse(sending, 500, "a fault of ours; the daemon's log has it")

    def _check(self, scope: Any) -> int:
        """Returns how long its body may be. Raises RefusedError. The scope learns who asks: `scope["state"]`."""
        headers = _Headers(scope["headers"])
        method, path = scope["method"], scope["path"]
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES_MAX:
            raise RefusedError(431, f"more than {HEADER_BYTES_MAX:,} bytes of headers")
        if method not in METHODS:
            raise RefusedError(405, "only GET, HEAD and POST")
        if (headers.one("host") or "").lower() not in self._door.hosts:
            raise RefusedError(421, "the Host header is none of this daemon's names (daemon.hosts)")
        origin, site = headers.one("origin"), headers.one("sec-fetch-site")
        if origin is not None and origin not in self._door.origins:
            raise RefusedError(403, "the request comes from another origin")
        if site not in (None, "same-origin", "none"):
            visits = method == "GET" and headers.one("sec-fetch-mode") == "navigate" and not path.startswith(API)
            if not visits:
                raise RefusedError(403, "the request comes from another site")
        who = self._who(headers)
        scope.setdefault("state", {})
        scope["state"].update(who=who, session=_session(headers))
        if who is None and path not in OPEN_PATHS:
            if method == "GET" and "text/html" in (headers.one("accept") or "") and not path.startswith(API):
                raise RefusedError(303, "/login")
            raise RefusedError(401, "a token is needed: see daemon.token_file, and the Authorization header")
        return self._body(scope, headers, who) if method == "POST" else 0

    def _who(self, headers: _Headers) -> str | None:
        """How the one who asks is known: by the socket, a token, a session, or not at all."""
        if self._door.trusted:
            return "socket"
        given = headers.one("authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            if scheme.lower() == "bearer" and self._tokens.is_token(token.strip()):
                return "token"
            if not self._tokens.may_try(self._now()):
                raise RefusedError(429, "too many wrong tokens; wait a minute")
            self._tokens.failed(self._now())
            raise RefusedError(401, "the token is not the one in daemon.token_file")
        session = _session(headers)
        return "session" if session and self._tokens.is_session(session, self._now()) else None

    def _body(self, scope: Any, headers: _Headers, who: str | None) -> int:
        path = scope["path"]
        kind = (headers.one("content-type") or "").partition(";")[0].strip().lower()
        is_api = path.startswith(API)
        wanted = BINARY if path == UPLOADS else JSON if is_api else FORM
        if kind != wanted:
            raise RefusedError(415, f"the Content-Type must be {wanted}")
        if is_api and who not in ("token", "socket"):
            raise RefusedError(403, "a change by the API needs the token in the Authorization header")
        if not is_api and headers.one("origin") is None and not self._door.trusted:
            raise RefusedError(403, "a form comes with an Origin")
        limit = self._upload_bytes() if path == UPLOADS else BODY_BYTES_MAX
        length = headers.one("content-length")
        if length is not None and (not length.isdigit() or int(length) > limit):
            raise RefusedError(413, f"more than {limit:,} bytes")
        return limit


class _Headers:
    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def one(self, name: str) -> str | None:
        """The value of a header that may come once. Raises RefusedError when it comes twice."""
        found = [value.decode("latin-1") for key, value in self._raw if key.lower() == name.encode()]
        if len(found) > 1:
            raise RefusedError(400, f"more than one {name} header")
        return found[0] if found else None


def _session(headers: _Headers) -> str:
    try:
        cookie = SimpleCookie(headers.one("cookie") or "").get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie is not None else ""


def _limited(receive: Any, limit: int) -> Any:
    """The body, so long at most, and without long pauses."""
    read, over = 0, False

    async def receiving() -> Any:
        nonlocal read, over
        if over:
            return await receive()
        with anyio.move_on_after(BODY_PIECE_S) as scope:
            message = await receive()
        if scope.cancelled_caught:
            raise RefusedError(408, f"nothing came for {BODY_PIECE_S:.0f} s")
        read += len(message.get("body", b""))
        over = not message.get("more_body", False)
        if read > limit:
            raise RefusedError(413, f"more than {limit:,} bytes" if limit else "no body is expected")
        return message

    return receiving


async def _read_away(receive: Any) -> None:
    """Some more of a body that is too long: closed upon at once, its sender would see a reset and not our answer."""
    read = 0
    with anyio.move_on_after(READ_AWAY_S):
        while read < READ_AWAY_BYTES:
            message = await receive()
            read += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


async def _refuse(send: Any, status: int, why: str) -> None:
    body = json.dumps({"error": {"code": status, "message": why}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if status in (408, 413) else []
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    headers += [(b"location", why.encode())] if status == 303 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
