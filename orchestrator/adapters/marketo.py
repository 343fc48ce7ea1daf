"""How is each call to Marketo made, and what came back?

One method is one HTTP exchange; what it means is `verdicts.judge`'s business, and whether to repeat it the
runner's. It knows httpx (so does `webhook` alone), with the guards httpx needs:

- a total deadline round every call (a dribbled answer passes any read timeout);
- `Accept-Encoding: identity`, and any Content-Encoding is refused (a small answer could unpack to gigabytes);
- redirects are never followed (a 307 would send the leads to another host);
- proxies and netrc of the environment are ignored;
- a fresh connection for every upload (a stale one would make a doubt);
- whether the body was completely sent is read off httpcore's trace, not guessed from an exception's class:
  httpcore hides a failed write behind the read that follows it.

The token travels in the Authorization header only; the secret in the body of the identity call only.
Paths and parameters: Adobe's swagger for bulk imports and the identity service.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import aiofiles
import anyio
import anyio.to_thread
import httpx

from orchestrator.core.model import BatchId, Format, Target
from orchestrator.core.verdicts import Answered, ApiError, Failed, Outcome, Saved, plain

CALL_DEADLINE_S = 60.0
FILE_DEADLINE_S = 600.0
UPLOAD_DEADLINE_S = 900.0
"""Ten minutes is what a known client needs for slow uploads; half as much again before we call it lost."""
JSON_BYTES_MAX = 1_000_000
DESCRIBE_BYTES_MAX = 20_000_000
FILE_BYTES_MAX = 64_000_000
"""A result file repeats at most one chunk and adds a reason to each row."""
TOKEN_LIFE_MAX_S = 86_400.0
"""Marketo's last an hour. A number without end is no life of a token."""
ERRORS_READ = 20
"""Marketo names one or two. Each text is searched for addresses, which takes the event loop some milliseconds."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0, pool=None)
_UPLOAD_TIMEOUT = httpx.Timeout(60.0, connect=10.0, read=UPLOAD_DEADLINE_S, pool=None)
T = TypeVar("T")
ResultFile = Literal["failures", "warnings"]
Transport = httpx.AsyncBaseTransport

_JSON_BEGINS = re.compile(rb'\s*(?:\{\s*(?:["}]|\Z)|\[\s*(?:[\[\]{"]|\Z))').match
"""JSON, and no file whose first column is named {id} or [id]: headers are echoed as they were sent."""

_BODY_BEGUN_EVENTS = ("http11.send_request_body.started", "http2.send_request_body.started")
_BODY_SENT_EVENTS = ("http11.send_request_body.complete", "http2.send_request_body.complete")


class FileContent(Protocol):
    """The bytes of one chunk: iterable again and again, and as long as it says."""

    @property
    def size_bytes(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Token:
    """`life_s` is what is left of it: every process with this client id shares one token."""

    value: str
    life_s: float


class Marketo:
    """One subscription's REST endpoints.

    base_url without /rest or /identity. `transport` is for tests; None means the network.
    """

    def __init__(
        self,
        base_url: str,
        client_id: str,
        client_secret: str,
        *,
        transport: Transport | None = None,
    ) -> None:
        self._client_id, self._client_secret = client_id, client_secret

        certificates = _certificates() if transport is None else True

        def client(kept: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=base_url,
                verify=certificates,
                transport=transport,
                trust_env=False,
                follow_redirects=False,
                timeout=_TIMEOUT,
                headers={"Accept-Encoding": "identity", "User-Agent": "marketo-orchestrator"},
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=kept),
            )

        self._client, self._uploading = client(kept=10), client(kept=0)
        self._uploads: list[anyio.CancelScope] = []
        self.sent_bytes = 0
        """Bytes of uploads handed to the network so far."""

    def abandon_uploads(self) -> None:
        """End every upload under way now; each then returns with the evidence of how far it had come."""
        for scope in list(self._uploads):
            scope.cancel()

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._uploading.aclose()

    async def token(self) -> Token | Failed:
        """The token this client id has now. Failed with status 401 when the credentials are wrong."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._client_secret,
        }

        async def read(reply: _Reply) -> Token | Failed:
            body = await reply.json_body(JSON_BYTES_MAX)
            if reply.failed is not None:
                return reply.failed
            match body:
                case {"access_token": str(value), "expires_in": int() | float() as life_s} if _fits_a_header(value):
                    return Token(value, float(max(0.0, min(life_s, TOKEN_LIFE_MAX_S))))
                case _:
                    return Failed("the identity service answered without a token that can be sent", reply.status)

        return await self._exchange("POST", "/identity/oauth/token", CALL_DEADLINE_S, read, data=form)

    async def create(self, token: str, target: Target, format: Format, content: FileContent) -> Outcome:
        """Upload one chunk. Its answer, or evidence of whether the body left completely."""
        path, query = _create_path(target)
        form = _Multipart(content, format, count=self._count_sent)
        return await self._exchange(
            "POST",
            path,
            UPLOAD_DEADLINE_S,
            lambda reply: reply.envelope(JSON_BYTES_MAX),
            token=token,
            params={"format": str(format), **query},
            content=form,
            headers={
                "Content-Type": f"multipart/form-data; boundary={form.boundary}",
                "Content-Length": str(form.size_bytes),
                "Connection": "close",
            },
            timeout=_UPLOAD_TIMEOUT,
        )

    async def status(self, token: str, target: Target, batch_id: BatchId) -> Outcome:
        """How one batch stands."""
        return await self.get(token, _batch_path(target, batch_id, "status"))

    async def result_file(
        self, token: str, target: Target, batch_id: BatchId, which: ResultFile, save_to: Path
    ) -> Outcome:
        """Download failures or warnings into a new file (mode 0600), completely or not at all.

        The address ends in .json and answers with delimited text; errors come as a JSON envelope from the same
        address, so the content decides.
        """
        partial = save_to.with_name(save_to.name + ".part")

        async def read(reply: _Reply) -> Outcome:
            if reply.status != 200:
                return await reply.envelope(JSON_BYTES_MAX)
            pieces = reply.pieces(FILE_BYTES_MAX)
            head = b""
            async for piece in pieces:
                head += piece
                if len(head) >= 64:
                    break
            if _JSON_BEGINS(head):
                async for piece in pieces:
                    head += piece[: JSON_BYTES_MAX - len(head)]
                return reply.failed or _envelope(_parse(head), reply.status, reply.body_sent)
            if "html" in reply.content_type:
                return Failed("an HTML page instead of the file", 200, reply.body_sent)
            size = len(head)
            async with aiofiles.open(partial, "wb", opener=_open_private) as file:
                await file.write(head)
                async for piece in pieces:
                    size += await file.write(piece)
            if reply.failed is not None:
                return reply.failed
            await anyio.to_thread.run_sync(_put, partial, save_to)
            return Saved(str(save_to), size)

        return await self._exchange("GET", _batch_path(target, batch_id, which), FILE_DEADLINE_S, read, token=token)

    async def usage(self, token: str) -> Outcome:
        """How many calls were made today, by whoever has the subscription."""
        return await self.get(token, "/rest/v1/stats/usage.json")

    async def get(
        self,
        token: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        bytes_max: int = JSON_BYTES_MAX,
    ) -> Outcome:
        """Any question that is answered with Marketo's envelope."""
        return await self._exchange(
            "GET", path, CALL_DEADLINE_S, lambda reply: reply.envelope(bytes_max), token=token, params=params
        )

    def _count_sent(self, size: int) -> None:
        self.sent_bytes += size

    async def _exchange(
        self,
        method: str,
        path: str,
        deadline_s: float,
        read: Callable[[_Reply], Awaitable[T]],
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> T | Failed:
        """One request and what `read` makes of its answer, within a total deadline."""
        reply = _Reply()
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        is_upload = "content" in arguments
        client = self._uploading if is_upload else self._client
        with anyio.move_on_after(deadline_s) as scope:
            if is_upload:
                self._uploads.append(scope)
            try:
                async with client.stream(
                    method, path, headers=sent, extensions={"trace": reply.trace}, **arguments
                ) as response:
                    reply.begin(response)
                    return await read(reply)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                return reply.lost(error)
            finally:
                if scope in self._uploads:
                    self._uploads.remove(scope)
        if anyio.current_time() < scope.deadline:  # `abandon_uploads`
            return reply.lost(None, why="it was ended before a complete answer came")
        return reply.lost(None, why=f"no complete answer within {deadline_s:.0f} s")


class _Reply:
    """An answer as far as it came."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.content_type = ""
        self.body_begun = self.body_sent = False
        self.failed: Failed | None = None
        self._response: httpx.Response | None = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's trace: the one evidence that the request's body was completely sent."""
        if event in _BODY_SENT_EVENTS:
            self.body_sent = True
        elif event in _BODY_BEGUN_EVENTS:
            self.body_begun = True

    def begin(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.content_type = response.headers.get("Content-Type", "").lower()

    def lost(self, error: Exception | None, why: str = "") -> Failed:
        """The exchange broke off: how far it had come. A status other than 200 that did arrive still counts."""
        status = None if self.status == 200 else self.status
        if error is not None:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = f"the server's certificate is not to be trusted: {cause.verify_message}"
                return Failed(why, None, self.body_sent, certificate=True)
        broke = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
        cut_off = broke and self.body_begun and not self.body_sent
        return Failed(plain(why), status, self.body_sent, cut_off=cut_off)

    async def pieces(self, bytes_max: int) -> AsyncIterator[bytes]:
        """The raw body in pieces. Sets `failed` when it must not be believed."""
        assert self._response is not None
        encoding = self._response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            self.failed = Failed(f"the answer is encoded as {encoding[:40]}", self.status, self.body_sent)
            return
        size = 0
        async for piece in self._response.aiter_raw(256 * 1024):
            size += len(piece)
            if size > bytes_max:
                self.failed = Failed(f"the answer is longer than {bytes_max:,} bytes", self.status, self.body_sent)
                return
            yield piece

    async def json_body(self, bytes_max: int) -> Any:
        body = b"".join([piece async for piece in self.pieces(bytes_max)])
        if self.failed is not None:
            return None
        if self.status != 200:
            assert self._response is not None
            location = self._response.headers.get("Location", "")
            why = f"HTTP {self.status}"
            if location:
                why += f", a redirect to {httpx.URL(location).host or 'another path'}"
            self.failed = Failed(
                why, self.status, self.body_sent, _retry_after_s(self._response.headers.get("Retry-After"))
            )
            return None
        return _parse(body)

    async def envelope(self, bytes_max: int) -> Outcome:
        body = await self.json_body(bytes_max)
        return self.failed if self.failed is not None else _envelope(body, self.status, self.body_sent)


class _Multipart:
    """The file part round a chunk: an async iterable of known length that can be sent again.

    A generator could not be repeated, and files handed to httpx are read on the event loop.
    """

    def __init__(self, content: FileContent, format: Format, count: Callable[[int], None]) -> None:
        self.boundary = f"orchestrator-{secrets.token_hex(16)}"
        self._content, self._count = content, count
        self._head = (
            f"--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="leads.{format}"\r\n'
            f"Content-Type: text/{format}\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{self.boundary}--\r\n".encode()
        self.size_bytes = len(self._head) + content.size_bytes + len(self._tail)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        async for piece in self._content:
            yield piece
            self._count(len(piece))
        yield self._tail


@cache
def _certificates() -> ssl.SSLContext:
    """Read once in a process: that takes 20 ms, in which nothing else is done."""
    return httpx.create_ssl_context(trust_env=False)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, each once: the chain of an error that was raised from itself is a ring."""
    met = set[int]()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _envelope(body: Any, status: int | None, body_sent: bool) -> Outcome:
    """Marketo's envelope out of parsed JSON, whatever its shape."""
    if not isinstance(body, dict) or not isinstance(body.get("success"), bool):
        return Failed("the answer is not Marketo's envelope", status, body_sent)
    result, errors = body.get("result"), body.get("errors")
    return Answered(
        success=body["success"],
        result=tuple(result) if isinstance(result, list) else (),
        errors=tuple(
            ApiError(code=str(error.get("code", "")), message=plain(str(error.get("message", ""))))
            for error in (errors[:ERRORS_READ] if isinstance(errors, list) else [])
            if isinstance(error, dict)
        ),
    )


def _create_path(target: Target) -> tuple[str, dict[str, str]]:
    if target.kind == "customobjects":
        return f"/bulk/v1/customobjects/{target.name}/import.json", {}
    if target.kind == "members":
        status = {"programMemberStatus": target.member_status or ""}
        return f"/bulk/v1/program/{target.name}/members/import.json", status
    query = {"lookupField": target.lookup_field}
    if target.list_id is not None:
        query["listId"] = str(target.list_id)
    if target.partition_name is not None:
        query["partitionName"] = target.partition_name
    return "/bulk/v1/leads.json", query


def _batch_path(target: Target, batch_id: BatchId, which: Literal["status"] | ResultFile) -> str:
    if target.kind == "leads":
        return f"/bulk/v1/leads/batch/{batch_id}{'' if which == 'status' else '/' + which}.json"
    if target.kind == "customobjects":
        return f"/bulk/v1/customobjects/{target.name}/import/{batch_id}/{which}.json"
    return f"/bulk/v1/program/members/import/{batch_id}/{which}.json"  # its id stands in the create path only


def _fits_a_header(token: str) -> bool:
    """Visible ASCII: of anything else httpx makes no header, and h11 sends none."""
    return token != "" and token.isascii() and token.isprintable() and " " not in token


def _retry_after_s(header: str | None) -> float | None:
    """Seconds to wait, when the header says so in seconds. Marketo's documents do not mention it."""
    if header is None or not header.strip().isdecimal():
        return None
    return min(float(header.strip()), 3600.0)


def _put(partial: Path, save_to: Path) -> None:
    """A whole file under its name, on the disk: content, then name, so that a power cut takes neither. Blocking."""
    for path in (partial, save_to.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if path is partial:
            partial.replace(save_to)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
