"""Commands that are told of what happens, and do not do as they should."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from orchestrator.daemon import hooks
from orchestrator.daemon.deliveries import Delivery

DELIVERY = Delivery(id="20261129-120000-01234567", name="leads.csv", file="leads.csv", taken_at=0.0, stage="done")


def script(folder: Path, text: str) -> str:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def test_a_command_that_takes_too_long_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell of a script was killed, and the program that it waited for ran for ever: three more with each load."""
    monkeypatch.setattr(hooks, "COMMAND_S", 1.0)
    command = script(tmp_path, f"sleep 100 & echo $! > {tmp_path}/child; wait")
    why = await hooks._run(command, "finished", {}, DELIVERY)
    assert why == "it ran for more than 1 s"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5.0
    while is_alive(child) and time.monotonic() < deadline:  # noqa: ASYNC110 nobody tells of it
        await anyio.sleep(0.01)
    assert not is_alive(child)


@pytest.mark.parametrize(("text", "why"), [("exit 0", ""), ("cat > /dev/null", ""), ("exit 7", "it ended with 7")])
async def test_a_command_is_judged_by_its_code_whether_or_not_it_listens(tmp_path: Path, text: str, why: str) -> None:
    """Many a script only wants to know that something happened."""
    assert await hooks._run(script(tmp_path, text), "finished", {"why": "x" * 500}, DELIVERY) == why
