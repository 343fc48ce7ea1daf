"""Who may look, and who may change anything? Whoever has the token; a browser gets a session for it.

The token lies in a file of its owner's, is 256 bits of the system's randomness, and is compared in constant time. It is
never in a URL, a log or a page. A session is signed with the token and holds an end; a form's key is signed with the
session, so that only our own pages can send a form.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections import deque
from pathlib import Path

from orchestrator.adapters.files import private_folder
from orchestrator.errors import Misconfigured

TOKEN_CHARACTERS_MIN = 32
SESSION_S = 43_200.0
FAILURES_ALLOWED, FAILURES_WITHIN_S = 20, 60.0


class Tokens:
    """The token, and what is signed with it."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._failures: deque[float] = deque(maxlen=FAILURES_ALLOWED)

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(self._token, given.encode())

    def may_try(self, now: float) -> bool:
        """False when too many wrong tokens have come lately."""
        return len(self._failures) < FAILURES_ALLOWED or now - self._failures[0] > FAILURES_WITHIN_S

    def failed(self, now: float) -> None:
        self._failures.append(now)

    def session(self, now: float) -> str:
        until = f"{int(now + SESSION_S)}"
        return f"{until}.{self._sign('session', until)}"

    def is_session(self, given: str, now: float) -> bool:
        until, _, signature = given.partition(".")
        sound = hmac.compare_digest(self._sign("session", until).encode(), signature.encode())
        return sound and until.isascii() and until.isdigit() and now < int(until)

    def form_key(self, session: str) -> str:
        """What a form of our own page brings along; of requests that need no session, the session is empty."""
        return self._sign("form", session)

    def is_form_key(self, given: str, session: str) -> bool:
        return hmac.compare_digest(self.form_key(session).encode(), given.encode())

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._token, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()


def read_token(path: Path) -> str:
    """The token of this file, which is made when it is not there. Raises Misconfigured."""
    try:
        private_folder(path.resolve().parent)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        status = path.stat()
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Misconfigured(f"daemon.token_file = {path}: {why}", remedy="Name a file that can be written.") from error
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid not in (os.geteuid(), 0):
        raise Misconfigured(
            f"daemon.token_file = {path}: others may read it, or it is another user's",
            remedy=f"chmod 600 {path}, and own it.",
        )
    if len(token) < TOKEN_CHARACTERS_MIN or not token.isascii() or not token.isprintable():
        raise Misconfigured(
            f"daemon.token_file = {path}: shorter than {TOKEN_CHARACTERS_MIN} characters, or not printable",
            remedy="Remove it: a sound one is made.",
        )
    return token
