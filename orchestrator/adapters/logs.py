"""What is logged, and what never is?

structlog to stderr: for people on a terminal, JSON lines otherwise. Secrets are replaced wherever they appear, by value
and by name; line ends and control characters are escaped, so that no value can forge a line; exceptions carry no local
variables, which would hold rows and secrets. httpx and httpcore are silenced below warnings: they log addresses.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, MutableMapping
from typing import Any, Literal, TextIO, cast

import structlog

Level = Literal["debug", "info", "warning", "error"]
MASK = "********"
_SECRET_NAMES = ("secret", "token", "authorization", "password")
_LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Unbreakable:
    """A stream whose reader may go away: a load does not stop because nobody reads what it says any more.

    stream: None means sys.stderr as it is at each line: the progress view puts itself in its place, so that lines
    appear above it and not through it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._broken = stream, False

    def write(self, text: str) -> int:
        if not self._broken:
            try:
                (self._stream or sys.stderr).write(text)
            except (OSError, ValueError):
                self._broken = True
        return len(text)

    def flush(self) -> None:
        if not self._broken:
            try:
                (self._stream or sys.stderr).flush()
            except (OSError, ValueError):
                self._broken = True


class Redaction:
    """A processor that masks secrets and escapes what could break a line."""

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            if any(name in key.lower() for name in _SECRET_NAMES):
                event[key] = MASK
            elif isinstance(value, str):
                event[key] = self.clean(value)
        return event

    def clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(
    *, level: Level, json: bool, secrets: Collection[str] = (), stream: TextIO | None = None, color: bool = False
) -> None:
    """Set up logging for this process. json: lines for machines. stream: where to, stderr by default."""
    out = cast(TextIO, Unbreakable(stream))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        if json
        else structlog.processors.format_exc_info,
        Redaction(secrets),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if json
        else structlog.dev.ConsoleRenderer(colors=color, pad_event_to=18)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
