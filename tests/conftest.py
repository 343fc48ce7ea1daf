"""Lets tests import from each other's folders (`from simulation.virtual import run`); says what was tried in all."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup every process that a test starts would be deaf to it

settings.register_profile("the same inputs each time", derandomize=True)
if os.environ.get("CI"):  # a commit is judged by what it changed; new inputs are for whoever runs the tests by hand
    settings.load_profile("the same inputs each time")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Totals of what tests have recorded: seeds, crash points, kills, ..."""
    tried: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call":
            tried.update({name: value for name, value in report.user_properties if isinstance(value, int)})
    if tried:
        terminalreporter.write_line("tried: " + ", ".join(f"{count:,} {name}" for name, count in sorted(tried.items())))
