"""The rules S14 and S16 of the security list where the daemon calls an address of its own: that of its hook."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from orchestrator.adapters.webhook import tell


@contextmanager
def answering(head: bytes, pieces: int = 0) -> Iterator[tuple[str, list[int]]]:
    """An address that answers once with these bytes and then with so many megabytes; how many it got rid of."""
    listening = socket.create_server(("127.0.0.1", 0))
    taken: list[int] = []

    def serve() -> None:
        one, _ = listening.accept()
        with one:
            one.recv(65_536)
            one.sendall(head)
            try:
                for _ in range(pieces):
                    one.sendall(b"x" * 1_000_000)
                    taken.append(1)
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/", taken
    thread.join(10)
    assert not thread.is_alive()
    listening.close()


def test_s14_an_event_is_not_told_where_a_redirect_points() -> None:
    """Whoever answers there would get names of files, and could point into our own network."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.0)
        where = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        head = f"HTTP/1.1 307 X\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(head) as (url, _):
            assert anyio.run(tell, url, {"event": "finished"}) == "HTTP 307"
        try:
            elsewhere.accept()
        except BlockingIOError:
            return
        raise AssertionError("it was followed")


def test_s16_an_answer_without_end_is_not_read() -> None:
    """The address belongs to somebody else, and our memory is not for him."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", pieces=500) as (url, taken):
        assert anyio.run(tell, url, {"event": "finished"}) == ""
    assert len(taken) < 50
