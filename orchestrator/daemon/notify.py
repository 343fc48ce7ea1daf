"""How does systemd know that we are ready, reloading, stopping, and alive? By sd_notify(3), when it started us.

The datagram of the protocol, by hand: libraries for it need headers or are no longer kept.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """Says nothing when nobody listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        watchdog = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog) / 1e6 if watchdog.isdigit() and int(watchdog) > 0 else None
        """Longest time between two signs of life."""

    def ready(self, status: str) -> None:
        self._say(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._say(f"STATUS={status}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def alive(self) -> None:
        self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
                one.connect(address)
                one.send(text.encode())
        except OSError:  # nobody listens any more
            return
