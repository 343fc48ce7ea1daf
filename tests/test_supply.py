"""The rules S30 to S33 of the security list: what is installed, what is built, what is looked at before it is."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = [ROOT / "requirements.lock", *sorted(ROOT.glob("[a-z]*/requirements.lock"))]


def entries(lock: Path) -> dict[str, set[str]]:
    """The hashes of every `name==version` of a lock."""
    parts = re.split(r"\n(?=\S)", lock.read_text().strip())
    return {part.split()[0]: set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", part)) for part in parts}


def test_s30_every_package_is_pinned_by_hash_and_none_runs_code_to_be_installed() -> None:
    """A package that was replaced must not be installed, nor may any run a script of its own meanwhile."""
    everything = entries(ROOT / "requirements.lock")
    assert len(LOCKS) == 4
    for lock in LOCKS:
        pinned = entries(lock)
        assert len(pinned) > 20
        for pin, hashes in pinned.items():
            assert re.fullmatch(r"[a-z0-9._-]+==\S+", pin), pin
            assert hashes, pin
            assert hashes == everything.get(pin, hashes), pin
    assert set(entries(ROOT / "deploy" / "requirements.lock")) < set(everything), "what is shipped is what is tested"
    lines = [
        *(ROOT / "tools" / "environment.sh").read_text().splitlines(),
        *(ROOT / "Makefile").read_text().splitlines(),
        *(ROOT / "docs" / "operations.md").read_text().splitlines(),
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


def bill(target: Path, seed: int = 0) -> dict[str, Any]:
    environment = {**os.environ, "TZ": f"UTC+{seed}", "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "tools/sbom.py", str(target)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    document: dict[str, Any] = json.loads(target.read_text())
    return document


def schema(uri: str) -> Any:
    """The schema of CycloneDX, and those that it refers to."""
    schemas = importlib.resources.files("cyclonedx.schema._res")
    return json.loads((schemas / uri.rpartition("/")[2]).read_text("utf-8"))


def test_s31_the_list_of_parts_is_cyclonedx_and_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    """Tools of others read it, and two of them can be compared."""
    document = bill(tmp_path / "one.json", 1)
    bill(tmp_path / "two.json", 2)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert "://" not in (tmp_path / "one.json").read_text()
    top = schema("bom-1.6.SNAPSHOT.schema.json")
    valid = jsonschema_rs.Draft7Validator(top, retriever=schema, validate_formats=True)
    valid.validate(document)
    part = document["components"][0]
    for wrong in ({"colour": "red"}, {"scope": "some"}, {"hashes": [{"alg": "SHA-256", "content": "0"}]}):
        assert not valid.is_valid({**document, "components": [part | wrong]}), wrong


def test_s31_the_list_has_what_is_installed_for_a_user_and_nothing_else(tmp_path: Path) -> None:
    """Whoever hears of a weakness asks the list whether it is theirs; the packages' own words are the other witness."""
    document = bill(tmp_path / "sbom.json")
    parts = {f"{one['name']}=={one['version']}": one for one in document["components"]}
    assert set(parts) == set(entries(ROOT / "deploy" / "requirements.lock"))
    needs = {one["ref"]: set(one["dependsOn"]) for one in document["dependencies"]}
    assert set(needs) == {"marketo-orchestrator", *(one["bom-ref"] for one in parts.values())}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    formats = [*project["optional-dependencies"]["parquet"], *project["optional-dependencies"]["zstd"]]
    asked = {"marketo-orchestrator": [Requirement(one) for one in (*project["dependencies"], *formats)]}
    everything = entries(ROOT / "requirements.lock")
    for pin, part in parts.items():
        assert {one["content"] for one in part["hashes"]} == everything[pin]
        assert part["purl"] == part["bom-ref"] == f"pkg:pypi/{pin.replace('==', '@')}"
        here = next(iter(metadata.distributions(name=part["name"])), None)
        if here and here.version == part["version"]:
            assert part["licenses"], pin
            asked[part["bom-ref"]] = [Requirement(one) for one in here.requires or ()]
    assert len(asked) > 20, "most are installed here"
    for ref, requirements in asked.items():
        listed = {one.removeprefix("pkg:pypi/").split("@")[0] for one in needs[ref]}
        assert listed <= {one.name.lower().replace("_", "-") for one in requirements}, ref
        for one in requirements:
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                assert one.name.lower().replace("_", "-") in listed, ref

    required, todo = set[str](), [Requirement(one).name for one in project["dependencies"]]
    while todo:
        name = todo.pop()
        found = {one["bom-ref"] for one in parts.values() if one["name"] == name} - required
        required |= found
        todo += [ref.removeprefix("pkg:pypi/").split("@")[0] for one in found for ref in needs[one]]
    assert {one["bom-ref"] for one in parts.values() if one["scope"] == "required"} == required
    assert {one["name"] for one in parts.values() if one["scope"] == "optional"} == {"duckdb", "backports-zstd"}


CANARY = "jinja2==2.11.2"


@contextmanager
def advisories(known: dict[str, str], status: int = 200) -> Iterator[tuple[str, set[str]]]:
    """A service that answers as OSV does, with a weakness of that name for these pins: its address, what was asked."""
    asked: set[str] = set()

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = query["package"]["name"], query["version"]
            asked.add(f"{name}=={version}")
            answer: dict[str, Any] = {}
            if weakness := known.get(f"{name}=={version}"):
                package = {"name": name, "ecosystem": "PyPI"}
                ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
                affected = [{"package": package, "ranges": ranges}]
                answer = {"vulns": [{"id": weakness, "summary": "weak", "affected": affected}]}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit(address: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/audit.py", "--osv-url", address, "--timeout", "300", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_s31_the_audit_asks_about_every_version_of_every_lock_and_tells_what_is_known() -> None:
    """Also of what another Python or system would install: the lock is for all of them."""
    pins = {pin for lock in LOCKS for pin in entries(lock)}
    with advisories({CANARY: "PYSEC-2021-66"}) as (address, asked):
        told = audit(address)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"{len(pins)} versions asked about, 0 with known weaknesses\n"
    assert asked == pins | {CANARY}

    (colorama,) = (pin for pin in pins if pin.startswith("colorama=="))  # which only Windows needs
    weak = {CANARY: "PYSEC-2021-66", colorama: "PYSEC-2026-1"}
    with advisories(weak) as (address, _):
        told = audit(address)
    assert told.returncode == 1
    assert told.stdout == (
        f"{colorama}: PYSEC-2026-1, mended in 99.1\n{len(pins)} versions asked about, 1 with known weaknesses\n"
    )


@pytest.mark.parametrize("service", ["unreachable", "failing", "knows nothing", "not asked"])
def test_s31_an_audit_that_could_not_be_made_is_not_one_that_found_nothing(service: str) -> None:
    """Silence must not look like safety, to a person or to a timer."""
    if service == "unreachable":
        with socket.socket() as nobody:  # has a port, and does not listen there
            nobody.bind(("127.0.0.1", 0))
            told = audit(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/query")
    else:
        with advisories({}, status=503 if service == "failing" else 200) as (address, _):
            told = audit(address, *(["--dry-run"] if service == "not asked" else []))
    assert (told.returncode, told.stdout) == (69, "")
    assert told.stderr.startswith("NOT AUDITED, nothing is known of the ")
    why = {"unreachable": "refused", "failing": "503", "knows nothing": CANARY, "not asked": "no answer about"}
    assert why[service] in told.stderr


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
