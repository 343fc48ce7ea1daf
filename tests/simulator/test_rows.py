"""What becomes of each row, how it is told, and what can be asked before a load."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from simulator.client import Client, code, result


def counts(status: dict[str, Any]) -> tuple[int, int, int]:
    imported = status.get("numOfLeadsProcessed", status.get("numOfObjectsProcessed"))
    return int(str(imported)), status["numOfRowsFailed"], status["numOfRowsWithWarning"]


def invalid(display_name: str) -> str:
    return f"Invalid data type in field {display_name}"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("leadScore", "1.5", invalid("Lead Score")),
        ("leadScore", "-3", ""),
        ("leadScore", "", ""),
        ("numberOfEmployees", "1,000", invalid("Num Employees")),
        ("numberOfEmployees", "9223372036854775807", ""),
        ("numberOfEmployees", "9223372036854775808", invalid("Num Employees")),
        ("annualRevenue", "1000.50", ""),
        ("annualRevenue", "$1000", invalid("Annual Revenue")),
        ("dateOfBirth", "2001-12-31", ""),
        ("dateOfBirth", "31/12/2001", invalid("Date of Birth")),
        ("lastContactedAt", "2026-01-31T10:00:00+02:00", ""),
        ("lastContactedAt", "2026-01-31T10:00:00Z", ""),
        ("lastContactedAt", "yesterday", invalid("Last Contacted")),
        ("unsubscribed", "true", ""),
        ("unsubscribed", "maybe", invalid("Unsubscribed")),
        ("firstName", "Zoë, 李雷", ""),
        ("noSuchField", "anything", ""),
    ],
)
def test_a_value_of_the_wrong_type_fails_its_row_and_the_reason_has_the_display_name(
    name: str, value: str, reason: str
) -> None:
    """Reports are read by people who must find the field; the API name stands nowhere in the real reason."""
    status, failures, _ = Client().judged(f'email,{name}\nana@example.com,"{value}"\nbob@example.com,\n')
    assert counts(status) == ((1, 1, 0) if reason else (2, 0, 0))
    cells = ["ana@example.com", value, reason]
    assert list(csv.reader(io.StringIO(failures))) == (
        [["email", name, "Import Failure Reason"], cells] if reason else []
    )


@pytest.mark.parametrize("tries", [1, 2])
def test_a_share_of_sound_rows_fails_the_first_times_and_then_no_more(tries: int) -> None:
    """What a second chance is for; a row that is wrong in itself fails every time, for its own reason."""
    client = Client(transient_share=0.2, transient_tries=tries, transient_reason="Lead is locked")
    file = "email,leadScore\n" + "".join(f"lead{n}@example.com,1\n" for n in range(500)) + "bad@example.com,x\n"
    first = client.judged(file)
    assert 60 < first[0]["numOfRowsFailed"] < 140
    assert first[1].count("Lead is locked") == first[0]["numOfRowsFailed"] - 1
    for _ in range(tries - 1):
        assert client.judged(file)[1] == first[1]
    assert list(csv.reader(io.StringIO(client.judged(file)[1])))[1:] == [
        ["bad@example.com", "x", invalid("Lead Score")]
    ]


@pytest.mark.parametrize("email", ["ana@nowhere", "ana", "ana@@example.com", "ana😀@example.com", "añá@example.com"])
def test_a_malformed_address_is_a_warning_and_the_row_is_imported(email: str) -> None:
    """Counting warned rows as failed would have them sent again."""
    status, failures, warnings = Client().judged(f"email,firstName\n{email},Ana\nbob@example.com,Bob\n")
    assert (status["status"], counts(status), failures) == ("Complete", (2, 0, 1), "")
    assert warnings == f"email,firstName,Import Warning Reason\n{email},Ana,Invalid email address\n"


@pytest.mark.parametrize("header", ["firstName,phone", " email,phone", "Email,phone", "\ufeffemail,phone"])
def test_without_the_lookup_column_every_row_fails_and_the_job_is_complete(header: str) -> None:
    """Headers are not trimmed, and a mark before the first makes it another: Complete does not mean success."""
    status, failures, _ = Client().judged(f"{header}\nana@example.com,1\nbob@example.com,2\n")
    assert (status["status"], counts(status)) == ("Complete", (0, 2, 0))
    reason = "Value for lookup field 'email' not found"
    assert failures == f"{header},Import Failure Reason\nana@example.com,1,{reason}\nbob@example.com,2,{reason}\n"


@pytest.mark.parametrize(
    ("kind", "parameters", "header", "reason"),
    [
        ("leads", {}, "email,year", "Value for lookup field 'email' not found"),
        ("leads", {"lookupField": "externalId"}, "externalId,year", "Value for lookup field 'externalId' not found"),
        ("members", {}, "email,year", "Value for lookup field 'email' not found"),
        ("objects", {}, "vin,make", "missing.dedupe.fields"),
    ],
)
def test_a_row_without_its_key_fails_with_the_reason_of_its_kind(
    kind: str, parameters: dict[str, str], header: str, reason: str
) -> None:
    """Each kind has a key and a wording of its own; no row of a file goes missing from the counts."""
    status, failures, _ = Client().judged(f"{header}\nk1@example.com,1\n,2\n  ,3\n", kind, **parameters)
    assert counts(status) == (1, 2, 0)
    assert failures.splitlines() == [f"{header},Import Failure Reason", f",2,{reason}", f"  ,3,{reason}"]


@pytest.mark.parametrize("column", ["customerNumber", "email"])
def test_by_knob_a_lookup_field_that_does_not_exist_fails_every_row(column: str) -> None:
    """It is not documented whether the upload or the rows are refused: the loader must get through both."""
    client = Client(unknown_lookup="fail every row")
    status, failures, _ = client.judged(f"{column}\na@example.com\nb@example.com\n", lookupField="customerNumber")
    assert (status["status"], counts(status)) == ("Complete", (0, 2, 0))
    assert failures.count("Value for lookup field 'customerNumber' not found") == 2


def test_matching_by_id_updates_only() -> None:
    """An unknown id fails its row instead of making a new lead."""
    client = Client()
    client.marketo.leads[("7",)] = ["7", "Ana"]
    status, failures, _ = client.judged("id,firstName\n7,Ana\n8,Bob\n", lookupField="id")
    assert counts(status) == (1, 1, 0)
    assert failures.startswith("id,firstName,Import Failure Reason\n8,Bob,")


def test_rows_are_counted_as_records_and_not_as_lines() -> None:
    """Quoted line ends are part of a value and blank lines are no rows."""
    client = Client(keep_leads=True)
    status, _, warnings = client.judged('email,notes\r\na@example.com,"one\r\ntwo ""quoted"""\r\n\r\nb@x,"c,d"\r\n')
    assert counts(status) == (2, 0, 1)
    assert client.marketo.leads[("a@example.com",)][1] == 'one\r\ntwo "quoted"'
    assert warnings == 'email,notes,Import Warning Reason\nb@x,"c,d",Invalid email address\n'


def test_ragged_rows_are_judged_like_any_other_and_echoed_with_the_columns_of_the_header() -> None:
    """A comma too many or too few must cost one row at most, and never the count of the rows."""
    status, failures, _ = Client().judged("firstName,email,city\nAna\nBob,bob@example.com\nCid,,Rome,Italy\n")
    assert counts(status) == (1, 2, 0)
    assert [line.split(",")[:3] for line in failures.splitlines()[1:]] == [["Ana", "", ""], ["Cid", "", "Rome"]]


def test_a_later_row_of_the_same_key_overwrites_the_earlier() -> None:
    """Tests that send a batch twice compare what is there in the end."""
    client = Client(keep_leads=True)
    client.judged("email,firstName\nana@example.com,Ana\nana@example.com,Anna\n,Nobody\n")
    client.judged("email,firstName\nbob@example.com,Bob\n")
    assert client.marketo.leads == {
        ("ana@example.com",): ["ana@example.com", "Anna"],
        ("bob@example.com",): ["bob@example.com", "Bob"],
    }


# --- result files ---


@pytest.mark.parametrize(("format", "mark"), [("csv", ","), ("tsv", "\t"), ("ssv", ";")])
def test_result_files_have_the_submitted_format_though_their_address_says_json(format: str, mark: str) -> None:
    """Read with the wrong delimiter every failure has one column and no reason."""
    client = Client()
    lines = [["email", "leadScore", "city"], ["ana@example.com", "x", f"a{mark}b"], ["ana", "1", "Rome"]]
    out = io.StringIO()
    csv.writer(out, delimiter=mark, lineterminator="\n").writerows(lines)
    status, failures, warnings = client.judged(out.getvalue(), format=format)
    assert counts(status) == (1, 1, 1)
    found = [list(csv.reader(io.StringIO(text), delimiter=mark)) for text in (failures, warnings)]
    assert found[0] == [[*lines[0], "Import Failure Reason"], [*lines[1], invalid("Lead Score")]]
    assert found[1] == [[*lines[0], "Import Warning Reason"], [*lines[2], "Invalid email address"]]
    file = client.ask(status["batchId"], "failures")
    assert (file.status, dict(file.headers)) == (200, {"Content-Type": "text/csv;charset=UTF-8"})


@pytest.mark.parametrize(
    ("kind", "knob", "answer"),
    [
        ("leads", "empty", (200, b"")),
        ("leads", "404", (404, None)),
        ("members", "header", (200, b"email,vin,Import Failure Reason\n")),
        ("objects", "empty", (404, None)),
        ("objects", "header", (404, None)),
    ],
)
def test_a_result_file_without_rows_is_answered_in_every_way_that_was_seen(
    kind: str, knob: str, answer: tuple[int, bytes | None]
) -> None:
    """404 is documented for custom objects; for the others nobody says, so a client must survive all three."""
    client = Client(no_rows=knob)
    batch = client.batch("email,vin\nana@example.com,1\n", kind)
    client.now += 60.0
    file = client.ask(batch, "failures", kind)
    assert (file.status, file.body if answer[1] is not None else None) == answer


def test_by_knob_values_are_echoed_without_quotes() -> None:
    """Real failure files were ragged: a reader that insists on columns crashes after the load is done."""
    client = Client(requote=False)
    _, failures, _ = client.judged('email,leadScore,notes\na@example.com,x,"one, two\nthree"\n')
    reason = invalid("Lead Score")
    assert failures == f"email,leadScore,notes,Import Failure Reason\na@example.com,x,one, two\nthree,{reason}\n"


@pytest.mark.parametrize(
    ("knob", "header"), [(False, "firstName,email,externalId,leadScore"), (True, "firstName,externalId,leadScore")]
)
def test_by_knob_an_empty_lookup_column_is_left_out(knob: bool, header: str) -> None:
    """Seen in real files: who reads by position takes a phone number for a reason."""
    client = Client(drop_empty_lookup_column=knob)
    _, failures, _ = client.judged(
        "firstName,email,externalId,leadScore\nAna,,1,2\nBob,,2,3\nCid,cid@example.com,3,4\n"
    )
    assert failures.splitlines()[0] == f"{header},Import Failure Reason"
    assert all(len(line.split(",")) == len(header.split(",")) + 1 for line in failures.splitlines())


@pytest.mark.parametrize(
    ("kind", "lookup", "content", "header"),
    [
        ("leads", {}, "email,externalId,leadScore\na@example.com,,x\n", "email,externalId,leadScore"),
        ("leads", {"lookupField": "externalId"}, "email,externalId\n,\n", "email"),
        ("objects", {}, "make,vin\nVolvo,\n", "make"),
        ("members", {}, "email,firstName\n,Ana\n", "firstName"),
    ],
)
def test_only_the_lookup_column_of_the_job_is_left_out(
    kind: str, lookup: dict[str, str], content: str, header: str
) -> None:
    """Dropping any other column would train the loader against files that do not exist."""
    _, failures, _ = Client(drop_empty_lookup_column=True).judged(content, kind, **lookup)
    assert failures.splitlines()[0] == f"{header},Import Failure Reason"


def test_by_knob_rows_of_a_result_file_come_in_another_order() -> None:
    """Their order is not documented, and there are no row numbers."""
    content = "email,leadScore\n" + "".join(f"l{n}@example.com,x{n}\n" for n in range(30))
    _, ordered, _ = Client().judged(content)
    _, shuffled, _ = Client(order="shuffled").judged(content)
    assert ordered.splitlines()[1].startswith("l0@example.com,x0,")
    assert ordered != shuffled
    assert sorted(ordered.splitlines()) == sorted(shuffled.splitlines())
    assert ordered.splitlines()[0] == shuffled.splitlines()[0]


def test_before_its_end_a_job_lists_no_rows() -> None:
    """A file fetched too early looks like a load without failures: the loader has to ask after the end."""
    client = Client(rows_per_second=1.0)
    batch = client.batch("email\n\n,\n" + "a@nowhere\n" * 10)
    assert [client.ask(batch, what).body for what in ("failures", "warnings")] == [b"", b""]


# --- what can be asked before a load ---


def test_the_description_of_leads_is_shaped_like_describe2() -> None:
    """Headers and lookup field are checked against it before anything is sent."""
    answer = result(Client().call("GET", "/rest/v1/leads/describe2.json"))
    assert answer["name"] == "API Lead"
    assert ["email"] in answer["searchableFields"]
    fields = {field["name"]: field for field in answer["fields"]}
    email = {"name": "email", "displayName": "Email Address", "dataType": "email", "length": 255}
    assert fields["email"] == {**email, "updateable": True, "crmManaged": False}
    assert not fields["id"]["updateable"]


def test_custom_objects_and_program_members_are_described_with_their_keys() -> None:
    """A missing key column is found before the upload only if the keys are told."""
    client = Client()
    described = result(client.call("GET", "/rest/v1/customobjects/car_c/describe.json"))
    assert (described["dedupeFields"], described["idField"]) == (["vin"], "marketoGUID")
    assert {field["name"] for field in described["fields"]} >= {"vin", "year"}
    assert code(client.call("GET", "/rest/v1/customobjects/nope_c/describe.json")) in {"610", "1013"}
    members = result(client.call("GET", "/rest/v1/programs/members/describe.json"))
    assert members["dedupeFields"] == ["leadId", "programId"]


def test_lists_and_partitions_can_be_looked_up() -> None:
    """A list that is not there is a mistake to be told before the first upload."""
    client = Client(lists=frozenset({1001, 1002}), partitions=("Default", "Europe"))
    assert result(client.call("GET", "/rest/v1/lists/1001.json"))["id"] == 1001
    assert code(client.call("GET", "/rest/v1/lists/9.json")) == "1013"
    partitions = json.loads(client.call("GET", "/rest/v1/leads/partitions.json").body)["result"]
    assert [partition["name"] for partition in partitions] == ["Default", "Europe"]


@pytest.mark.parametrize("query", ["id=1002", "name=List%201002"])
def test_lists_are_filtered_by_id_and_by_name(query: str) -> None:
    """A lookup that answers with every list would have leads put into the first of them."""
    found = json.loads(Client().call("GET", f"/rest/v1/lists.json?{query}").body)["result"]
    assert [item["id"] for item in found] == [1002]


def test_usage_tells_the_calls_of_today_with_those_of_others() -> None:
    """The loader reckons from it whether the day's quota will do."""
    usage = result(Client(calls_used_before=41).call("GET", "/rest/v1/stats/usage.json"))
    assert usage["total"] == 42
    assert [set(user) for user in usage["users"]] == [{"userId", "count"}]
