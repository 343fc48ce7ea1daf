"""The rules S30 to S33 of the security list: what is installed, what is built, what is looked at before it is."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_s30_every_package_is_pinned_by_hash_and_none_runs_code_to_be_installed() -> None:
    """A package that was replaced must not be installed, nor may any run a script of its own meanwhile."""
    for lock in ("requirements.lock", "benchmarks/requirements.lock"):
        entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
        assert len(entries) > 20
        for entry in entries:
            assert re.match(r"[a-z0-9._-]+==\S+", entry), entry
            assert "--hash=sha256:" in entry, entry
    lines = [
        *(ROOT / "tools" / "environment.sh").read_text().splitlines(),
        *(ROOT / "Makefile").read_text().splitlines(),
    ]
    for line in (*lines, *(ROOT / "deploy" / "Containerfile").read_text().splitlines()):
        if re.search(r"pip install .*-r ", line):
            assert "--require-hashes" in line, line
            assert "--only-binary :all:" in line, line


def test_s31_what_is_built_twice_is_the_same(tmp_path: Path) -> None:
    """Then anybody can tell whether a package that is handed round was made from this source."""
    made: list[str] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        environment = {**os.environ, "TZ": f"UTC+{len(made)}", "PYTHONHASHSEED": str(len(made))}
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, env=environment, check=True, capture_output=True)
        (wheel,) = folder.iterdir()
        made.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert made[0] == made[1]


def test_s32_the_rules_against_dangerous_calls_are_on_for_the_whole_package() -> None:
    """eval, exec, pickle, shells, unchecked certificates, SQL out of pieces: `make check` finds them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lint = settings["tool"]["ruff"]["lint"]
    assert {"S", "ASYNC", "BLE"} <= set(lint["select"])
    assert not [rule for rule in lint["ignore"] if rule.startswith("S") and rule != "S101"]
    lenient = {path: rules for path, rules in lint["per-file-ignores"].items() if path.startswith("orchestrator/")}
    found = {path for path, rules in lenient.items() if any(rule.startswith("S") for rule in rules)}
    assert {rule for rules in lenient.values() for rule in rules if rule.startswith("S")} <= {"S608"}, lenient
    assert found <= {"orchestrator/adapters/ledger.py", "orchestrator/adapters/salvage.py", *TABLES}
    assert settings["tool"]["mypy"]["strict"] is True
    for path in (ROOT / "orchestrator").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"\bimport pickle|\bshell=True|\bverify=False|\byaml\b", text), path


TABLES = ("orchestrator/adapters/sources/tables.py",)


def test_s33_every_rule_is_listed_with_what_shows_it() -> None:
    """A rule that nobody looks at any more is none."""
    promises = (ROOT / "docs" / "promises.md").read_text()
    for number in range(1, 34):
        (row,) = re.findall(rf"^\| (?:S\d+, )?S{number}(?:, S\d+)? \|.*$", promises, re.MULTILINE)
        assert re.search(r"`(tests|deploy|tools|Makefile)", row), row
