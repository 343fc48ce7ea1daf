"""What must be true of every call, at the moment it is made? What an end state would no longer show is watched here.

Within the pace that was asked for, one token renewal at a time, no batch asked after in a storm; an upload was written
down before it left, and is of the load that its process was started for.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from simulation.promises import promise

from orchestrator.simulator.multipart import MalformedError, parse

WINDOW_S = 20.0
ASKED_AT_ONCE = 3
"""One question may be made three times in a row: twice more with a renewed token."""
STORM_S = 4.0
"""A little less than the shortest time between two questions about a batch."""
ROUNDING_S = 1e-3


@dataclass
class Calls:
    """The calls of one process, as somebody between it and Marketo would see them."""

    at_once: int = 5
    per_20s: int = 50
    _under_way: Counter[str] = field(default_factory=Counter)
    _made: deque[float] = field(default_factory=deque)
    _asked: dict[str, deque[float]] = field(default_factory=dict)

    @contextmanager
    def under_way(self, method: str, path: str, now: float) -> Iterator[None]:
        """A call, from its first byte to its answer's head."""
        kind = "token" if path.startswith("/identity/") else "call"
        self._under_way[kind] += 1
        try:
            self._check(kind, method, path, now)
            yield
        finally:
            self._under_way[kind] -= 1

    def _check(self, kind: str, method: str, path: str, now: float) -> None:
        if kind == "token":
            promise(self._under_way["token"] == 1, "a token is renewed once at a time")
            return
        promise(self._under_way["call"] <= self.at_once, "no more calls at once than configured")
        made = self._made
        made.append(now)
        while made[0] <= now - WINDOW_S + ROUNDING_S:
            made.popleft()
        promise(len(made) <= self.per_20s, "no more calls in 20 s than configured", len(made))
        if method == "GET" and "/batch/" in path and not path.endswith(("failures.json", "warnings.json")):
            asked = self._asked.setdefault(path, deque(maxlen=ASKED_AT_ONCE + 1))
            asked.append(now)
            storm = len(asked) > ASKED_AT_ONCE and now - asked[0] < STORM_S
            promise(not storm, "a batch is not asked after in a storm", path, *asked)


def intent_is_durable(ledger: Path, slots: int, source: Path) -> Callable[[bytes], None]:
    """Checks, by a look at the file itself, that an upload was written down before its first byte left.

    It must be of the load that the process was started for: what it looks after for others it does not send.
    """

    def check(body: bytes) -> None:
        try:
            boundary = body[2 : body.index(b"\r\n")].decode()
            form = parse(body, f"multipart/form-data; boundary={boundary}")
        except (ValueError, MalformedError):
            return
        assert form.file is not None
        digest = hashlib.sha256(form.file).hexdigest()
        reader = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        try:
            found, own, held = reader.execute(
                "SELECT total(c.state = 'offered' AND c.sha256 = ?), total(c.sha256 = ? AND l.source_path = ?), "
                "count(c.slot) FROM chunks c JOIN loads l ON l.id = c.load_id WHERE c.slot IS NOT NULL",
                (digest, digest, str(source)),
            ).fetchone()
        finally:
            reader.close()
        promise(found > 0, "an upload has a durable intent")
        promise(own > 0, "a process sends its own load only")
        promise(held <= slots, "no more slots are held than there are", held)

    return check
