"""The security list of the daemon, rule by rule, against a real process and real sockets.

What a page of another site can do is tried in a real browser too: `test_daemon_page`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from e2e.daemon import Client, Daemon, csv, daemon, drop, ended, people, served
from e2e.shop import Shop, quick, shop

from orchestrator.daemon.http.listen import parse
from orchestrator.daemon.setup import wipe_secrets
from orchestrator.errors import Misconfigured

Served = tuple[Shop, Daemon, Client]
CANARY = "canary.lead@secret-customer.example"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with shop(tmp_path_factory.mktemp("serving"), quick()) as market, served(market) as (one, client):
        yield market, one, client


def raw(url: str, request: bytes, patience_s: float = 5.0) -> bytes:
    """Whatever comes back for exactly these bytes."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    assert host is not None
    with socket.create_connection((host, port or 80), timeout=patience_s) as one:
        one.sendall(request)
        answer = b""
        try:
            while piece := one.recv(65_536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


BINDS = ("0.0.0.0:0", "[::]:0", "[::ffff:127.0.0.1]:0")


@pytest.mark.parametrize("listen", BINDS)
def test_s17_another_address_than_loopback_needs_tls_or_a_proxy_and_names(tmp_path: Path, listen: str) -> None:
    """A token in clear text over the network is no token."""
    with shop(tmp_path, quick()) as market:
        told = market.run("daemon", "--as-root", "--listen", listen)
        assert told.code == 78, told
        assert "not loopback" in told.err
        told = market.run("daemon", "--as-root", "--listen", listen, "--behind-proxy")
        assert told.code == 78, told
        assert "daemon.hosts" in told.err


@pytest.mark.parametrize("listen", ["example.com:80", "127.evil.com:80", "8089", "127.0.0.1:99999", "unix:"])
def test_s17_what_is_no_address_is_refused(listen: str) -> None:
    """A name may be anybody's tomorrow."""
    with pytest.raises(Misconfigured, match="it is no address"):
        parse(listen)


def test_s17_a_unix_socket_is_for_its_owner_only_and_needs_no_token(tmp_path: Path) -> None:
    """Who may open it was decided by the system."""
    with shop(tmp_path, quick()) as market, daemon(market, "--listen", "unix:run/daemon.sock"):
        path = tmp_path / "run" / "daemon.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            assert client.get("/api/v1/loads").json() == {"loads": []}
            assert client.get("/api/v1/loads", headers={"Host": "example.com"}).status_code == 421


def test_s17_the_socket_of_a_living_daemon_is_not_taken_from_it(tmp_path: Path) -> None:
    """Another one, with folders of its own, took its place, and the first was never reached again."""
    folders = ("inbox", "work", "done", "failed")
    other: dict[str, Any] = {f"ORCHESTRATOR_DAEMON__{name.upper()}": f"other/{name}" for name in folders}
    listen = ("--listen", "unix:s")
    with shop(tmp_path, quick()) as market:
        with daemon(market, *listen) as one:
            told = market.run("daemon", "--as-root", *listen, **other)
            assert (told.code, "Address already in use" in told.err) == (78, True), told
            one.kill()
        with daemon(market, *listen) as one:  # what a dead one left is in nobody's way
            assert one.end() == 143
        told = market.run("daemon", "--as-root", "--listen", f"unix:{'s' * 120}")
        assert (told.code, "too long" in told.err) == (78, True), told


def test_s17_with_a_certificate_it_speaks_tls_of_this_decade(tmp_path: Path) -> None:
    """S14 for what comes in."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=loads.example"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = {
        "ORCHESTRATOR_DAEMON__TLS_CERTIFICATE": "cert.pem",
        "ORCHESTRATOR_DAEMON__TLS_KEY": "key.pem",
        "ORCHESTRATOR_DAEMON__HOSTS": "loads.example",
    }
    with shop(tmp_path, quick()) as market, served(market, "--listen", "0.0.0.0:0", **tls) as (_, client):
        url = client.url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https://")
        headers = {"Host": "loads.example", "Authorization": f"Bearer {client.token}"}
        with httpx.Client(base_url=url, headers=headers, verify=False) as one:
            assert one.get("/api/v1/loads").status_code == 200
            assert one.get("/api/v1/loads", headers={"Host": urlsplit(url).netloc}).status_code == 421
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain)


HOSTS = (
    "",
    "example.com",
    "127.evil.com:{port}",
    "127.0.0.1.nip.io:{port}",
    "127.1:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "localhost:1",
    "127.0.0.1:{port}@evil.com",
    "127.0.0.1:{port}.evil.com",
    "localhost.evil.com:{port}",
    "0.0.0.0:{port}",
    "[::1]:{port}",
    "2130706433:{port}",
    "127.0.0.1:{port} ",
    "127.0.0.1:{port}/",
)


@pytest.mark.parametrize("host", HOSTS)
def test_s18_a_host_that_is_not_exactly_ours_is_refused(serving: Served, host: str) -> None:
    """A page of another site reaches us by a name of its own that points here (DNS rebinding)."""
    _, _, client = serving
    port = urlsplit(client.url).port
    name = host.format(port=port)
    token = f"Authorization: Bearer {client.token}\r\nConnection: close\r\n"
    answer = raw(client.url, f"GET /api/v1/loads HTTP/1.1\r\nHost: {name}\r\n{token}\r\n".encode())
    expected = (400, 421) if not name.endswith(" ") else (200, 400, 421)  # blanks round a value are no part of it
    assert status(answer) in expected, answer
    good = f"GET /api/v1/loads HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{token}\r\n".encode()
    assert status(raw(client.url, good)) == 200


def test_s18_no_host_and_two_hosts_are_refused(serving: Served) -> None:
    """Two readers may each take another one of them."""
    _, _, client = serving
    netloc = urlsplit(client.url).netloc
    token = f"Authorization: Bearer {client.token}\r\nConnection: close\r\n"
    for hosts in ("", f"Host: {netloc}\r\nHost: {netloc}\r\n", f"Host: {netloc}\r\nHost: evil.com\r\n"):
        assert status(raw(client.url, f"GET /api/v1/loads HTTP/1.1\r\n{hosts}{token}\r\n".encode())) in (400, 421)
    assert status(raw(client.url, f"GET /api/v1/loads HTTP/1.0\r\n{token}\r\n".encode())) in (400, 421)


CHANGES = ("/api/v1/loads", "/api/v1/uploads?name=a.csv", "/api/v1/loads/x/pause", "/api/v1/loads/x/cancel")


@pytest.mark.parametrize("path", CHANGES)
def test_s19_a_change_needs_our_origin_the_token_and_json(serving: Served, path: str) -> None:
    """What a form, an image or a fetch of another site can send is none of that."""
    market, _, client = serving
    kind = "application/octet-stream" if "uploads" in path else "application/json"
    good = {"Content-Type": kind, "Authorization": f"Bearer {client.token}"}
    before = sorted(path.name for path in (market.folder / "work").iterdir())
    with httpx.Client(base_url=client.url) as one:
        for headers, expected in (
            ({**good, "Origin": "https://evil.com"}, 403),
            ({**good, "Origin": "null"}, 403),
            ({**good, "Origin": client.url + ".evil.com"}, 403),
            ({**good, "Origin": client.url.replace("127.0.0.1", "[::1]")}, 403),
            ({**good, "Sec-Fetch-Site": "cross-site"}, 403),
            ({**good, "Sec-Fetch-Site": "same-site"}, 403),
            ({**good, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
            ({**good, "Content-Type": "text/plain"}, 415),
            ({**good, "Content-Type": "application/x-www-form-urlencoded"}, 415),
            ({**good, "Content-Type": "multipart/form-data; boundary=x"}, 415),
            ({"Authorization": good["Authorization"]}, 415),
            ({"Content-Type": kind}, 401),
            ({"Content-Type": kind, "Authorization": "Bearer wrong"}, 401),
            ({"Content-Type": kind, "Authorization": "Basic " + client.token}, 401),
        ):
            answer = one.post(path, content=b"{}", headers=headers)
            assert answer.status_code == expected, (headers, answer.text)
            assert "access-control-allow-origin" not in answer.headers
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "MOVE"):
            assert one.request(method, path, headers=good).status_code in (400, 405)
        assert one.get(path.replace("/api/v1/loads/x", "/api/v1/loads/x"), headers={"Cookie": "a=b"}).status_code == 401
    assert sorted(path.name for path in (market.folder / "work").iterdir()) == before


READS = ("/api/v1/loads", "/api/v1/status", "/api/v1/events", "/metrics", "/api/v1/openapi.json", "/", "/nothing")


@pytest.mark.parametrize("path", READS)
def test_s20_nothing_about_loads_is_told_without_a_token(serving: Served, path: str) -> None:
    """Names of files say enough about a company."""
    _, _, client = serving
    with httpx.Client(base_url=client.url) as one:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {client.token}x"}):
            assert one.get(path, headers=headers).status_code in (401, 429)
        assert one.get(f"{path}?token={client.token}").status_code == 401
        assert one.get("/healthz").text == "ok\n"


def test_s20_the_token_is_long_random_and_for_its_owner_only(serving: Served, tmp_path: Path) -> None:
    """It opens everything."""
    market, _, client = serving
    path = market.folder / ".orchestrator" / "daemon.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(client.token) >= 43
    with shop(tmp_path, quick()) as other:
        (tmp_path / "token").write_text(client.token)
        (tmp_path / "token").chmod(0o644)
        told = other.run("daemon", "--as-root", ORCHESTRATOR_DAEMON__TOKEN_FILE="token")
        assert told.code == 78, told
        assert "others may read it" in told.err
        (tmp_path / "token").write_text("short")
        (tmp_path / "token").chmod(0o600)
        assert other.run("daemon", "--as-root", ORCHESTRATOR_DAEMON__TOKEN_FILE="token").code == 78


def test_s20_wrong_tokens_are_not_tried_for_ever(tmp_path: Path) -> None:
    """And whoever has the right one is not kept out by it."""
    with shop(tmp_path, quick()) as market, served(market) as (_, client), httpx.Client(base_url=client.url) as one:
        codes = [one.get("/api/v1/loads", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(30)]
        assert codes[0] == 401
        assert codes[-1] == 429
        assert client.http.get("/api/v1/loads").status_code == 200


def test_s21_every_answer_says_what_a_browser_may_do_with_it(serving: Served) -> None:
    """Nothing from elsewhere, no script but ours, no frame, no guess at the type, no copy on disk."""
    _, _, client = serving
    for path, headers in (("/api/v1/loads", {}), ("/healthz", {}), ("/nothing", {}), ("/api/v1/loads", {"Host": "x"})):
        answer = client.http.get(path, headers=headers)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers


def test_s22_headers_and_bodies_have_an_end(serving: Served) -> None:
    """Memory is not for strangers."""
    _, _, client = serving
    netloc = urlsplit(client.url).netloc
    start = f"GET /healthz HTTP/1.1\r\nHost: {netloc}\r\nConnection: close\r\n"
    assert status(raw(client.url, (start + f"X: {'x' * 10_000}\r\n\r\n").encode())) in (400, 431)
    assert status(raw(client.url, (start + f"X: {'x' * 100_000}\r\n\r\n").encode())) in (400, 431)
    json_type = {"Content-Type": "application/json"}
    for size in (70_000, *[1_000_000] * 5):  # and who sends too much can read why
        assert client.http.post("/api/v1/loads", content=b"x" * size, headers=json_type).json()["error"]["code"] == 413
    chunked = client.http.post("/api/v1/loads", content=iter([b"x" * 50_000, b"x" * 50_000]), headers=json_type)
    assert chunked.status_code == 413
    lying = f"POST /api/v1/loads HTTP/1.1\r\nHost: {netloc}\r\nAuthorization: Bearer {client.token}\r\n"
    lying += "Content-Type: application/json\r\nContent-Length: -5\r\nConnection: close\r\n\r\n"
    assert status(raw(client.url, lying.encode())) in (400, 413)


def test_s22_a_form_has_few_fields(tmp_path: Path) -> None:
    """Anybody without a token could have the log tell of a fault of ours (500), again and again."""
    with shop(tmp_path, quick()) as market, served(market) as (one, client):  # one where no wrong token was tried yet
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": client.url}
        answer = httpx.post(f"{client.url}/login", content="field=1&" * 20, headers=form)
        assert answer.status_code == 422
        assert not one.said("request.broken")


def test_s22_an_upload_that_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    """Neither does one whose sender goes away."""
    with (
        shop(tmp_path, quick()) as market,
        served(market, ORCHESTRATOR_DAEMON__UPLOAD_BYTES="100000") as (one, client),
    ):
        binary = {"Content-Type": "application/octet-stream"}
        pieces = iter([b"x" * 60_000, b"x" * 60_000])
        assert client.http.post("/api/v1/uploads?name=a.csv", content=pieces, headers=binary).status_code == 413
        netloc = urlsplit(client.url).netloc
        head = f"POST /api/v1/uploads?name=b.csv HTTP/1.1\r\nHost: {netloc}\r\nAuthorization: Bearer {client.token}\r\n"
        head += "Content-Type: application/octet-stream\r\nContent-Length: 5000\r\n\r\nhalf"
        host, port = urlsplit(client.url).hostname, urlsplit(client.url).port
        with socket.create_connection((host or "", port or 0)) as sender:
            sender.sendall(head.encode())
            one.until(lambda: len(list((tmp_path / "work").iterdir())) == 2)
        one.until(lambda: [path.name for path in (tmp_path / "work").iterdir()] == [".lock"])
        assert one.end() == 143
        assert not one.said("request.broken")  # that is for faults of ours


def test_s22_two_hundred_slow_connections_do_not_stop_loads_or_answers(tmp_path: Path) -> None:
    """Slow loris: each sends a byte now and then, and never a whole header."""
    with shop(tmp_path, quick()) as market, served(market) as (one, client):
        host, port = urlsplit(client.url).hostname, urlsplit(client.url).port
        before = _memory_kb(one.process.pid)
        held: list[socket.socket] = []
        try:
            for _ in range(200):
                sender = socket.create_connection((host or "", port or 0), timeout=5)
                sender.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
                held.append(sender)
            drop(tmp_path / "inbox", "leads.csv", people("slow", 500))
            one.until(lambda: ended(tmp_path / "done"))
            deadline = time.monotonic() + 15
            while True:  # those that were let in are closed when their time is over
                try:
                    assert client.http.get("/healthz", timeout=2.0).text == "ok\n"
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        finally:
            for sender in held:
                sender.close()
        assert _memory_kb(one.process.pid) - before < 60_000


def _memory_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    (found,) = re.findall(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    return int(found)


TRAVERSALS = (
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "/etc/passwd",
    "%00",
    "a%00b",
    "..\\..\\etc\\passwd",
    "report.json/../../ledger.db",
)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_s24_no_path_of_a_request_is_opened(serving: Served, path: str) -> None:
    """Ids that we gave, and names that are in the inbox: nothing else leads anywhere."""
    market, one, client = serving
    if not ended(market.folder / "done"):
        client.create(upload=client.upload("x.csv", csv(people("x", 3))))
        one.until(lambda: ended(market.folder / "done"))
    id = next(iter(ended(market.folder / "done").values()))["id"]
    netloc = urlsplit(client.url).netloc
    for target in (f"/api/v1/loads/{path}", f"/api/v1/loads/{id}/report/{path}", f"/{path}"):
        request = f"GET {target} HTTP/1.1\r\nHost: {netloc}\r\nAuthorization: Bearer {client.token}\r\n"
        answer = raw(client.url, (request + "Connection: close\r\n\r\n").encode())
        assert status(answer) in (400, 404), answer
        assert b"root:" not in answer
    for body in ({"inbox": path}, {"inbox": f"x/{path}"}, {"upload": path}):
        assert client.http.post("/api/v1/loads", json=body).status_code in (404, 422)
    upload = client.http.post(
        "/api/v1/uploads", params={"name": path}, content=b"x", headers={"Content-Type": "application/octet-stream"}
    )
    assert upload.status_code in (201, 422)
    assert not (market.folder / "etc").exists()


def test_s23_a_fault_tells_nothing_of_the_inside(serving: Served) -> None:
    """No trace, no path, no version."""
    market, _, client = serving
    for answer in (
        client.http.get("/api/v1/loads/0123456789ab"),
        client.http.get("/nothing"),
        client.http.post("/api/v1/loads", content=b"\xff\xfe", headers={"Content-Type": "application/json"}),
        client.http.post("/api/v1/loads", json={"settings": {"map": 3}, "upload": "x"}),
    ):
        assert "Traceback" not in answer.text
        assert str(market.folder) not in answer.text
        assert "starlette" not in answer.text.lower() + str(answer.headers).lower()


def test_s26_a_name_cannot_forge_a_line_of_the_log(tmp_path: Path) -> None:
    """Whoever reads the log by machine would believe it."""
    name = 'a\n{"event":"load.finished","level":"info"}.csv'
    with shop(tmp_path, quick()) as market, daemon(market) as one:
        drop(tmp_path / "inbox", name, people("forged", 3))
        one.until(lambda: ended(tmp_path / "done"))
        assert one.end() == 143
    assert len(one.said("load.finished")) == 1
    for line in one.text:
        json.loads(line)


def test_s4_s7_secrets_and_lead_data_are_nowhere_but_in_the_source_and_the_report(tmp_path: Path) -> None:
    """One canary of each, looked for in everything that is written or told."""
    with shop(tmp_path, quick()) as market, served(market, "-v") as (one, client):
        secret = market.environment["ORCHESTRATOR_MARKETO__CLIENT_SECRET"]
        rows = [f"{CANARY},Ana", ",Nobody", "not-an-address,Ana", *people("canary", 50)]
        drop(tmp_path / "inbox", "leads.csv", rows)
        one.until(lambda: ended(tmp_path / "done"))
        (delivery,) = ended(tmp_path / "done").values()
        told = [client.http.get(path).text for path in ("/api/v1/status", "/api/v1/loads", "/metrics")]
        told.append(client.http.get(f"/api/v1/loads/{delivery['id']}/chunks").text)
        client.http.get("/api/v1/loads", headers={"Authorization": f"Bearer {client.token[:-1]}"})
        assert one.end() == 143
    told += one.text
    told += [path.read_text(errors="replace") for path in tmp_path.glob("*/*/delivery.json")]
    told += [
        path.read_bytes().decode("latin-1") for path in (tmp_path / ".orchestrator").glob("ledger*") if path.is_file()
    ]
    for text in told:
        assert CANARY not in text
        assert secret not in text
        assert client.token[:-1] not in text
    walked = [path for path in tmp_path.rglob("*") if "inbox" not in path.name]
    assert walked
    for path in walked:
        if path.name not in ("leads.csv", "run"):
            assert path.lstat().st_mode & 0o077 == 0, path


def test_s3_children_do_not_inherit_the_secret() -> None:
    """The process lets go of it as soon as it is read."""
    os.environ["ORCHESTRATOR_MARKETO__CLIENT_SECRET"] = "x"
    wipe_secrets()
    assert "ORCHESTRATOR_MARKETO__CLIENT_SECRET" not in os.environ
