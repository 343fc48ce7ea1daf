"""The Marketo adapter over real sockets: what left, what came back, and what is never done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import httpx
import pytest

from orchestrator.adapters import marketo as adapter
from orchestrator.adapters.marketo import ERRORS_READ, TOKEN_LIFE_MAX_S, Marketo, Token
from orchestrator.core.model import BatchId, Format, Target
from orchestrator.core.verdicts import Answered, ApiError, Failed, Outcome, Saved, Verdict, judge, plain

T = TypeVar("T")
BATCH = BatchId(7)


class Bytes:
    """Chunk content for tests, in pieces of a kilobyte."""

    def __init__(self, content: bytes) -> None:
        self._content, self.size_bytes = content, len(content)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), 1024):
            yield self._content[start : start + 1024]


class Peer:
    """A server of raw bytes: reads one request (or a part of it) and does what the test says."""

    def __init__(self, answer: bytes, *, read: int | None = None, before_close_s: float = 0.0) -> None:
        self._answer, self._read, self._before_close_s = answer, read, before_close_s
        self.requests: list[bytes] = []
        self.over = asyncio.Event()
        """The test is: nobody is kept waiting any more."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = b""
            length = [
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            if self._read is not None:
                body = await reader.read(self._read)
            elif length:
                body = await reader.readexactly(length[0])
            self.requests.append(head + body)
            writer.write(self._answer)
            await writer.drain()
            if self._before_close_s:
                await self.pause(self._before_close_s)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)


@asynccontextmanager
async def talking_to(peer: Peer) -> AsyncIterator[Marketo]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=2**24)
    port = server.sockets[0].getsockname()[1]
    client = Marketo(f"http://127.0.0.1:{port}", "client-id", "the-secret")
    try:
        yield client
    finally:
        await client.aclose()
        server.close()
        peer.over.set()
        await asyncio.sleep(0.01)  # its ends of the connections come to theirs
        await server.wait_closed()


def ask(peer: Peer, question: Callable[[Marketo], Awaitable[T]]) -> T:
    async def main() -> T:
        async with talking_to(peer) as client:
            return await question(client)

    return anyio.run(main)


def http(body: bytes, status: str = "200 OK", headers: str = "Content-Type: application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def upload(client: Marketo, size: int = 5_000) -> Awaitable[Outcome]:
    target = Target(lookup_field="email", list_id=12, partition_name="Europe & more")
    return client.create("tok", target, Format.CSV, Bytes(b"x" * size))


ACCEPTED = b'{"requestId":"a#1","success":true,"result":[{"batchId":7,"status":"Queued"}]}'


def test_an_upload_is_a_named_file_part_with_its_length_and_a_token_in_the_header_only() -> None:
    """Marketo takes the part `file`, counts the whole body, and no longer takes tokens in forms or addresses."""
    peer = Peer(http(ACCEPTED))
    outcome = ask(peer, upload)
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert isinstance(outcome, Answered)
    assert outcome.success
    target = b"POST /bulk/v1/leads.json?format=csv&lookupField=email&listId=12&partitionName=Europe"
    assert head.startswith(target)
    assert b"Authorization: Bearer tok" in head
    assert b"tok" not in head.split(b"\r\n")[0] + body
    assert b"Transfer-Encoding" not in head
    assert b'name="file"; filename="leads.csv"\r\n' in body
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"\r\n\r\n" + b"x" * 5_000 + b"\r\n--" in body


def test_an_upload_never_goes_over_a_connection_that_was_used_before() -> None:
    """A server closes idle connections when it likes: an upload that meets that would be a doubt."""
    seen: list[list[bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods: list[bytes] = []
        seen.append(methods)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                methods.append(head.split(b" ")[0])
                writer.write(http(ACCEPTED))
                await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = Marketo(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "client-id", "the-secret")
        for _ in range(2):
            await client.status("tok", Target(), BATCH)
            await upload(client)
        await client.status("tok", Target(), BATCH)
        await client.aclose()
        server.close()
        await anyio.sleep(0.05)  # the server's ends of the connections come to theirs

    anyio.run(main)
    assert [connection for connection in seen if b"POST" in connection] == [[b"POST"], [b"POST"]]


def test_an_answer_lost_after_the_body_is_told_apart_from_one_before_it() -> None:
    """Only a body that left completely can have been imported; an exception's class does not tell."""
    after = ask(Peer(b""), upload)
    during = ask(Peer(b"", read=1), lambda client: upload(client, 30_000_000))
    assert isinstance(after, Failed)
    assert after.body_sent
    assert not after.cut_off
    assert isinstance(during, Failed)
    assert not during.body_sent


def test_a_refused_connection_is_known_not_to_have_sent_anything() -> None:
    """Nothing was sent, so the chunk may be offered again without a doubt."""

    async def main() -> Outcome:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        client = Marketo(f"http://127.0.0.1:{port}", "id", "secret")
        try:
            return await upload(client)
        finally:
            await client.aclose()

    outcome = anyio.run(main)
    assert isinstance(outcome, Failed)
    assert not outcome.body_sent
    assert not outcome.cut_off


def test_an_early_413_is_read_although_the_body_was_not_taken() -> None:
    """The size limit is answered before the body is read: the chunk is halved, not doubted."""
    outcome = ask(Peer(http(b"<html>", "413 Too Large"), read=1, before_close_s=0.2), upload)
    assert isinstance(outcome, Failed)
    assert outcome.http_status == 413


def test_an_early_413_that_is_lost_to_the_reset_is_known_as_cut_in_mid_body() -> None:
    """Servers close while we still send: the reset destroys their answer. Never a doubt, and in the end too large."""

    class Resetting(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            at_once = struct.pack("ii", 1, 0)  # a reset instead of an orderly end
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

    outcome = ask(Resetting(b""), lambda client: upload(client, 30_000_000))
    assert isinstance(outcome, Failed)
    assert (outcome.http_status, outcome.body_sent, outcome.cut_off) == (None, False, True)
    assert judge(outcome, "create").then is Verdict.HALVE


def test_the_secret_travels_in_the_body_of_the_identity_call_only() -> None:
    """Addresses end up in logs of proxies."""
    peer = Peer(http(b'{"access_token":"t:int","token_type":"bearer","expires_in":3599,"scope":"a@b.c"}'))
    assert ask(peer, lambda client: client.token()) == Token("t:int", 3599.0)
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert b"the-secret" not in head
    assert b"client_secret=the-secret" in body


@pytest.mark.parametrize(
    "body",
    [
        '{"access_token":"t\u00f6k","expires_in":3599}'.encode(),
        b'{"access_token":"a\\ud800b","expires_in":3599}',
        b'{"access_token":"a\\nb","expires_in":3599}',
        b'{"access_token":"","expires_in":3599}',
        b'{"access_token":"tok","expires_in":"3599"}',
    ],
)
def test_a_token_that_no_header_can_carry_is_no_token(body: bytes) -> None:
    """httpx breaks on it with an error that is none of its own: a fault of theirs would look like one of ours."""
    outcome = ask(Peer(http(body)), lambda client: client.token())
    assert isinstance(outcome, Failed)
    assert judge(outcome, "token").verdict is Verdict.ASK_AGAIN


@pytest.mark.parametrize(
    ("said", "life_s"),
    [("1" + "0" * 400, TOKEN_LIFE_MAX_S), ("1e999", TOKEN_LIFE_MAX_S), ("NaN", 0.0), ("-5", 0.0), ("0", 0.0)],
)
def test_the_life_of_a_token_has_an_end_whatever_is_said(said: str, life_s: float) -> None:
    """A number that no float can hold must not end a load."""
    body = f'{{"access_token":"tok","expires_in":{said}}}'.encode()
    assert ask(Peer(http(body)), lambda client: client.token()) == Token("tok", life_s)


def test_of_an_answer_with_errors_without_number_the_first_are_read() -> None:
    """Each of them is searched for addresses while nothing else is done: 500 long ones would take seconds."""
    body = json.dumps({"success": False, "errors": [{"code": "608", "message": "a" * 1_500}] * 500}).encode()
    outcome = ask(Peer(http(body)), lambda client: client.status("tok", Target(), BATCH))
    assert isinstance(outcome, Answered)
    assert len(outcome.errors) == ERRORS_READ


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_never_followed(status: str) -> None:
    """A 307 would send the leads to whatever host it names."""
    peer = Peer(http(b"", status, "Location: http://evil.example/steal?x=1"))
    outcome = ask(peer, upload)
    assert isinstance(outcome, Failed)
    assert outcome.http_status == int(status[:3])
    assert "evil.example" in outcome.why
    assert len(peer.requests) == 1


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lead file and the secret would go to whoever set a variable."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    peer = Peer(http(ACCEPTED))
    outcome = ask(peer, upload)
    assert isinstance(outcome, Answered)
    assert len(peer.requests) == 1


def test_a_netrc_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its password would go to Marketo in the place of our token, or beside our secret."""
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("machine 127.0.0.1 login somebody password netrc-password\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    peer = Peer(http(ACCEPTED))
    ask(peer, upload)
    ask(peer, lambda client: client.token())
    uploading, identity = (request.partition(b"\r\n\r\n")[0] for request in peer.requests)
    assert b"Authorization: Bearer tok" in uploading
    assert b"Basic" not in uploading
    assert b"authorization" not in identity.lower()


def test_a_name_that_is_nowhere_is_known_not_to_have_got_anything() -> None:
    """A wrong address, or a resolver that is down: nothing was sent, so it may be asked again."""

    async def main() -> Outcome:
        client = Marketo("https://nowhere.invalid", "client-id", "the-secret")
        try:
            return await upload(client)
        finally:
            await client.aclose()

    outcome = anyio.run(main)
    assert isinstance(outcome, Failed)
    assert (outcome.http_status, outcome.body_sent, outcome.certificate) == (None, False, False)
    assert judge(outcome, "create").verdict is Verdict.ASK_AGAIN


def test_an_error_that_was_raised_from_itself_is_told_of_too() -> None:
    """The chain of its causes is a ring: looking through it for a certificate went round for ever."""

    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            fault = OSError("no route to host")
            fault.__cause__ = fault
            raise httpx.ConnectError("no route to host") from fault

    async def main() -> Outcome:
        client = Marketo("https://marketo.test", "client-id", "the-secret", transport=Broken())
        try:
            return await upload(client)
        finally:
            await client.aclose()

    outcome = anyio.run(main)
    assert isinstance(outcome, Failed)
    assert "no route to host" in outcome.why


def test_an_encoded_answer_is_refused_unread() -> None:
    """194 KB of gzip unpacked to 200 MB in httpx."""
    peer = Peer(http(b"\x1f\x8b" + b"0" * 100, headers="Content-Encoding: gzip"))
    outcome = ask(peer, lambda client: client.status("tok", Target(), BATCH))
    assert isinstance(outcome, Failed)
    assert "gzip" in outcome.why
    assert b"accept-encoding: identity" in peer.requests[0].lower()


def test_an_answer_larger_than_any_envelope_is_cut_off() -> None:
    """Memory must not depend on what the other side sends."""
    peer = Peer(http(b'{"success":true,"result":[' + b"1," * 600_000 + b"1]}"))
    outcome = ask(peer, lambda client: client.status("tok", Target(), BATCH))
    assert isinstance(outcome, Failed)
    assert "longer" in outcome.why


def test_a_dribbled_answer_meets_the_total_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read timeouts restart with every byte: an answer at one byte in 25 s took seven hours."""
    monkeypatch.setattr(adapter, "CALL_DEADLINE_S", 0.2)
    peer = Peer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", before_close_s=5.0)
    outcome = ask(peer, lambda client: client.status("tok", Target(), BATCH))
    assert isinstance(outcome, Failed)
    assert "within" in outcome.why


def test_headers_without_end_meet_the_total_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them in less than a read timeout, for ever."""
    monkeypatch.setattr(adapter, "CALL_DEADLINE_S", 0.2)

    class Talking(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n")
            with contextlib.suppress(ConnectionError):
                for number in range(500):
                    writer.write(f"X-{number}: y\r\n".encode())
                    await writer.drain()
                    if self.over.is_set():
                        break
                    await asyncio.sleep(0.005)
            writer.close()

    outcome = ask(Talking(b""), lambda client: client.status("tok", Target(), BATCH))
    assert isinstance(outcome, Failed)
    assert "within" in outcome.why


@pytest.mark.parametrize(("size", "taken", "sent"), [(5_000, None, True), (30_000_000, 1, False)])
def test_an_upload_without_an_answer_meets_its_deadline_and_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, size: int, taken: int | None, sent: bool
) -> None:
    """A server that takes a body and is silent is a doubt; one that stops taking it has nothing that it can import."""
    monkeypatch.setattr(adapter, "UPLOAD_DEADLINE_S", 0.4)
    outcome = ask(Peer(b"", read=taken, before_close_s=2.0), lambda client: upload(client, size))
    assert isinstance(outcome, Failed)
    assert "within" in outcome.why
    assert outcome.body_sent is sent
    assert judge(outcome, "create").verdict is (Verdict.DOUBT if sent else Verdict.ASK_AGAIN)


def test_uploads_can_be_ended_from_outside_and_say_how_far_they_came() -> None:
    """On SIGTERM an upload without an answer must become a recorded doubt, not a guess."""

    async def main() -> Outcome:
        async with talking_to(Peer(b"", before_close_s=5.0)) as client:
            outcomes: list[Outcome] = []

            async def send() -> None:
                outcomes.append(await upload(client))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                while not client.sent_bytes:
                    await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.1)
                client.abandon_uploads()
            return outcomes[0]

    outcome = anyio.run(main)
    assert isinstance(outcome, Failed)
    assert outcome.body_sent
    assert outcome.why == "it was ended before a complete answer came", "and not a quarter of an hour later"


def save(client: Marketo, folder: Path) -> Awaitable[Outcome]:
    return client.result_file("tok", Target(), BATCH, "failures", folder / "f.csv")


def test_a_result_file_is_saved_whole_and_private(tmp_path: Path) -> None:
    """It holds personal data, and half of it would look like fewer failures."""
    text = b"email,Import Failure Reason\nx@y,bad\n"
    outcome = ask(Peer(http(text, headers="Content-Type: text/csv;charset=UTF-8")), lambda c: save(c, tmp_path))
    assert outcome == Saved(str(tmp_path / "f.csv"), len(text))
    assert (tmp_path / "f.csv").read_bytes() == text
    assert (tmp_path / "f.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nemail,Import Failure Reason\n" + b"x@y,bad\n" * 20,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nemail,Import",
        http(b"<html><body>busy</body></html>" * 10, headers="Content-Type: text/html"),
    ],
    ids=["cut short of its length", "chunks without an end", "a proxy's page"],
)
def test_a_broken_result_file_is_never_saved(answer: bytes, tmp_path: Path) -> None:
    """It would be merged into the report as if it were complete."""
    outcome = ask(Peer(answer), lambda client: save(client, tmp_path))
    assert isinstance(outcome, Failed)
    assert not (tmp_path / "f.csv").exists()


def test_an_error_under_the_address_of_a_file_is_an_error(tmp_path: Path) -> None:
    """Errors come as JSON with HTTP 200 from the address of a CSV file."""
    body = b'{"requestId":"1#2","success":false,"errors":[{"code":"606","message":"Max rate"}]}'
    outcome = ask(Peer(http(body, headers="Content-Type: text/csv")), lambda client: save(client, tmp_path))
    assert outcome == Answered(False, (), (ApiError("606", "Max rate"),))
    assert not (tmp_path / "f.csv").exists()


@pytest.mark.parametrize("column", ["{id}", "[id]", "{{lead.Id}}", "[id", "{", "[1]"])
def test_a_result_file_is_known_as_one_whatever_its_first_column_is_named(column: str, tmp_path: Path) -> None:
    """Marketo takes a column that it does not know, and echoes its name."""
    text = f"{column},email,Import Failure Reason\n1,x@y,bad\n".encode()
    outcome = ask(Peer(http(text, headers="Content-Type: text/csv;charset=UTF-8")), lambda c: save(c, tmp_path))
    assert outcome == Saved(str(tmp_path / "f.csv"), len(text))


@pytest.mark.parametrize("body", [b"[]", b"{}", b"{", b"[", b' {\n "success": false', b'[{"code": 606}]', b'["busy"]'])
def test_json_under_the_address_of_a_file_is_never_saved(body: bytes, tmp_path: Path) -> None:
    outcome = ask(Peer(http(body, headers="Content-Type: text/csv")), lambda client: save(client, tmp_path))
    assert isinstance(outcome, Failed)
    assert not (tmp_path / "f.csv").exists()


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"success":"yes"}', b"<html>", b'{"success":true', b"[" * 100_000, b"\xff\xfe"],
)
def test_an_answer_that_is_no_envelope_is_a_failure_and_not_a_fault(body: bytes) -> None:
    """Proxies answer with pages, services with nothing."""
    outcome = ask(Peer(http(body)), lambda client: client.status("tok", Target(), BATCH))
    assert isinstance(outcome, Failed)
    assert outcome.http_status == 200


def test_texts_of_marketo_lose_addresses_and_control_characters() -> None:
    """Messages quote values of rows; they go to logs and into the ledger."""
    text = plain("Value 'ann.o@example.com' invalid\n\x1b[31m{}")
    assert "ann" not in text
    assert "<address>" in text
    assert text.isprintable()
    assert len(plain("y" * 10_000)) == 500
