"""Rows of a spool file, by their place in the user's own files."""

from __future__ import annotations

import pytest

from orchestrator.core.model import Origin, Original, Reading, Stretch
from orchestrator.core.origins import names_of, origin_sha256, place

FILES = (Original("/data/a.csv.gz", 10, 1, "aa"), Original("/data/b.csv.gz", 10, 2, "bb"))


@pytest.mark.parametrize(("line", "wanted"), [(2, (0, 2)), (9, (0, 9)), (10, (1, 2)), (30, (1, 22))])
def test_a_line_of_the_spool_is_a_line_of_one_file(line: int, wanted: tuple[int, int]) -> None:
    """The second file's header is left out, and its lines begin anew."""
    origin = Origin(FILES, Reading(), "lines", (Stretch(2, 0, 0), Stretch(10, 1, -8)))
    assert place(origin, 1, line) == wanted


def test_rows_are_counted_where_lines_mean_nothing() -> None:
    """A value of a workbook may hold line ends: the spool's lines are not its rows."""
    origin = Origin(FILES, Reading(), "rows", (Stretch(1, 0, 1), Stretch(5, 0, 3), Stretch(7, 1, -5)))
    assert [place(origin, row, 99)[1] for row in (1, 4, 5, 6, 7)] == [2, 5, 8, 9, 2]
    assert place(origin, 7, 99)[0] == 1


def test_what_a_query_made_stands_nowhere_and_a_plain_file_where_it_is() -> None:
    """A guess would lead people to the wrong row."""
    assert place(Origin(FILES, Reading(query="SELECT 1"), "not"), 3, 4) == (None, None)
    assert place(None, 3, 4) == (None, 4)


def test_originals_are_known_by_their_content_and_how_they_are_read() -> None:
    """A renamed file resumes its load; another query is another load."""
    moved = (Original("/else/x.gz", 10, 9, "aa"), FILES[1])
    assert origin_sha256(moved, Reading()) == origin_sha256(FILES, Reading())
    others = [origin_sha256(FILES[::-1], Reading())]
    others += [origin_sha256(FILES, reading) for reading in (Reading("latin-1"), Reading(renamed=(("a", "b"),)))]
    assert origin_sha256(FILES, Reading()) not in others
    assert len(set(others)) == 3


def test_people_read_names_not_paths() -> None:
    """And not a thousand of them."""
    assert names_of(["/data/a.csv"]) == "a.csv"
    assert names_of(["-"]) == "standard input"
    assert names_of([f"/data/{n}.csv" for n in range(5)]) == "5 files: 0.csv, 1.csv, 2.csv and 2 more"
