"""A gateway that resets uploads over its limit, its answer lost: over real sockets, with a real process."""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.shop import quick, rows_of, rows_received, shop

from orchestrator.simulator.leads import write_leads

LIMIT = 5_500_000
"""Above what two sockets' buffers take: a body that left whole before the reset is a doubt, and rightly so."""
READ_BEFORE_RESET = 4_096


class Gateway(socketserver.ThreadingTCPServer):
    """Passes calls on, one for each connection; a body over the limit meets a reset while it is still being sent."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BEFORE_RESET)
        self.behind = behind
        self.resets = 0


class _Call(socketserver.BaseRequestHandler):
    server: Gateway

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.request.recv(READ_BEFORE_RESET)
            if not piece:
                return
            head += piece
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length is not None and int(length[1]) > LIMIT:
            self.server.resets += 1
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()
            return
        with socket.create_connection(self.server.behind) as behind:
            behind.sendall(re.sub(rb"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", head, count=1))
            threading.Thread(target=_copy, args=(self.request, behind), daemon=True).start()
            _copy(behind, self.request)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            target.sendall(piece)
    except OSError:
        pass


@contextmanager
def gateway(behind: str) -> Iterator[Gateway]:
    host, port = behind.removeprefix("http://").split(":")
    with Gateway((host, int(port))) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


def test_uploads_that_are_reset_for_their_size_are_halved_and_every_row_arrives_once(tmp_path: Path) -> None:
    """Without an answer to read nothing says 413: tried as it is, such a chunk would be tried for ever."""
    write_leads(tmp_path / "leads.csv", 100_000, bad_share=0)
    assert (tmp_path / "leads.csv").stat().st_size > 1.5 * LIMIT
    with (
        shop(tmp_path, quick(keep_bodies=True, rows_per_second=1e6)) as market,
        gateway(market.simulator.base_url) as way,
    ):
        done = market.run(
            "load",
            "leads.csv",
            "-v",
            ORCHESTRATOR_MARKETO__BASE_URL=f"http://127.0.0.1:{way.server_address[1]}",
            ORCHESTRATOR_LIMITS__CHUNK_BYTES="9500000",
        )
        assert done.code == 0, done
        assert way.resets >= 5
        assert sorted(rows_received(market.simulator)) == sorted(rows_of(tmp_path / "leads.csv")[1:])
        assert market.report().json["doubts"] == []
