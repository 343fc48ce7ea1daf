"""Rows that share a key, through the real command line: what is left behind is what the file says, in its order."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random

from e2e.shop import Shop, quick, rows_of, shop
from effects import Import, in_two_at_once, key_of, left_behind

ROWS = 50_000
SHARED = 0.05


def write_shared(path: Path, rows: int, rng: Random) -> None:
    """Leads of which a share have the e-mail address of another one, written in whatever way."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["email", "firstName", "company"])
        for number in range(1, rows + 1):
            email = f"lead{number}@example.com"
            if rng.random() < SHARED:
                email = f"lead{rng.randint(1, rows)}@example.com"
                email = rng.choice([email, email, email.upper(), f" {email} "])
            writer.writerow([email, "Ann", f"Acme {number}, Inc"])


def imports_of(market: Shop, folder: Path) -> list[Import]:
    """What the simulated Marketo got, and when."""
    imports = []
    for batch in market.simulator.truth()["batches"]:
        content = (folder / f"{batch['batch_id']}.csv").read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(content, newline="")))[1:]
        times = (batch["accepted_at"], batch["started_at"], batch["ended_at"])
        imports.append(Import([(key_of(row[0]), row[2]) for row in rows], *times))
    return imports


def loaded(folder: Path, rows: int, *flags: str) -> tuple[list[Import], dict[str, object], list[list[str]]]:
    """Load so many leads; what Marketo got, what the file itself would leave behind, and the rows of the file."""
    source, bodies = folder / "leads.csv", folder / "bodies"
    bodies.mkdir()
    write_shared(source, rows, Random(7))
    with shop(folder, quick(keep_bodies=True), bodies=bodies) as market:
        load = market.run("load", "leads.csv", *flags, timeout=600.0, ORCHESTRATOR_LIMITS__CHUNK_BYTES=str(rows * 2))
        assert load.code == (3 if "last" in flags else 0), load
        imports = imports_of(market, bodies)
        verified = market.run("verify", str(market.report().folder), "leads.csv")
        assert verified.code == 0, verified
    every = rows_of(source)[1:]
    return imports, {key_of(row[0]): row[2] for row in every}, every


def test_a_file_with_shared_keys_leaves_behind_what_it_says_in_its_order(tmp_path: Path) -> None:
    """Two imports at once can double a lead, and the last row of a key must win."""
    imports, whole, rows = loaded(tmp_path, ROWS)
    assert in_two_at_once(imports) == []
    assert left_behind(imports) == whole
    sent = sorted(str(value) for one in imports for _, value in one.rows)
    assert sent == sorted(row[2] for row in rows), "every row once"
    alone = [one for one in imports if len({key for key, _ in one.rows}) == len(one.rows)]
    assert 0.85 < sum(len(one.rows) for one in alone) / ROWS < 0.95, "most rows have no twin"


def test_without_it_keys_meet_and_the_last_row_does_not_always_win(tmp_path: Path) -> None:
    """The proof that the check can fail."""
    imports, whole, _ = loaded(tmp_path, ROWS, "--on-duplicate", "ignore")
    assert len(in_two_at_once(imports)) > 100
    assert left_behind(imports) != whole


def test_only_the_last_row_of_a_key_is_sent_when_that_is_wanted(tmp_path: Path) -> None:
    """The others stand in the report, each with the row that supersedes it."""
    imports, whole, rows = loaded(tmp_path, 5_000, "--on-duplicate", "last")
    assert in_two_at_once(imports) == []
    assert left_behind(imports) == whole
    last = {key_of(row[0]): number for number, row in enumerate(rows, 1)}
    superseded = {
        number: f"superseded by row {last[key_of(row[0])]}"
        for number, row in enumerate(rows, 1)
        if last[key_of(row[0])] != number
    }
    (report,) = (tmp_path / "reports").iterdir()
    told = [json.loads(line) for line in (report / "report.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["source_row"]: row["reason"] for row in told if row["kind"] == "rejected"} == superseded
    assert all(row["row"]["company"] == rows[row["source_row"] - 1][2] for row in told)
    summary = json.loads((report / "report.json").read_text(encoding="utf-8"))
    totals = summary["totals"]
    assert (totals["rejected"], totals["imported"]) == (len(superseded), len(rows) - len(superseded))
    (one,) = [one for one in summary["reasons"] if one["kind"] == "rejected"]
    assert (one["reason"], one["rows"]) == ("superseded by a later row", len(superseded))


def write_judged(path: Path, rows: int, rng: Random) -> None:
    """Leads of few keys and of many, some equal to each other, a few of which fail or are warned of in both."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["email", "leadScore", "company"])
        for number in range(1, rows + 1):
            email = f"lead{rng.choice([number, rng.randint(1, 30), rng.randint(1, rows)])}@example.com"
            company = rng.choice(["Acme", f"Acme {number}, Inc", f"=Acme\n{number}"])
            writer.writerow([email, rng.choice(["7", "7", "1.5", "many"]), company])


def test_rows_that_fail_in_both_kinds_of_chunks_stand_in_one_order(tmp_path: Path) -> None:
    """Whoever goes through the source with the report beside it goes through both once."""
    source = tmp_path / "leads.csv"
    write_judged(source, 3_000, Random(11))
    rows = rows_of(source)
    bad = [number for number, row in enumerate(rows) if number and row[1] != "7"]
    with shop(tmp_path, quick(order="shuffled", failing_jobs=frozenset({2, 5}))) as market:
        assert market.run("load", "leads.csv").code == 3
        report = market.report()
        chunks = {chunk["chunk"] for chunk in report.json["chunks"] if chunk["twins"]}
        exact = [row for row in report.rows if row["source_row"] is not None]
        assert {True, False} == {row["chunk"] in chunks for row in exact}
        assert [row["source_row"] for row in exact] == bad, "equal rows all fail, so each has its place"
        assert report.rows == exact
        assert all(list(row["row"].values()) == rows[row["source_row"]] for row in exact)
        assert [int(record[2]) for record in rows_of(report.folder / "report.csv")[1:]] == bad
        assert rows_of(report.folder / "retry.csv") == [rows[0], *(rows[number] for number in bad)]
        before = (report.folder / "report.jsonl").read_bytes()
        assert market.run("report", report.folder.name).code == 3
        assert (report.folder / "report.jsonl").read_bytes() == before
        verified = market.run("verify", str(report.folder), "leads.csv")
        assert verified.code == 0, verified
        retried = market.run("retry", report.folder.name, "--fix", "map:leadScore=scores.csv", "--json")
        assert retried.code == 66, "the map is not there yet"
        (tmp_path / "scores.csv").write_text("1.5,1\nmany,99\n", encoding="utf-8")
        retried = market.run("retry", report.folder.name, "--fix", "map:leadScore=scores.csv", "--json")
        assert retried.code == 0, retried
        assert retried.summary["totals"]["imported"] == len(bad)
