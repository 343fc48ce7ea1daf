"""The daemon when its disk is full: it lives on, and goes on when there is room again."""

from __future__ import annotations

import resource
import shutil
import signal
from pathlib import Path

from e2e.daemon import Daemon, csv, drop, ended, people, served
from e2e.shop import quick, shop


def fill_the_disk(one: Daemon, *, full: bool) -> None:
    """No file of the process may be written to any more; or again."""
    _, hard = resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))


def test_a_full_disk_stops_loads_and_not_the_daemon(tmp_path: Path) -> None:
    """Whoever makes room finds everything going on, without having to know of any of it."""
    lease = {"ORCHESTRATOR_LIMITS__DOUBT_LEASE": "1"}  # an answer that could not be written down makes a doubt
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market, served(market, **lease) as (one, client):
        for name in ("a", "b", "c"):
            drop(tmp_path / "inbox", f"{name}.csv", people(name, 4_000, bad=20))
        one.until(lambda: market.simulator.truth()["batches_accepted"] >= 2)
        fill_the_disk(one, full=True)
        one.until(lambda: len({line["delivery"] for line in one.said("load.put_off")}) == 3)
        drop(tmp_path / "inbox", "d.csv", people("d", 30))
        one.until(lambda: one.said("inbox.unusable"))
        one.until(lambda: client.http.get("/readyz").status_code == 200)
        delivery = one.said("load.put_off")[0]["delivery"]
        assert client.change(delivery, "pause").status_code == 503
        binary = {"Content-Type": "application/octet-stream"}
        upload = client.http.post("/api/v1/uploads?name=e.csv", content=csv(people("e", 3)), headers=binary)
        assert upload.status_code >= 500
        assert upload.json()["error"]["code"] == upload.status_code
        one.until(lambda: len(list((tmp_path / "work").iterdir())) == 4)  # with the lock: nothing is left of the tries

        fill_the_disk(one, full=False)
        assert client.change(delivery, "resume").status_code == 202
        one.signal(signal.SIGHUP)
        one.until(lambda: len(ended(tmp_path / "done")) == 4)
        for name in ("a", "b", "c"):
            totals = ended(tmp_path / "done")[f"{name}.csv"]["result"]["totals"]
            assert (totals["imported"], totals["failed"], totals["unknown"]) == (3_980, 20, 0), totals
        assert one.end() == 143
        assert market.simulator.truth()["most_ours"] <= 10
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".lock"]


def test_a_folder_that_somebody_removes_costs_its_files_and_not_the_daemon(tmp_path: Path) -> None:
    """Tidying up by hand happens."""
    with shop(tmp_path, quick()) as market, served(market) as (one, client):
        drop(tmp_path / "inbox", "a.csv", people("a", 30))
        one.until(lambda: ended(tmp_path / "done"))
        for name in ("done", "failed", "inbox"):
            shutil.rmtree(tmp_path / name)
        one.until(lambda: one.said("inbox.unusable"))
        drop(tmp_path / "inbox", "b.csv", people("b", 30))
        drop(tmp_path / "inbox", "c.csv", [])
        one.until(lambda: ended(tmp_path / "done") and ended(tmp_path / "failed"))
        assert client.http.get("/").status_code == 200
        assert one.end() == 143
