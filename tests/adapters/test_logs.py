"""What is logged: one line for each event, no secret, no row, no forged line, no local variables."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from orchestrator.adapters import logs

SECRET = "canary-secret-1"


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("json_lines", [True, False])
def test_secrets_and_control_characters_never_reach_the_log(json_lines: bool) -> None:
    """A log is read by more people than a configuration, and by programs that trust its lines."""
    out = io.StringIO()
    logs.configure(level="info", json=json_lines, secrets=[SECRET], stream=out)
    structlog.get_logger().info(
        "upload.refused", why=f'token {SECRET} bad\n{{"level": "info"}}\x1b[31m', access_token="abc", load="x"
    )
    text = out.getvalue()
    assert SECRET not in text
    assert "abc" not in text
    assert text.count("\n") == 1
    assert "\x1b" not in text
    if json_lines:
        assert json.loads(text)["event"] == "upload.refused"


@pytest.mark.parametrize("json_lines", [True, False])
def test_an_exception_is_logged_without_the_values_around_it(json_lines: bool) -> None:
    """Local variables of the frames hold rows and secrets."""
    out = io.StringIO()
    logs.configure(level="info", json=json_lines, secrets=[SECRET], stream=out)

    def fails(row: str) -> None:
        hidden = row + SECRET
        raise ValueError(f"length {len(hidden)}")

    address = "@".join(("ann", "example.com"))
    try:
        fails(address)
    except ValueError:
        structlog.get_logger().error("load.failed", exc_info=True)
    text = out.getvalue()
    assert "ValueError" in text
    assert SECRET not in text
    assert address not in text


def test_lines_go_to_whatever_stands_for_stderr_at_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The live view takes its place while it is drawn: a line past it would run through the picture."""
    logs.configure(level="info", json=True)
    later = io.StringIO()
    monkeypatch.setattr("sys.stderr", later)
    structlog.get_logger().info("batch.accepted", chunk=1)
    assert json.loads(later.getvalue())["chunk"] == 1


def test_the_http_library_is_silent_below_warnings() -> None:
    """It logs addresses."""
    logs.configure(level="debug", json=True, stream=io.StringIO())
    assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING
    assert logging.getLogger("httpcore").getEffectiveLevel() == logging.WARNING
