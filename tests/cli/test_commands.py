"""What a person sees when we are wrong ourselves."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from orchestrator import library
from orchestrator.cli.main import main


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
