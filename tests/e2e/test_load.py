"""Whole loads by the real command line, over HTTP, against the simulator."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from e2e.shop import Shop, expected, quick, rows_of, rows_received, shop

from orchestrator.core.isolate import budget
from orchestrator.simulator.leads import write_leads


def wait_for(shop_: Shop, accepted: int, timeout: float = 30.0) -> None:
    """Until the simulator has accepted so many batches."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        with shop_.simulator.lock:
            if len(shop_.simulator.model.jobs) >= accepted:
                return
        time.sleep(0.01)
    raise AssertionError(f"no {accepted} batches within {timeout} s")


def rules_broken(shop_: Shop) -> list[str]:
    return [f"{violation.rule}: {violation.detail}" for violation in shop_.simulator.model.violations]


def test_a_load_delivers_every_row_once_and_reports_every_failure_at_its_row(tmp_path: Path) -> None:
    """The whole promise, on a small file."""
    write_leads(tmp_path / "leads.csv", 3_000, bad_share=0.05)
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        done = market.run("load", "leads.csv", "--json")
        assert done.code == 3, done
        assert sorted(rows_received(market.simulator)) == sorted(rows_of(tmp_path / "leads.csv")[1:])
        truth = expected(market.simulator, tmp_path / "leads.csv")
        report = market.report()
        assert report.judged() == truth
        assert len(truth) > 100
        totals = done.summary["totals"]
        assert totals == report.json["totals"]
        failed = sum(kind == "failure" for kind, _, _ in truth)
        assert totals == {
            "rows": 3_000,
            "imported": 3_000 - failed,
            "failed": failed,
            "warned": len(truth) - failed,
            "rejected": 0,
            "unsent": 0,
            "unknown": 0,
        }
        assert report.json["exit_code"] == done.summary["exit_code"] == 3
        assert rules_broken(market) == []
        source = rows_of(tmp_path / "leads.csv")
        failures = [row for kind, row, _ in truth if kind == "failure"]
        assert rows_of(report.folder / "retry.csv") == [source[0], *(source[row] for row in failures)]
        for file in (*report.folder.iterdir(), *(report.folder / "batches").iterdir()):
            assert file.stat().st_mode & 0o077 == 0, file


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("ssv", ";")])
def test_tsv_and_ssv_arrive_as_they_were(tmp_path: Path, suffix: str, delimiter: str) -> None:
    """The other two formats of Marketo."""
    text = 'email;firstName;notes\na@x.io;Ann;"one; two"\nb@x.io;Bo;"three\nfour"\n;No;key\n'.replace(";", delimiter)
    source = tmp_path / f"leads.{suffix}"
    source.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        done = market.run("load", source.name)
        assert done.code == 3, done
        assert rows_received(market.simulator, delimiter) == rows_of(source, delimiter)[1:]
        assert market.report().judged() == [("failure", 3, "Value for lookup field 'email' not found")]
        assert (
            (market.report().folder / "retry.csv")
            .read_bytes()
            .endswith(f"\r\n{delimiter}No{delimiter}key\r\n".encode())
        )


def test_custom_objects_and_members_are_loaded_by_their_own_paths(tmp_path: Path) -> None:
    """Other paths, other names of counts, 404 where no row failed."""
    (tmp_path / "cars.csv").write_text("vin,make,year\nA1,Saab,1999\nA2,Volvo,19x9\n,Fiat,2001\n")
    (tmp_path / "people.csv").write_text("email,firstName\na@x.io,Ann\nb@x.io,Bo\n")
    with shop(tmp_path) as market:
        cars = market.run("load", "cars.csv", "--object", "customobjects:car_c", "--report-dir", "cars")
        people = market.run(
            "load", "people.csv", "--object", "members:1044", "--member-status", "On List", "--report-dir", "people"
        )
        assert cars.code == 3, cars
        assert people.code == 0, people
        report = json.loads((tmp_path / "cars" / "report.json").read_text())
        assert report["totals"]["imported"] == 1
        assert {reason["reason"] for reason in report["reasons"]} == {
            "missing.dedupe.fields",
            "Invalid data type in field Year",
        }
        assert rules_broken(market) == []


@pytest.mark.parametrize("taken", [8, 10])
def test_slots_of_others_are_waited_for_without_burning_uploads(tmp_path: Path, taken: int) -> None:
    """1016 costs an upload of ten megabytes each time: a full queue must cost a few, not one per chunk."""
    write_leads(tmp_path / "leads.csv", 4_000)
    with shop(tmp_path) as market:
        market.simulator.occupy(taken)
        process = market.start("load", "leads.csv", ORCHESTRATOR_POLLING__MAX_INTERVAL="2")
        time.sleep(4.0)
        with market.simulator.lock:
            accepted_meanwhile = len(market.simulator.model.jobs)
        market.simulator.release(taken)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3, (out, err)
        state = market.simulator.truth()
        assert accepted_meanwhile <= 10 - taken  # the two processors are blocked by the others
        assert state["refused_imports"].get("1016", 0) <= 6, state["refused_imports"]
        assert state["rows_accepted"] == 4_000
        assert rules_broken(market) == []


def test_a_static_list_is_loaded_one_job_at_a_time(tmp_path: Path) -> None:
    """1019: the list is a lane of its own; refusals must stay few, and nothing may fail of them."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    with shop(tmp_path, quick(list_busy="queued")) as market:
        done = market.run("load", "leads.csv", "--list-id", "1001")
        assert done.code == 0, done
        state = market.simulator.truth()
        assert state["rows_accepted"] == 1_000
        assert state["refused_imports"].get("1019", 0) <= 3 * state["batches_accepted"]


def test_a_seventh_of_all_questions_failing_in_every_way_changes_nothing(tmp_path: Path) -> None:
    """Polling trouble delays; it never fails a batch, and never changes the report."""
    write_leads(tmp_path / "leads.csv", 4_000, bad_share=0.05)
    with shop(tmp_path) as market:
        market.simulator.model.faults.rates.update(dict.fromkeys(("token", "status", "failures", "warnings"), 1 / 7))
        market.simulator.model.faults.kinds = None
        done = market.run("load", "leads.csv", timeout=400)
        assert done.code == 3, done
        assert market.report().judged() == expected(market.simulator, tmp_path / "leads.csv")
        state = market.simulator.truth()
        assert state["rows_accepted"] == 4_000
        assert sum(state["faults"].values()) > 20, state["faults"]


def test_two_loads_on_one_ledger_never_hold_more_than_ten_jobs(tmp_path: Path) -> None:
    """Each of them alone would fill the queue."""
    write_leads(tmp_path / "a.csv", 4_000, bad_share=0)
    write_leads(tmp_path / "b.csv", 4_000, bad_share=0, first=10_001)
    with shop(tmp_path) as market:
        both = [market.start("load", f"{name}.csv") for name in "ab"]
        for process in both:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, (out, err)
        state = market.simulator.truth()
        assert state["most_ours"] <= 10
        assert state["rows_accepted"] == 8_000
        assert state["refused_imports"] == {}
        assert rules_broken(market) == []


def test_the_same_load_twice_at_once_is_refused_with_the_owner_named(tmp_path: Path) -> None:
    """Two owners would send every chunk twice."""
    write_leads(tmp_path / "leads.csv", 4_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        first = market.start("load", "leads.csv")
        wait_for(market, 1)
        second = market.run("load", "leads.csv", "--report-dir", "elsewhere")
        assert second.code == 75, second
        assert str(first.pid) in second.err
        first.communicate(timeout=60)
        assert first.returncode == 0
        assert not (tmp_path / "elsewhere" / "report.json").exists(), "nothing is moved under the feet of the owner"
        assert market.report().json["totals"]["imported"] == 4_000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_signal_in_mid_load_saves_and_the_same_command_finishes(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Deployments and impatient people stop loads: nothing may be lost or sent twice."""
    write_leads(tmp_path / "leads.csv", 6_000, bad_share=0.02)
    with shop(tmp_path, quick(seconds_per_job=0.2)) as market:
        process = market.start("load", "leads.csv")
        wait_for(market, 12)
        begun = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, (out, err)
        assert time.monotonic() - begun < 15
        assert "orchestrator resume" in err
        done = market.run("load", "leads.csv")
        assert done.code == 3, done
        assert market.report().judged() == expected(market.simulator, tmp_path / "leads.csv")
        assert market.simulator.truth()["rows_accepted"] == 6_000
        assert rules_broken(market) == []


def test_a_second_signal_stops_at_once_and_the_load_is_still_resumable(tmp_path: Path) -> None:
    """Who asks twice means it."""
    write_leads(tmp_path / "leads.csv", 4_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        process = market.start("load", "leads.csv")
        wait_for(market, 3)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 130
        done = market.run("resume", ORCHESTRATOR_LIMITS__DOUBT_LEASE="2")
        assert done.code == 0, done


@pytest.mark.parametrize("accepted", [1, 5, 12])
def test_killed_outright_the_same_command_goes_on_and_sends_no_known_batch_again(tmp_path: Path, accepted: int) -> None:
    """kill -9 at any instant: what has a batch id is never sent again; what may have been sent is a doubt and said."""
    write_leads(tmp_path / "leads.csv", 6_000, bad_share=0.02)
    with shop(tmp_path, quick(seconds_per_job=0.1)) as market:
        process = market.start("load", "leads.csv")
        wait_for(market, accepted)
        process.kill()
        process.communicate()
        done = market.run("load", "leads.csv", "--json", ORCHESTRATOR_LIMITS__DOUBT_LEASE="3")
        assert done.code == 3, done
        twice = [v for v in market.simulator.model.violations if v.rule == "the same file twice"]
        assert len(twice) <= done.summary["doubts"]
        assert [v for v in market.simulator.model.violations if v.rule != "the same file twice"] == []
        totals = market.report().json["totals"]
        assert totals["rows"] == totals["imported"] + totals["failed"] == 6_000


def test_a_finished_load_run_again_sends_nothing_and_returns_its_code(tmp_path: Path) -> None:
    """Make targets and schedulers run things twice."""
    write_leads(tmp_path / "leads.csv", 500, bad_share=0.05)
    with shop(tmp_path) as market:
        assert market.run("load", "leads.csv").code == 3
        calls = dict(market.simulator.model.calls)
        again = market.run("load", "leads.csv")
        assert again.code == 3, again
        assert dict(market.simulator.model.calls) == calls
        forced = market.run("load", "leads.csv", "--force", "--report-dir", "forced")
        assert forced.code == 3
        assert market.simulator.truth()["rows_accepted"] == 1_000


def test_max_wait_stops_resumable_with_75(tmp_path: Path) -> None:
    """A pipeline step with a time limit needs its code, and the command that goes on."""
    write_leads(tmp_path / "leads.csv", 4_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=1.0)) as market:
        done = market.run("load", "leads.csv", "--max-wait", "2s", "--json")
        assert done.code == 75, done
        assert done.summary["resume"].startswith("orchestrator resume")
        market.simulator.model.settings.seconds_per_job = 0.01
        assert market.run("resume").code == 0
        assert market.simulator.truth()["rows_accepted"] == 4_000


def test_a_quota_that_is_used_up_in_mid_load_stops_it_resumable_with_75(tmp_path: Path) -> None:
    """607 lasts until midnight: trying on would be refused all day, and tomorrow the same command goes on."""
    write_leads(tmp_path / "leads.csv", 2_000, bad_share=0)
    with shop(tmp_path, quick(calls_per_day=12)) as market:
        done = market.run("load", "leads.csv", "--json")
        assert done.code == 75, done
        assert "quota is renewed by" in done.err
        sent = market.simulator.truth()["batches_accepted"]
        with market.simulator.lock:
            market.simulator.model.settings.calls_per_day = 10_000_000
        assert market.run("load", "leads.csv").code == 0
        assert sent > 0
        assert market.report().json["totals"]["imported"] == 2_000
        assert market.report().json["doubts"] == []


def test_a_file_that_changes_in_mid_load_is_not_sent_on(tmp_path: Path) -> None:
    """What was planned is what is sent; a changed file would be cut in the wrong places."""
    write_leads(tmp_path / "leads.csv", 6_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        process = market.start("load", "leads.csv")
        wait_for(market, 11)
        original = (tmp_path / "leads.csv").read_bytes()
        (tmp_path / "other.csv").write_bytes(original.replace(b"lead0000599", b"LEAD0000599"))
        (tmp_path / "other.csv").replace(tmp_path / "leads.csv")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 65, (out, err)
        assert "another file was put in its place; chunk" in err
        (tmp_path / "leads.csv").write_bytes(original)
        done = market.run("resume")
        assert done.code == 0, done
        assert rules_broken(market) == []
        assert market.simulator.truth()["rows_accepted"] == 6_000


def test_a_413_halves_the_chunk_until_it_fits(tmp_path: Path) -> None:
    """Nobody says which megabyte Marketo means: a refusal for size must not stop a load."""
    write_leads(tmp_path / "leads.csv", 300, bad_share=0)
    with shop(tmp_path, quick(file_limit=9_000, keep_bodies=True)) as market:
        done = market.run("load", "leads.csv")
        assert done.code == 0, done
        assert sorted(rows_received(market.simulator)) == sorted(rows_of(tmp_path / "leads.csv")[1:])


def test_a_batch_that_ends_failed_is_sent_once_more(tmp_path: Path) -> None:
    """Failed means that the job broke: its rows deserve a second try, and no third."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    with shop(tmp_path, quick(failing_jobs=frozenset({2, 3}))) as market:
        done = market.run("load", "leads.csv")
        assert done.code == 0, done
        assert market.report().json["totals"]["imported"] == 1_000


def test_the_row_that_breaks_its_batches_is_found_and_all_others_are_imported(tmp_path: Path) -> None:
    """Failed says nothing of single rows: one bad row must not keep thousands of others out."""
    write_leads(tmp_path / "leads.csv", 1_000, bad_share=0)
    source = (tmp_path / "leads.csv").read_text().replace("lead00000500@example.com", "poison")
    (tmp_path / "leads.csv").write_text(source)
    row_of_poison = next(at for at, row in enumerate(rows_of(tmp_path / "leads.csv")) if "poison" in row)
    with shop(tmp_path, quick(poison="poison")) as market:
        done = market.run("load", "leads.csv")
        assert done.code == 3, done
        report = market.report()
        assert (report.json["totals"]["failed"], report.json["totals"]["imported"]) == (1, 999)
        assert [row["source_row"] for row in report.rows if row["kind"] == "failure"] == [row_of_poison]
        assert "System error" in report.rows[0]["reason"]


def test_when_every_batch_fails_the_load_ends_and_lists_every_row(tmp_path: Path) -> None:
    """A broken instance must not turn a load into thousands of batches."""
    write_leads(tmp_path / "leads.csv", 100, bad_share=0)
    with shop(tmp_path, quick(failing_jobs=frozenset(range(1, 10_000)))) as market:  # two chunks of fifty rows
        done = market.run("load", "leads.csv")
        assert done.code == 3, done
        report = market.report()
        assert report.json["totals"]["failed"] == 100
        assert [row["source_row"] for row in report.rows if row["kind"] == "failure"] == list(range(1, 101))
        assert market.simulator.truth()["batches_accepted"] <= 2 * 3 * budget(50)


def test_rejected_rows_are_left_out_and_listed_when_allowed(tmp_path: Path) -> None:
    """A few bad lines in a large export must neither stop it nor vanish."""
    (tmp_path / "leads.csv").write_text('email,notes\na@x.io,1\nb@x.io\nc@x.io,"2"3\nd@x.io,4\n')
    with shop(tmp_path, quick(keep_bodies=True)) as market:
        refused = market.run("load", "leads.csv")
        assert refused.code == 65
        assert "row 2 (line 3)" in refused.err
        assert "row 3 (line 4)" in refused.err
        assert market.simulator.truth()["batches_accepted"] == 0
        done = market.run("load", "leads.csv", "--max-rejected", "2")
        assert done.code == 3, done
        assert rows_received(market.simulator) == [["a@x.io", "1"], ["d@x.io", "4"]]
        assert [(r["kind"], r["source_row"], r["source_line"]) for r in market.report().rows] == [
            ("rejected", 2, 3),
            ("rejected", 3, 4),
        ]


def test_nothing_secret_is_in_what_a_load_leaves_behind(tmp_path: Path) -> None:
    """Secrets and leads in logs, ledgers and addresses are how they get lost."""
    write_leads(tmp_path / "leads.csv", 500, bad_share=0.1)
    with shop(tmp_path) as market:
        done = market.run("load", "leads.csv", "-v")
        assert done.code == 3
        left = done.out + done.err
        for path in (tmp_path / ".orchestrator").rglob("*"):
            if path.is_file():
                left += path.read_bytes().decode("latin-1")
                assert path.stat().st_mode & 0o077 == 0
        with market.simulator.lock:
            tokens = [token.value for token in market.simulator.model._tokens.values()]
        for secret in ("demo-secret", *tokens, "lead00000", "@example"):
            assert secret not in left


def test_the_same_new_load_started_twice_at_one_moment_is_loaded_once(tmp_path: Path) -> None:
    """Schedulers fire twice; both processes plan the file before either has written it down."""
    write_leads(tmp_path / "leads.csv", 40_000, bad_share=0)
    with shop(tmp_path) as market:
        both = [market.start("load", "leads.csv", ORCHESTRATOR_LIMITS__CHUNK_BYTES="1000000") for _ in range(2)]
        codes = []
        for process in both:
            process.communicate(timeout=60)
            codes.append(process.returncode)
        assert sorted(codes) in ([0, 75], [0, 0])
        assert market.simulator.truth()["rows_accepted"] == 40_000


def test_a_source_that_vanishes_in_mid_load_leaves_no_doubt(tmp_path: Path) -> None:
    """What was not read was not sent."""
    write_leads(tmp_path / "leads.csv", 6_000, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=0.3)) as market:
        process = market.start("load", "leads.csv")
        wait_for(market, 11)
        (tmp_path / "leads.csv").rename(tmp_path / "away.csv")
        process.communicate(timeout=60)
        assert process.returncode == 66
        (tmp_path / "away.csv").rename(tmp_path / "leads.csv")
        done = market.run("resume", "--json")
        assert done.code == 0, done
        assert done.summary["doubts"] == 0


def test_a_load_is_not_resumed_into_another_subscription(tmp_path: Path) -> None:
    """Its leads are somebody's: a --subscription that was forgotten must not show them to somebody else."""
    write_leads(tmp_path / "leads.csv", 300, bad_share=0)
    with shop(tmp_path, quick(seconds_per_job=2.0)) as market, shop(tmp_path, quick()) as other:
        stopped = market.run("load", "leads.csv", "--max-wait", "1s", "--json")
        assert stopped.code == 75, stopped
        elsewhere = other.simulator.base_url
        unnamed = market.run("resume", ORCHESTRATOR_MARKETO__BASE_URL=elsewhere)
        assert unnamed.code == 2, unnamed
        assert "is interrupted" in unnamed.err
        named = market.run("resume", stopped.summary["load_id"], ORCHESTRATOR_MARKETO__BASE_URL=elsewhere)
        assert named.code == 78, named
        assert "--subscription" in named.err
        assert sum(other.simulator.truth()["calls"].values()) == 0
        assert market.run("resume").code == 0
