"""Who is told of what happens? A command, an address, or both: when a load has finished, failed, or is stuck.

At least once: what is over and not told is told again by the next daemon. One at a time, each within its time; one that
fails is tried thrice. Loads never wait for it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from subprocess import DEVNULL, PIPE
from typing import Any

import anyio
import structlog

from orchestrator.adapters.webhook import tell
from orchestrator.config import DaemonSection
from orchestrator.daemon.deliveries import Delivery

log = structlog.get_logger()

COMMAND_S = 60.0
WAITS_S = (2.0, 20.0)
"""Before the second and the third try."""
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ", "USER")


class Hooks:
    """told: called with a delivery whose hooks have been told, or have failed often enough."""

    def __init__(
        self,
        section: Callable[[], DaemonSection],
        told: Callable[[Delivery], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._section, self._told, self._now = section, told, now
        self._queue: deque[tuple[str, Delivery]] = deque()
        self._woken = anyio.Event()
        self._stuck: dict[str, tuple[int, float, bool]] = {}
        """Rows settled, since when no more, and whether that was told."""

    def ended(self, delivery: Delivery) -> None:
        """It is over."""
        self._put("finished" if delivery.stage == "done" else "failed", delivery)

    def stuck(self, deliveries: Mapping[str, Delivery], settled: Mapping[str, int]) -> None:
        """Look at what is not over; each that does not come forward is told once, until it has come forward."""
        now = self._now()
        seen: dict[str, tuple[int, float, bool]] = {}
        for id, rows in settled.items():
            before, since, said = self._stuck.get(id, (rows, now, False))
            if rows != before:
                since, said = now, False
            if not said and now - since >= self._section().waiting_after:
                said = True
                self._put("waiting", deliveries[id])
            seen[id] = (rows, since, said)
        self._stuck = seen

    def _put(self, event: str, delivery: Delivery) -> None:
        self._queue.append((event, delivery))
        self._woken.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            while self._queue:
                event, delivery = self._queue[0]
                await self._tell(event, delivery)
                if event != "waiting":
                    await self._told(delivery)
                self._queue.popleft()
            await self._woken.wait()
            self._woken = anyio.Event()

    async def _tell(self, event: str, delivery: Delivery) -> None:
        section, content = self._section(), event_object(event, delivery)
        ways: list[tuple[str, Callable[[], Awaitable[str]]]] = []
        if section.hook_command:
            ways.append(("command", lambda: _run(section.hook_command, event, content, delivery)))
        if url := section.hook_url.get_secret_value():
            ways.append(("url", lambda: tell(url, content)))
        for way, once in ways:
            for wait_s in (0.0, *WAITS_S):
                await anyio.sleep(wait_s)
                if not (why := await once()):
                    log.info("hook.told", hook=way, told=event, delivery=delivery.id)
                    break
                log.warning("hook.failed", hook=way, told=event, delivery=delivery.id, why=why)


def event_object(event: str, delivery: Delivery) -> dict[str, Any]:
    """What is told. No row, no path of ours."""
    return {
        "schema": 1,
        "event": event,
        "id": delivery.id,
        "load_id": delivery.load_id,
        "name": delivery.name,
        "taken_at": delivery.taken_at,
        "ended_at": delivery.ended_at,
        "exit_code": delivery.exit_code,
        "why": delivery.why,
        "totals": delivery.result.get("totals"),
    }


async def _run(command: str, event: str, content: Mapping[str, Any], delivery: Delivery) -> str:
    """Run the command, without a shell; returns why it did not succeed."""
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    environment["ORCHESTRATOR_EVENT"] = event
    environment["ORCHESTRATOR_REPORT_DIR"] = str(delivery.result.get("report_dir", ""))
    try:
        words = shlex.split(command)
        with anyio.fail_after(COMMAND_S):
            async with await anyio.open_process(
                words, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, env=environment, start_new_session=True
            ) as done:
                try:
                    assert done.stdin is not None, "it is a pipe"
                    await done.stdin.send(json.dumps(content, ensure_ascii=False).encode())
                    await done.stdin.aclose()
                    await done.wait()
                except BaseException:
                    with suppress(ProcessLookupError):
                        os.killpg(done.pid, signal.SIGKILL)  # with what it has begun, which would stay for ever
                    raise
    except TimeoutError:
        return f"it ran for more than {COMMAND_S:.0f} s"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return "" if done.returncode == 0 else f"it ended with {done.returncode}"
