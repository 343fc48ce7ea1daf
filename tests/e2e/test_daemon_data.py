"""The security list of the daemon, rule by rule: secrets, personal data, what goes out, what comes in as a file.

What is asked over HTTP is in `test_daemon_security`.
"""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.daemon import Daemon, csv, daemon, drop, ended, people, report_of, served
from e2e.shop import quick, shop

from orchestrator.simulator.http import SimulatorServer
from orchestrator.simulator.model import Request

SECRET = "secret-of-these-tests-0123456789"
CANARY = "canary.lead@secret-customer.example"


def configured(folder: Path, *lines: str) -> Path:
    path = folder / "config.toml"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    path.chmod(0o600)
    return path


def written(folder: Path) -> str:
    """Everything that a daemon left on the disk, but sources and reports."""
    kept = [path for path in folder.rglob("*") if path.is_file() and "reports" not in path.parts]
    return "".join(path.read_bytes().decode("latin-1") for path in kept if path.suffix != ".csv")


def test_s1_the_secret_and_the_token_are_in_no_address(tmp_path: Path) -> None:
    """Addresses are in the logs of every proxy on the way."""
    with shop(tmp_path, quick()) as market:
        targets: list[str] = []
        listen_in(market.simulator, lambda request: targets.append(request.target))
        with daemon(market) as one:
            drop(tmp_path / "inbox", "leads.csv", people("s1", 300, bad=5))
            one.until(lambda: ended(tmp_path / "done"))
        assert any("/identity/oauth/token" in target for target in targets)
        assert not [target for target in targets if "secret" in target or "token=" in target]
        assert market.simulator.truth()["violations"] == []


def listen_in(simulator: SimulatorServer, heard: Callable[[Request], None]) -> None:
    """Hear of every request before the simulator answers it."""
    handle = simulator.model.handle

    def heard_first(request: Request, now: float) -> Any:
        heard(request)
        return handle(request, now)

    simulator.model.handle = heard_first  # type: ignore[method-assign]


def test_s2_the_secret_comes_from_a_file_and_never_from_the_command_line(tmp_path: Path) -> None:
    """Everybody on a machine can read command lines, and each other's environments under the same user."""
    with shop(tmp_path, quick(clients={"demo-client": SECRET})) as market:
        told = market.run("daemon", "--as-root", "--client-secret", SECRET)
        assert told.code == 2, told
        del market.environment["ORCHESTRATOR_MARKETO__CLIENT_SECRET"]
        (tmp_path / "secret").write_text(SECRET)
        (tmp_path / "secret").chmod(0o600)
        configured(tmp_path, "[marketo]", "client_secret_file = 'secret'")
        with daemon(market, "--config", "config.toml") as one:
            drop(tmp_path / "inbox", "leads.csv", people("s2", 30))
            one.until(lambda: ended(tmp_path / "done"))
            for name in ("cmdline", "environ"):
                assert SECRET not in Path(f"/proc/{one.process.pid}/{name}").read_bytes().decode()
            assert "others may read it" not in "".join(one.text)
        (tmp_path / "secret").chmod(0o644)
        with daemon(market, "--config", "config.toml") as one:
            one.until(lambda: "others may read it (mode 0644)" in "".join(one.text))


def test_s6_a_daemon_that_dies_leaves_no_image_of_its_memory(tmp_path: Path) -> None:
    """Rows and secrets would be in it."""
    with shop(tmp_path, quick()) as market, daemon(market) as one:
        limits = Path(f"/proc/{one.process.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits
    assert "\nLimitCORE=0\n" in (Path(__file__).parents[2] / "deploy" / "orchestrator.service").read_text()


def test_s9_what_a_killed_daemon_had_half_of_is_gone_with_the_next(tmp_path: Path) -> None:
    """Half an upload and half an unpacked file hold leads, and nobody would ever look for them."""
    with shop(tmp_path, quick()) as market:
        with served(market) as (one, client):
            place = urlsplit(client.url)
            head = f"POST /api/v1/uploads?name=half.csv HTTP/1.1\r\nHost: {place.netloc}\r\n"
            head += f"Authorization: Bearer {client.token}\r\nContent-Type: application/octet-stream\r\n"
            with socket.create_connection((place.hostname or "", place.port or 0)) as sender:
                head += "Content-Length: 90000\r\n\r\n"
                sender.sendall(head.encode() + csv(people("half", 1_000)))
                one.until(lambda: any(path.stat().st_size for path in tmp_path.glob("work/*/upload.part")))
                packed = gzip.compress(csv(people("packed", 200_000)), compresslevel=1)
                (tmp_path / "inbox" / ".packed.csv.gz").write_bytes(packed)
                (tmp_path / "inbox" / ".packed.csv.gz").rename(tmp_path / "inbox" / "packed.csv.gz")
                (tmp_path / "inbox" / "packed.csv.gz.ready").touch()
                one.until(lambda: spools(tmp_path))
                one.kill()
        with daemon(market) as one:
            one.until(lambda: ended(tmp_path / "done"), patience_s=120)
            assert one.end() == 143
        assert ended(tmp_path / "done")["packed.csv.gz"]["result"]["totals"]["imported"] == 200_000
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".lock"]
    assert spools(tmp_path) == []


def spools(folder: Path) -> list[Path]:
    return [path for path in folder.glob(".orchestrator/ledger.db.spool/*") if path.is_file()]


def test_s11_a_report_that_is_downloaded_runs_no_formula(tmp_path: Path) -> None:
    """It is opened in a spreadsheet."""
    with shop(tmp_path, quick()) as market, served(market) as (one, client):
        rows = [f',"{start}cmd|calc"' for start in ("=", "+", "-", "@", "\t=")]
        id = client.create(upload=client.upload("=leads.csv", csv(rows)))
        one.until(lambda: client.load(id)["ended_at"])
        answer = client.http.get(f"/api/v1/loads/{id}/report/report.csv")
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.text.count("cmd|calc") == 5
        cells = re.findall(r'(?:^|,)"?([=+@\t\r-])', answer.text, re.MULTILINE)
        assert cells == []


def test_s12_what_marketo_says_of_a_row_may_quote_it_and_is_kept_like_a_row(tmp_path: Path) -> None:
    """Its reasons name addresses."""
    quoting = quick(transient_share=1.0, transient_tries=9, transient_reason=f"Email {CANARY} is not wanted")
    with shop(tmp_path, quoting) as market, served(market, "-v") as (one, client):
        drop(tmp_path / "inbox", "leads.csv", people("s12", 20))
        one.until(lambda: ended(tmp_path / "done"), patience_s=120)
        (delivery,) = ended(tmp_path / "done").values()
        told = [client.http.get(path).text for path in ("/api/v1/status", "/api/v1/loads", "/metrics", "/")]
        told += [client.http.get(f"/loads/{delivery['id']}").text]
        assert one.end() == 143
        assert {row[2] for row in report_of(market, delivery).judged()} == {f"Email {CANARY} is not wanted"}
    for text in (*told, *one.text, written(tmp_path)):
        assert CANARY not in text


ELSEWHERE = (
    "http://x.mktorest.com",
    "https://x.mktorest.com@evil.example",
    "http://127.0.0.1.nip.io",
    "http://169.254.169.254",
    "file:///etc/passwd",
)


def test_s13_an_address_that_could_carry_the_secret_elsewhere_is_refused_while_it_runs_too(tmp_path: Path) -> None:
    """SIGHUP reads what somebody just typed."""
    with shop(tmp_path, quick()) as market:
        address = market.environment.pop("ORCHESTRATOR_MARKETO__BASE_URL")
        configured(tmp_path, "[marketo]", f"base_url = '{address}'")
        with daemon(market, "--config", "config.toml") as one:
            for number, url in enumerate(ELSEWHERE, 1):
                configured(tmp_path, "[marketo]", f"base_url = '{url}'")
                one.signal(signal.SIGHUP)
                one.until(lambda number=number: len(one.said("config.refused")) == number)  # type: ignore[misc]
            drop(tmp_path / "inbox", "leads.csv", people("s13", 30))
            one.until(lambda: ended(tmp_path / "done"))


def test_s15_a_secret_and_a_token_go_to_their_own_subscription_only(tmp_path: Path) -> None:
    """Two subscriptions in one process are two strangers."""
    other_secret = "another-secret-9876543210"
    with (
        shop(tmp_path, quick(clients={"demo-client": SECRET})) as market,
        SimulatorServer(quick(clients={"other-client": other_secret}, seed=2)) as other,
    ):
        market.environment["ORCHESTRATOR_MARKETO__CLIENT_SECRET"] = SECRET
        configured(
            tmp_path,
            "[subscriptions.emea.marketo]",
            f"base_url = '{other.base_url}'",
            "client_id = 'other-client'",
            f"client_secret = '{other_secret}'",
        )
        heard: dict[str, list[str]] = {"here": [], "there": []}
        for name, simulator in (("here", market.simulator), ("there", other)):
            listen_in(simulator, lambda one, name=name: heard[name].append(f"{one.headers} {one.body!r}"))  # type: ignore[misc]
        (tmp_path / "inbox" / "emea").mkdir(parents=True)
        (tmp_path / "inbox" / "emea" / "load.toml").write_text("subscription = 'emea'\n")
        with daemon(market, "--config", "config.toml") as one:
            drop(tmp_path / "inbox", "here.csv", people("here", 500))
            drop(tmp_path / "inbox" / "emea", "there.csv", people("there", 500))
            one.until(lambda: len(ended(tmp_path / "done")) == 2)
        here, there = "".join(heard["here"]), "".join(heard["there"])
        assert SECRET in here
        assert other_secret in there
        assert other_secret not in here
        assert SECRET not in there
        tokens = {name: set(re.findall(r"Bearer ([^'\"]+)", "".join(said))) for name, said in heard.items()}
        assert tokens["here"]
        assert tokens["there"]
        assert not tokens["here"] & tokens["there"]


def test_s25_whatever_a_file_holds_it_is_refused_by_name_and_the_next_one_is_loaded(tmp_path: Path) -> None:
    """Files come from strangers, and one of them must not cost the others theirs."""
    hostile = {
        "empty.csv": b"",
        "nul.csv": b"email\n\0\0\0\n",
        "unclosed.csv": b'email,a\nx@example.com,"' + b"y" * 3_000_000,
        "long-header.csv": b"x" * 2_000_000 + b"\n",
        "twice.csv": b"email,email\na,b\n",
        "no-lookup.csv": b"a,b\n1,2\n",
        "noise.csv": bytes(range(256)) * 4_000,
        "wide.jsonl": json.dumps({f"k{n}": 1 for n in range(6_000)}).encode(),
        "deep.jsonl": b"[" * 100_000,
        "bomb.csv.gz": gzip.compress(b"email\n" + b"\n" * 200_000_000),
        "cut.csv.gz": gzip.compress(csv(people("cut", 5_000)))[:-20],
        "no-table.parquet": b"PAR1" + b"\0" * 100 + b"PAR1",
        "no-book.xlsx": b"PK\3\4" + b"\0" * 100,
        "no-archive.zip": b"PK\5\6" + b"\xff" * 18,
    }
    with shop(tmp_path, quick()) as market, daemon(market) as one:
        for name, content in hostile.items():
            (tmp_path / name).write_bytes(content)
            (tmp_path / name).rename(tmp_path / "inbox" / name)
            (tmp_path / "inbox" / f"{name}.ready").touch()
        drop(tmp_path / "inbox", "good.csv", people("good", 300))
        one.until(lambda: len(ended(tmp_path / "failed")) == len(hostile), patience_s=120)
        one.until(lambda: ended(tmp_path / "done"))
        refused = ended(tmp_path / "failed")
        assert {name: delivery["exit_code"] for name, delivery in refused.items()} == dict.fromkeys(hostile, 65)
        assert all(name.split(".")[0] in delivery["why"] for name, delivery in refused.items())
        assert ended(tmp_path / "done")["good.csv"]["exit_code"] == 0
        assert memory_peak_kb(one) < 400_000
        assert market.simulator.truth()["rows_accepted"] == 300


def memory_peak_kb(one: Daemon) -> int:
    (found,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{one.process.pid}/status").read_text(), re.MULTILINE)
    return int(found)


def test_s10_of_a_file_that_could_not_be_loaded_nothing_stays_either(tmp_path: Path) -> None:
    """Its load never finishes: its report, and its rows as they were unpacked, stayed for ever."""
    with shop(tmp_path) as market:
        inbox, spools = tmp_path / "inbox", tmp_path / ".orchestrator" / "ledger.db.spool"
        inbox.mkdir()
        (inbox / "leads.csv.gz.load.toml").write_text("list_id = 424242\n")
        (inbox / "leads.csv.gz").write_bytes(gzip.compress(csv(people("old", 20))))
        with daemon(market) as one:
            one.until(lambda: ended(tmp_path / "failed"))
            one.end()
        assert ended(tmp_path / "failed")["leads.csv.gz"]["exit_code"] == 78
        assert list(spools.iterdir())
        assert list((tmp_path / "reports").glob("*/report.csv"))
        with daemon(market, ORCHESTRATOR_REPORT__KEEP_DAYS="0.000001") as one:
            one.until(lambda: one.said("house.kept"))
            one.end()
        assert (one.said("house.kept")[0]["deliveries"], one.said("house.kept")[0]["loads"]) == (1, 1)
        left = [*spools.iterdir(), *(tmp_path / "reports").iterdir(), *(tmp_path / "failed").iterdir()]
        assert left == []
        assert market.run("status").out == "no loads yet\n"
