"""What a person sees when we are wrong ourselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from orchestrator import library
from orchestrator.cli.main import main
from orchestrator.cli.progress import plain_line
from orchestrator.core.model import LoadId, State
from orchestrator.runner.loop import Progress


def test_a_line_of_progress_says_only_what_is_known() -> None:
    """A load of which every row is rejected has no chunk, and what is nearly done is not done."""
    nothing = Progress(LoadId("a"), "leads.csv", 1.0, 0.0, 1, 0, 0, 0, 0, 0, 0, {}, 0, 10, 0, None, "")
    assert plain_line(nothing) == "0 of 1 rows; slots 0/10"
    soon = replace(nothing, chunks=1, chunks_by_state={State.QUEUED: 1}, slots_used=1, eta_s=0.3)
    assert plain_line(soon) == "0 of 1 rows; chunks: 1 queued; slots 1/10; about 1 s left"


def test_a_fault_of_ours_is_one_line_and_70_and_quotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback helps nobody who cannot change the code, and an exception's text may hold a lead."""
    monkeypatch.chdir(tmp_path)
    with patch.object(library, "status", side_effect=ZeroDivisionError("ann@example.com")):
        code = main(["status", "--json"])
    out, err = capsys.readouterr()
    assert code == 70
    assert err.splitlines() == ["internal fault: ZeroDivisionError (-v shows where); please report it"]
    assert "ann@example.com" not in out
    assert json.loads(out.splitlines()[-1]) == {"type": "summary", "schema": 1, "exit_code": 70}
