"""Where is listened, and who may come from there?

Loopback or a Unix socket by default. Any other address is refused without TLS or a proxy that does it (and a token is
always needed), and without saying under which names the daemon is called. A host is taken for loopback by its address
alone: 127.evil.com is somebody else's.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.adapters.files import private_folder
from orchestrator.config import DaemonSection
from orchestrator.errors import Misconfigured

CONNECTIONS_MAX = 32
HEADER_BYTES_MAX = 8_192
HEADER_S = 5.0
"""A connection that has not brought a whole header for so long is closed."""
OFF = "off"


@dataclass(frozen=True, slots=True)
class Address:
    """host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def is_loopback(self) -> bool:
        return self.path is not None or ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in. hosts: exact values of the Host header. trusted: who gets here is the owner already."""

    hosts: frozenset[str]
    origins: frozenset[str]
    trusted: bool
    secure: bool
    """Only over TLS: cookies are marked so."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket and what belongs to it."""

    socket: socket.socket
    door: Door
    url: str
    certificate: Path | None = None
    key: Path | None = None


def parse(listen: str) -> Address | None:
    """`HOST:PORT`, `[V6]:PORT`, `unix:PATH` or `off`. Raises Misconfigured."""
    if listen == OFF:
        return None
    if listen.startswith("unix:") and len(listen) > 5:
        return Address(path=Path(listen[5:]))
    host, _, port = listen.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port) if port.isascii() and port.isdigit() else -1
        if not 0 <= number <= 65_535:
            raise ValueError
    except ValueError:
        raise Misconfigured(
            f"daemon.listen = {listen!r}: it is no address",
            remedy='Allowed: "127.0.0.1:8089", "[::1]:8089", another address with a port, "unix:PATH", or "off".',
        ) from None
    return Address(host, number)


def check(address: Address, daemon: DaemonSection) -> None:
    """Raises Misconfigured when it is not safe to listen there like that."""
    tls = daemon.tls_certificate is not None
    if tls != (daemon.tls_key is not None):
        raise Misconfigured(
            "daemon.tls_certificate and daemon.tls_key: one is set without the other", remedy="Set both, or neither."
        )
    if address.is_loopback:
        return
    if not tls and not daemon.behind_proxy:
        raise Misconfigured(
            f"daemon.listen = {daemon.listen!r}: it is not loopback, and tokens and reports would go over the network "
            "for everybody to read",
            remedy="Set daemon.tls_certificate and daemon.tls_key, or put a proxy with TLS before it and say "
            "--behind-proxy, or listen on 127.0.0.1.",
        )
    if not names(daemon):
        raise Misconfigured(
            f"daemon.listen = {daemon.listen!r}: it is not loopback, and daemon.hosts does not say how it is called",
            remedy='Set daemon.hosts, such as "loads.example.com" or "loads.example.com:8443".',
        )


def names(daemon: DaemonSection) -> list[str]:
    """The further names of daemon.hosts."""
    return [name.strip().lower() for name in daemon.hosts.split(",") if name.strip()]


def bind(daemon: DaemonSection) -> Listener | None:
    """Begin to listen; None when nothing is to be listened to. Raises Misconfigured."""
    address = parse(daemon.listen)
    if address is None:
        return None
    check(address, daemon)
    try:
        if address.path is not None:
            return _unix(address.path)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address.host, address.port))
            one.listen(128)
        except BaseException:
            one.close()
            raise
    except OSError as error:
        raise Misconfigured(
            f"daemon.listen = {daemon.listen!r}: {error.strerror or error}", remedy="Choose another address or port."
        ) from error
    return _tcp(one, address, daemon)


def _tcp(one: socket.socket, address: Address, daemon: DaemonSection) -> Listener:
    port = one.getsockname()[1]
    tls = daemon.tls_certificate is not None
    scheme = "https" if tls else "http"
    usual = 443 if tls else 80
    host = f"[{address.host}]" if ":" in address.host else address.host
    called = [host, "localhost"] if address.is_loopback else []
    hosts = {f"{name}:{port}" for name in called} | ({*called} if port == usual else set())
    origins = {f"{scheme}://{name}" for name in hosts}
    further = names(daemon)
    hosts |= set(further)
    for outside in ("https",) if tls or daemon.behind_proxy else ("http", "https"):
        origins |= {f"{outside}://{name}" for name in further}
    door = Door(frozenset(hosts), frozenset(origins), trusted=False, secure=tls or daemon.behind_proxy)
    return Listener(one, door, f"{scheme}://{host}:{port}", daemon.tls_certificate, daemon.tls_key)


def _unix(path: Path) -> Listener:
    path = path.resolve()
    private_folder(path.parent)
    if path.parent.stat().st_mode & 0o022:
        raise Misconfigured(f"daemon.listen: others may write to {path.parent}", remedy="Choose a folder of your own.")
    if path.exists() and stat.S_ISSOCK(path.lstat().st_mode) and not _is_heard(path):
        path.unlink()  # a daemon of before left it
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        one.bind(str(path))
        one.listen(128)
    except BaseException:
        one.close()
        raise
    finally:
        os.umask(before)
    hosts = frozenset({"localhost"})
    return Listener(one, Door(hosts, frozenset({"http://localhost"}), trusted=True, secure=False), f"unix:{path}")


def _is_heard(path: Path) -> bool:
    """Does a living process listen there? A daemon with other folders may, and would never be reached again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as one:
        one.setblocking(False)
        return one.connect_ex(str(path)) != errno.ECONNREFUSED


class _Protocol(H11Protocol):
    """uvicorn's, for so many connections at most, each of which must bring its header in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._watch()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def _watch(self) -> None:
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.loop.time() - self._since > HEADER_S:
            self.transport.abort()
            return
        self.loop.call_later(HEADER_S / 4, self._watch)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The daemon has its own way with signals."""
        yield


async def serve(app: Any, listener: Listener, stop: anyio.Event) -> None:
    """Answer requests until `stop`; those under way end within two seconds then."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
        ssl_certfile=listener.certificate,
        ssl_keyfile=listener.key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"daemon.tls_certificate, daemon.tls_key: {error}", remedy="Give both as PEM.") from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener.socket])
        await stop.wait()
        server.should_exit = True
