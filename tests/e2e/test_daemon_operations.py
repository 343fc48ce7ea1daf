"""The daemon among others: hooks, systemd, several subscriptions, the files that ship with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from e2e.daemon import Daemon, csv, daemon, drop, ended, people, report_of, served
from e2e.shop import quick, rows_received, shop
from packaging.requirements import Requirement

from orchestrator.daemon.deliveries import Deliveries
from orchestrator.daemon.overview import LOADS_SHOWN
from orchestrator.simulator.faults import Scripted
from orchestrator.simulator.http import SimulatorServer

ROOT = Path(__file__).parent.parent.parent
HOOK = """#!/bin/sh
{ printf '%s ' "$ORCHESTRATOR_EVENT"; cat; echo; env | grep -c -i secret; } >> told; true
"""


class _Listener(BaseHTTPRequestHandler):
    def __init__(self, told: list[dict[str, Any]], statuses: list[int], *arguments: Any) -> None:
        self._told, self._statuses = told, statuses
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self._statuses.pop(0) if self._statuses else 204
        if status == 204:
            self._told.append(json.loads(body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """An address, what it was told, and what it is to answer first."""
    told: list[dict[str, Any]] = []
    statuses: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Listener, told, statuses))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret-path", told, statuses
    server.shutdown()
    server.server_close()


def test_a_command_and_an_address_are_told_of_what_ended(
    tmp_path: Path, listener: tuple[str, list[dict[str, Any]], list[int]]
) -> None:
    """Somebody waits for it; and who is told gets neither a secret nor a row."""
    url, told, statuses = listener
    statuses.append(503)
    (tmp_path / "hook").write_text(HOOK)
    (tmp_path / "hook").chmod(0o700)
    hooks = {"ORCHESTRATOR_DAEMON__HOOK_COMMAND": str(tmp_path / "hook"), "ORCHESTRATOR_DAEMON__HOOK_URL": url}
    with shop(tmp_path, quick()) as market, daemon(market, **hooks) as one:
        drop(tmp_path / "inbox", "good.csv", people("good", 20, bad=1))
        drop(tmp_path / "inbox", "bad.csv", [])
        one.until(lambda: len(told) == 2 and len(one.said("hook.told")) == 4)
        assert one.end() == 143
    assert {(event["name"], event["event"], event["exit_code"]) for event in told} == {
        ("good.csv", "finished", 3),
        ("bad.csv", "failed", 65),
    }
    good = next(event for event in told if event["name"] == "good.csv")
    assert good["totals"]["imported"] == 19
    lines = (tmp_path / "told").read_text().splitlines()
    assert {line.split()[0] for line in lines if line[0].isalpha()} == {"finished", "failed"}
    assert {line for line in lines if line.isdigit()} == {"0"}, "no secret in its environment"
    assert "good0@example.com" not in json.dumps(told) + "".join(one.text)
    assert [line["why"] for line in one.said("hook.failed")] == ["HTTP 503"]
    assert "secret-path" not in "".join(one.text)


def test_what_was_not_told_is_told_by_the_next_daemon(
    tmp_path: Path, listener: tuple[str, list[dict[str, Any]], list[int]]
) -> None:
    """At least once, also when the machine dies in between."""
    url, told, statuses = listener
    statuses += [500] * 20
    with shop(tmp_path, quick()) as market:
        with daemon(market, ORCHESTRATOR_DAEMON__HOOK_URL=url) as one:
            drop(tmp_path / "inbox", "leads.csv", people("again", 20))
            one.until(lambda: one.said("hook.failed"))
            one.kill()
        statuses.clear()
        with daemon(market, ORCHESTRATOR_DAEMON__HOOK_URL=url) as one:
            one.until(lambda: told)
            one.until(lambda: not ended(tmp_path / "done")["leads.csv"]["to_tell"])
            assert one.end() == 143
        with daemon(market, ORCHESTRATOR_DAEMON__HOOK_URL=url) as one:
            assert one.end() == 143
    assert [event["name"] for event in told] == ["leads.csv"]


def test_however_much_was_not_told_is_told_by_the_next_daemon(
    tmp_path: Path, listener: tuple[str, list[dict[str, Any]], list[int]]
) -> None:
    """Whoever listens was away for hours: beyond the two hundred loads that the page shows, nobody was told."""
    url, told, _ = listener
    deliveries = Deliveries(tmp_path / "work", tmp_path / "done", tmp_path / "failed")
    for folder in (deliveries.work, deliveries.done, deliveries.failed):
        folder.mkdir()
    names = [f"{number}.csv" for number in range(LOADS_SHOWN + 5)]
    for number, name in enumerate(names):
        at = time.time() - 1_000 + number
        deliveries.end(deliveries.begin(name, at, "open"), "failed", at, exit_code=65)
    with shop(tmp_path, quick()) as market, daemon(market, ORCHESTRATOR_DAEMON__HOOK_URL=url) as one:
        one.until(lambda: len(told) == len(names))
        assert one.end() == 143
    assert [event["name"] for event in told] == names, "in the order in which they ended"


def test_a_load_that_does_not_come_forward_is_told_of_once(
    tmp_path: Path, listener: tuple[str, list[dict[str, Any]], list[int]]
) -> None:
    """Somebody else fills Marketo's queue all night."""
    url, told, _ = listener
    hooks = {"ORCHESTRATOR_DAEMON__HOOK_URL": url, "ORCHESTRATOR_DAEMON__WAITING_AFTER": "1.0"}
    with shop(tmp_path, quick()) as market, daemon(market, **hooks) as one:
        market.simulator.occupy(10)
        drop(tmp_path / "inbox", "leads.csv", people("stuck", 20))
        one.until(lambda: told)
        time.sleep(2.0)  # twice as long again: it is told once
        assert [event["event"] for event in told] == ["waiting"]
        market.simulator.release(10)
        one.until(lambda: len(told) == 2)
        assert [event["event"] for event in told] == ["waiting", "finished"]
        assert one.end() == 143


def test_a_hook_that_hangs_or_is_not_there_does_not_keep_loads_waiting(tmp_path: Path) -> None:
    """It is somebody else's program."""
    with shop(tmp_path, quick()) as market:
        with daemon(market, ORCHESTRATOR_DAEMON__HOOK_COMMAND="sleep 1000") as one:
            for name in ("1.csv", "2.csv"):
                drop(tmp_path / "inbox", name, people(name, 20))
            one.until(lambda: len(ended(tmp_path / "done")) == 2)
            assert one.end() == 143
        with daemon(market, ORCHESTRATOR_DAEMON__HOOK_COMMAND="/no/such/program") as one:
            one.until(lambda: one.said("hook.failed"))
            assert one.end() == 143


@pytest.mark.parametrize("command", [" ", "tell 'loud"])
def test_a_hook_that_names_no_program_is_refused(tmp_path: Path, command: str) -> None:
    """It was the end of the daemon when the first event was told, and of the next daemon."""
    config = tmp_path / "config.toml"
    config.write_text("[daemon]\n")
    config.chmod(0o600)
    with shop(tmp_path, quick()) as market, daemon(market) as one:
        config.write_text(f'[daemon]\nhook_command = "{command}"\n')
        one.signal(signal.SIGHUP)
        one.until(lambda: one.said("config.refused"))
        assert "hook_command" in one.said("config.refused")[0]["why"]
        drop(tmp_path / "inbox", "leads.csv", people("a", 10))
        one.until(lambda: ended(tmp_path / "done"))
        assert one.end() == 143


def test_systemd_hears_of_the_start_of_life_and_of_the_end(tmp_path: Path) -> None:
    """Type=notify: what depends on the daemon begins when it takes files; one that hangs is restarted."""
    told: list[str] = []
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear, shop(tmp_path, quick()) as market:
        ear.bind(address)
        ear.settimeout(0.2)
        with daemon(market, NOTIFY_SOCKET=address, WATCHDOG_USEC="1500000") as one:
            deadline = time.monotonic() + 20
            while "\n".join(told).count("WATCHDOG=1") < 3:
                assert time.monotonic() < deadline, told
                try:
                    told += ear.recv(4096).decode().splitlines()
                except TimeoutError:
                    continue
            assert one.end() == 143
        while "STOPPING=1" not in told:
            told += ear.recv(4096).decode().splitlines()
    assert told[0] == "READY=1"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_s28_the_unit_is_exposed_as_little_as_can_be() -> None:
    """The scale is times ten: 20 is an exposure of 2.0."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "deploy/orchestrator.service"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "Unknown" in told.stderr or "unrecognized" in told.stderr:
        pytest.skip("this systemd cannot look at a unit that is not installed")
    assert told.returncode == 0, told.stdout[-300:] + told.stderr


def test_the_unit_says_what_the_daemon_does() -> None:
    """Its exit codes and its command are ours."""
    unit = (ROOT / "deploy" / "orchestrator.service").read_text()
    for line in (
        "Type=notify",
        "SuccessExitStatus=130 143",
        "RestartPreventExitStatus=78",
        "LimitCORE=0",
        "UMask=0077",
    ):
        assert line in unit.splitlines()
    assert re.search(r"^ExecStart=\S+/orchestrator daemon --config ", unit, re.MULTILINE)


def test_the_container_file_takes_the_versions_of_the_lock() -> None:
    """What is shipped is what was tested."""
    text = (ROOT / "deploy" / "Containerfile").read_text()
    build, run = re.findall(r"^RUN (.+(?:\\\n.+)*)$", text, re.MULTILINE)
    assert "--require-hashes --only-binary :all: -r requirements.lock " in build
    assert "--require-hashes --only-binary :all: -r /tmp/requirements.lock " in run
    assert "COPY deploy/requirements.lock /tmp/\n" in text
    pins = re.findall(r"^\w.*(?= \\$)", (ROOT / "deploy" / "requirements.lock").read_text(), re.MULTILINE)
    versions = [Requirement(pin) for pin in pins]
    for python in ("3.11", "3.12", "3.13"):
        here = {"python_version": python, "python_full_version": f"{python}.1"}
        names = [one.name for one in versions if one.marker is None or one.marker.evaluate(here)]
        assert "httpx" in names
        assert len(names) == len(set(names)), "two versions of one package cannot both be had"
    assert all(str(one.specifier).startswith("==") for one in versions)
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)
    for path in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / one).exists() for one in path.split())


def test_two_subscriptions_have_a_queue_each(tmp_path: Path) -> None:
    """Ten places are ten places of each; a file says which one it goes to."""
    slow = quick(seconds_per_job=0.2, keep_bodies=True)
    with shop(tmp_path, slow) as market, SimulatorServer(slow) as other:
        (tmp_path / "secret").write_text("demo-secret\n")
        (tmp_path / "secret").chmod(0o600)
        (tmp_path / "config.toml").write_text(
            f"[subscriptions.emea.marketo]\nbase_url = '{other.base_url}'\nclient_id = 'demo-client'\n"
            "client_secret_file = 'secret'\n"
        )
        emea = tmp_path / "inbox" / "emea"
        emea.mkdir(parents=True)
        (emea / "load.toml").write_text("subscription = 'emea'\n")
        drop(emea, "there.csv", people("there", 4_000))
        drop(tmp_path / "inbox", "here.csv", people("here", 4_000))
        with served(market) as (one, client):
            queues = {queue["subscription"] for queue in client.http.get("/api/v1/status").json()["queues"]}
            assert queues == {"emea", market.simulator.base_url.removeprefix("http://")}
            one.until(lambda: len(ended(tmp_path / "done")) == 2)
            loads = client.http.get("/api/v1/loads").json()["loads"]
            assert {load["subscription"] for load in loads if load["name"] == "there.csv"} == {"emea"}
            assert 'subscription="emea"' in client.http.get("/metrics").text
            unknown = client.http.post("/api/v1/loads", json={"upload": "x", "settings": {"subscription": "apac"}})
            assert unknown.status_code == 422
            assert one.end() == 143
        for simulator, name in ((other, "there"), (market.simulator, "here")):
            rows = rows_received(simulator)
            assert len(rows) == 4_000
            assert all(row[0].startswith(name) for row in rows)
            assert simulator.truth()["most_ours"] <= 10


def test_a_load_whose_subscription_is_gone_waits_until_it_is_configured_again(tmp_path: Path) -> None:
    """Somebody saved half a configuration: that is no reason to give files up."""
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        whole = f"[subscriptions.emea.marketo]\nbase_url = '{market.simulator.base_url}'\nclient_id = 'demo-client'\n"
        whole += "client_secret = 'demo-secret'\n"
        config = tmp_path / "config.toml"
        config.write_text(whole)
        config.chmod(0o600)
        (tmp_path / "inbox").mkdir()
        (tmp_path / "inbox" / "load.toml").write_text("subscription = 'emea'\n")
        drop(tmp_path / "inbox", "leads.csv", people("gone", 3_000))
        with daemon(market) as one:
            one.until(lambda: one.said("batch.accepted"))
            assert one.end() == 143
        config.write_text("[import]\nlookup_field = 'email'\n")
        with daemon(market) as one:
            one.until(lambda: one.said("load.put_off"))
            assert "'emea' is not configured" in one.said("load.put_off")[0]["why"]
            config.write_text(whole)
            one.signal(signal.SIGHUP)
            one.until(lambda: ended(tmp_path / "done"))
            assert one.end() == 143
        (delivery,) = ended(tmp_path / "done").values()
        assert delivery["result"]["totals"]["imported"] == 3_000


def test_loads_of_one_process_share_the_calls_at_a_time(tmp_path: Path) -> None:
    """Marketo allows ten for everybody; twenty loads with five each would be a hundred."""
    settings = quick(seconds_per_job=0.05, calls_at_once=5)
    with shop(tmp_path, settings) as market, daemon(market) as one:
        for number in range(12):
            drop(tmp_path / "inbox", f"{number}.csv", people(f"at{number}x", 1_000))
        one.until(lambda: len(ended(tmp_path / "done")) == 12)
        assert one.end() == 143
    assert market.simulator.truth()["violations"] == []
    for delivery in ended(tmp_path / "done").values():
        assert report_of(market, delivery).json["totals"]["imported"] == 1_000


def test_a_subscription_that_is_configured_later_has_its_calls_shared_as_well(tmp_path: Path) -> None:
    """SIGHUP makes it usable; its loads would each make as many calls at a time as all may."""
    with shop(tmp_path, quick()) as market, SimulatorServer(quick(calls_at_once=3)) as other:
        config = tmp_path / "config.toml"
        config.write_text("")
        config.chmod(0o600)
        for kind in ("create", "status"):
            other.model.faults.scripted.append(Scripted("slow", on=kind, times=100))
        with daemon(market, ORCHESTRATOR_LIMITS__CONCURRENT_CALLS="1") as one:
            config.write_text(
                f"[subscriptions.emea.marketo]\nbase_url = '{other.base_url}'\nclient_id = 'demo-client'\n"
                "client_secret = 'demo-secret'\n"
            )
            one.signal(signal.SIGHUP)
            one.until(lambda: one.said("config.reloaded"))
            (tmp_path / "inbox" / "load.toml").write_text("subscription = 'emea'\n")
            for number in range(12):
                drop(tmp_path / "inbox", f"{number}.csv", people(f"late{number}x", 20))
            one.until(lambda: len(ended(tmp_path / "done")) == 12)
            assert one.end() == 143
        assert other.truth()["violations"] == []


def test_what_is_wrong_with_a_file_of_many_subscriptions_is_said_once(tmp_path: Path) -> None:
    """The configuration is read for each of them."""
    with shop(tmp_path, quick()) as market:
        config = tmp_path / "config.toml"
        for name in ("emea", "apac"):
            with config.open("a") as file:
                file.write(f"[subscriptions.{name}.marketo]\nbase_url = '{market.simulator.base_url}'\n")
                file.write("client_id = 'demo-client'\nclient_secret = 'demo-secret'\n")
        config.chmod(0o644)
        with daemon(market) as one:
            assert one.end() == 143
        assert len([line for line in one.text if "holds a secret" in line]) == 1


def test_loads_of_one_subscription_do_not_wait_for_the_queue_of_another(tmp_path: Path) -> None:
    """Somebody fills the queue of one all day: as many loads of it as may run at a time stand still."""
    with shop(tmp_path, quick()) as market, SimulatorServer(quick()) as other:
        market.simulator.occupy(10)
        config = tmp_path / "config.toml"
        config.write_text(
            f"[subscriptions.emea.marketo]\nbase_url = '{other.base_url}'\nclient_id = 'demo-client'\n"
            "client_secret = 'demo-secret'\n"
        )
        config.chmod(0o600)
        with daemon(market, ORCHESTRATOR_DAEMON__LOADS_AT_ONCE="2") as one:
            for name in ("1.csv", "2.csv", "3.csv"):
                drop(tmp_path / "inbox", name, people(f"here{name[0]}x", 20))
            one.until(lambda: len(one.said("load.planned")) == 2 and len(one.said("file.taken")) == 3)
            (tmp_path / "inbox" / "emea").mkdir()
            (tmp_path / "inbox" / "emea" / "load.toml").write_text("subscription = 'emea'\n")
            drop(tmp_path / "inbox" / "emea", "there.csv", people("there", 20))
            one.until(lambda: "there.csv" in ended(tmp_path / "done"))
            assert len(one.said("load.planned")) == 3, "no more of one subscription than may run at a time"
            market.simulator.release(10)
            one.until(lambda: len(ended(tmp_path / "done")) == 4)
            assert one.end() == 143


def test_what_alerts_count_is_there_before_it_happens(tmp_path: Path) -> None:
    """Prometheus sees no increase in what appears with its first 1: the first file that fails would alert nobody."""
    alerts = (ROOT / "docs" / "operations.md").read_text().partition("## What alerts mean")[2].partition("\n## ")[0]
    counted = set(re.findall(r"increase\((orchestrator_\w+)\{", alerts))
    assert counted
    (tmp_path / "inbox").mkdir()
    with shop(tmp_path, quick()) as market, served(market) as (one, client):
        before = client.http.get("/metrics").text
        drop(tmp_path / "inbox", "empty.csv", [])
        drop(tmp_path / "inbox", "leads.csv", people("a", 20, bad=1))
        one.until(lambda: ended(tmp_path / "failed") and ended(tmp_path / "done"))
        after = client.http.get("/metrics").text
        assert one.end() == 143

    def samples(text: str) -> dict[str, float]:
        found = re.findall(r"^((\w+)\{.*\}) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, family, value in found if family in counted}

    assert set(samples(before).values()) == {0.0}
    assert set(samples(after)) == set(samples(before)), "nothing appears with its first 1"
    grown = {name for name, value in samples(after).items() if value}
    assert {'orchestrator_loads_total{exit_code="65"}', 'orchestrator_rows_total{outcome="failed"}'} <= grown


def test_the_same_content_is_loaded_once_unless_it_is_forced(tmp_path: Path) -> None:
    """A sender that sends twice does not mean it; one that says force does."""
    with shop(tmp_path, quick(keep_bodies=True)) as market, served(market) as (one, client):
        content = csv(people("same", 30))
        for settings in ({}, {}, {"force": True}):
            id = client.create(settings, upload=client.upload("same.csv", content))
            one.until(lambda id=id: client.load(id)["ended_at"] is not None)  # type: ignore[misc]
            load = client.load(id)
            assert (load["imported"], load["exit_code"]) == (30, 0)
        assert len(rows_received(market.simulator)) == 60
        whys = [load["why"] for load in client.http.get("/api/v1/loads").json()["loads"]]
        assert sum("had been loaded before" in why for why in whys) == 1


def test_a_file_that_was_loaded_can_be_reported_and_retried_by_the_command_line(tmp_path: Path) -> None:
    """The ledger knows where the file went."""
    with shop(tmp_path, quick()) as market, daemon(market) as one:
        drop(tmp_path / "inbox", "leads.csv", people("later", 30, bad=2))
        one.until(lambda: ended(tmp_path / "done"))
        (delivery,) = ended(tmp_path / "done").values()
        one.until(lambda: "done" in json.loads(market.run("status", "--json").out.splitlines()[0])["source"])
        assert market.run("report", delivery["load_id"]).code == 3
        assert market.run("retry", delivery["load_id"], "--reasons", "all", "--dry-run").code == 0
        assert one.end() == 143


def test_it_costs_next_to_nothing_while_there_is_nothing_to_do(tmp_path: Path) -> None:
    """It runs for months: no calls, and a processor that sleeps."""
    with shop(tmp_path, quick()) as market, daemon(market, ORCHESTRATOR_DAEMON__SCAN_INTERVAL="1.0") as one:
        time.sleep(1.0)
        before = _cpu_s(one)
        time.sleep(4.0)
        assert _cpu_s(one) - before < 0.12
        assert sum(market.simulator.model.calls.values()) == 0
        assert one.end() == 143


def _cpu_s(one: Daemon) -> float:
    fields = Path(f"/proc/{one.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
