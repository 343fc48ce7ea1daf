"""Real processes against a real server: the command line in a folder of its own, the simulator on loopback."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.simulator.http import SimulatorServer
from orchestrator.simulator.settings import Settings

FAST: Mapping[str, str] = {
    "ORCHESTRATOR_MARKETO__CLIENT_ID": "demo-client",
    "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "demo-secret",
    "ORCHESTRATOR_POLLING__MIN_INTERVAL": "0.05",
    "ORCHESTRATOR_POLLING__MAX_INTERVAL": "0.4",
    "ORCHESTRATOR_LIMITS__CALLS_PER_20S": "100000",
    "ORCHESTRATOR_LIMITS__CALLS_PER_DAY": "1000000",
    "ORCHESTRATOR_LIMITS__CHUNK_BYTES": "20000",
}


def quick(**changes: Any) -> Settings:
    """A simulator that can be driven hard."""
    defaults: dict[str, Any] = {
        "rows_per_second": 20_000.0,
        "seconds_per_job": 0.02,
        "calls_per_20s": 1_000_000,
        "calls_per_day": 10_000_000,
        "min_poll_interval": 0.0,
    }
    return Settings(**{**defaults, **changes})


class Shop:
    """One folder to run commands in, and the simulator they talk to."""

    def __init__(self, folder: Path, simulator: SimulatorServer) -> None:
        self.folder, self.simulator = folder, simulator
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")},
            **FAST,
            "ORCHESTRATOR_MARKETO__BASE_URL": simulator.base_url,
            "NO_COLOR": "1",
        }

    def start(self, *arguments: str, stdin: int | None = None, **environment: str) -> subprocess.Popen[str]:
        """A command under way."""
        return self._start("-m", "orchestrator", *arguments, stdin=stdin, **environment)

    def start_script(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A script under way, as the command would be."""
        return self._start(script, *arguments, stdin=None, **environment)

    def _start(self, *arguments: str, stdin: int | None, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 120.0, **environment: str) -> Finished:
        """A command run to its end."""
        process = self.start(*arguments, stdin=None, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
        return Finished(process.returncode, out, err)

    def report(self) -> Report:
        """The one report in the folder."""
        (folder,) = (self.folder / "reports").iterdir()
        return Report(folder)


class Finished:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def summary(self) -> dict[str, Any]:
        """The last JSON line."""
        last = json.loads(self.out.splitlines()[-1])
        assert last["type"] == "summary"
        return dict(last)

    def __repr__(self) -> str:
        return f"code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Report:
    """A report folder, read back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        lines = (folder / "report.jsonl").read_bytes().splitlines()  # of text it would also cut at U+2028
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def judged(self) -> list[tuple[str, int, str]]:
        """(kind, source row, reason) of every located row, in the report's order."""
        return [(row["kind"], row["source_row"], row["reason"]) for row in self.rows]


@contextmanager
def shop(folder: Path, settings: Settings | None = None, bodies: Path | None = None) -> Iterator[Shop]:
    """A folder and a simulator, for as long as the block lasts."""
    with SimulatorServer(settings or quick(), bodies=bodies) as simulator:
        yield Shop(folder, simulator)


def rows_of(path: Path, delimiter: str = ",") -> list[list[str]]:
    """All rows of a file, as Python's csv reads them, the header included."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.reader(file, delimiter=delimiter) if row]


def rows_received(simulator: SimulatorServer, delimiter: str = ",") -> list[list[str]]:
    """The rows of every accepted file that was kept, in the order of acceptance."""
    rows: list[list[str]] = []
    with simulator.lock:
        bodies = [job.body for job in simulator.model.jobs.values()]
    for body in bodies:
        assert body is not None
        rows += list(csv.reader(io.StringIO(body.decode(), newline=""), delimiter=delimiter))[1:]
    return rows


def expected(simulator: SimulatorServer, source: Path) -> list[tuple[str, int, str]]:
    """What the report must list: the simulator's own judgement of each row of the source, by its e-mail or content."""
    numbers: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows_of(source)[1:], 1):
        numbers.setdefault(tuple(row), []).append(number)
    found: list[tuple[str, int, str]] = []
    for batch in simulator.truth()["batches"]:
        if batch["status"] == "Complete":
            for kind, key in (("failure", "failed"), ("warning", "warned")):
                for judged in batch[key]:
                    found.append((kind, numbers[tuple(judged["cells"])].pop(0), judged["reason"]))
    return sorted(found, key=lambda item: (item[1], item[0]))
