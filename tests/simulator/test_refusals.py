"""What is refused before anything is queued, and with which code."""

from __future__ import annotations

import json
import re
from urllib.parse import urlencode

import pytest
from simulator.client import CREATE, USAGE, Client, code, form, leads


def test_of_several_defects_the_one_checked_first_is_answered() -> None:
    """Nothing may cost quota, or a place in the queue, before the token is right; nor be queued before all is right."""
    client = Client(calls_per_day=0, calls_per_20s=0, may_import=False, file_limit=10, list_busy="queued")
    settings, token = client.marketo.settings, client.token()
    client.marketo.in_flight = 11
    headers: dict[str, str] = {}
    parameters = {"format": "xml", "lookupField": "nope", "listId": "9"}
    content = None

    def refused() -> str:
        _, body = form(content, source="the fair")
        return code(client.send("POST", f"{CREATE['leads']}?{urlencode(parameters)}", headers, body))

    assert refused() == "603"
    headers["authorization"] = f"Bearer {token}"
    assert refused() == "607"
    settings.calls_per_day = 1_000
    assert refused() == "606"
    settings.calls_per_20s = 1_000
    assert refused() == "615"
    client.marketo.in_flight = 1
    assert refused() == "603"
    settings.may_import = True
    assert refused() == "http 413"
    settings.file_limit = 10_000
    assert refused() == "612"
    headers["content-type"] = "multipart/form-data; boundary=other"
    assert refused() == "613"
    headers["content-type"] = "multipart/form-data; boundary=b0undary"
    assert refused() == "1002"
    content = b"\n"
    assert refused() == "1001"
    parameters["format"] = "csv"
    assert refused() == "1006"
    parameters["lookupField"] = "email"
    assert refused() == "1013"
    parameters["listId"] = "1001"
    assert refused() == "1003"
    content = b"email\nana@example.com\n"
    client.batch(leads(1), listId="1001")
    client.marketo.occupy(9, client.now)
    assert refused() == "1019"
    parameters["listId"] = "1002"
    assert refused() == "1016"
    client.marketo.release(1, client.now)
    assert refused() == ""


def test_a_path_that_does_not_exist_is_said_before_the_token_is_looked_at() -> None:
    """With a wrong address a client would otherwise renew its token over and over, and never learn why."""
    assert code(Client().call("GET", "/bulk/v1/nothing.json", "expired")) == "610"


@pytest.mark.parametrize(
    "path",
    [
        "/rest/bulk/v1/leads.json",
        "/bulk/v1/leads",
        "/bulk//v1/leads.json",
        "//bulk/v1/leads.json",
        "/bulk/v1/program/1044/members/import/1/status.json",
        "/bulk/v1/customobjects/import.json",
        "/bulk/v1/customobjects/nope_c/import.json",
        "/elsewhere",
    ],
)
def test_a_wrong_path_is_610(path: str) -> None:
    """The usual slips: /rest before bulk, a slash too many, the program in a status path, no such object."""
    headers, body = form(b"vin\n1\n")
    method = "GET" if "status" in path else "POST"
    assert code(Client().call(method, path, headers=headers, body=body)) == "610"


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        ("/bulk/v1/leads.json", ""),
        ("/bulk/v1/leads.json?format=TSV", ""),
        ("/bulk/v1/leads.json?format=xml", "1001"),
        ("/bulk/v1/leads.json?format=csv&listId=abc", "1001"),
        ("/bulk/v1/leads.json?format=csv&listId=999", "1013"),
        ("/bulk/v1/leads.json?format=csv&listId=1001", ""),
        ("/bulk/v1/leads.json?format=csv&lookupField=customerNumber", "1006"),
        ("/bulk/v1/leads.json?format=csv&lookupField=firstName", "1011"),
        ("/bulk/v1/leads.json?format=csv&partitionName=Nowhere", "1013"),
        ("/bulk/v1/leads.json?format=csv&partitionName=Default", ""),
        ("/bulk/v1/program/1044/members/import.json?format=csv", "1002"),
        ("/bulk/v1/program/1044/members/import.json?format=csv&programMemberStatus=Nobody", "1025"),
        ("/bulk/v1/program/1044/members/import.json?format=CSV&programMemberStatus=On%20List", ""),
        ("/bulk/v1/program/9/members/import.json?format=csv&programMemberStatus=On%20List", "1013"),
    ],
)
def test_a_parameter_that_is_wrong_has_a_code_of_its_own(target: str, refusal: str) -> None:
    """Each of them is a mistake of the caller, known before ten megabytes are queued; none may be retried."""
    headers, body = form(b"email\nana@example.com\n")
    client = Client()
    assert code(client.call("POST", target, headers=headers, body=body)) == refusal
    assert len(client.marketo.jobs) == (refusal == "")


def test_with_several_partitions_one_must_be_named() -> None:
    """Instances with one partition hide the mistake until the day a second one is made."""
    client = Client(partitions=("Default", "Europe"))
    assert code(client.upload(leads(1))) == "1009"
    assert code(client.upload(leads(1), partitionName="Europe")) == ""


def test_parameters_are_taken_from_the_form_too_and_the_address_wins() -> None:
    """Adobe's guides show both ways."""
    client = Client()
    headers, body = form(leads(1).encode(), format="xml", lookupField="firstName")
    assert code(client.call("POST", CREATE["leads"], headers=headers, body=body)) == "1001"
    assert code(client.call("POST", f"{CREATE['leads']}?format=csv", headers=headers, body=body)) == "1011"
    address = f"{CREATE['leads']}?format=csv&lookupField=email"
    assert code(client.call("POST", address, headers=headers, body=body)) == ""


@pytest.mark.parametrize(
    ("content_type", "body", "refusal"),
    [
        ("text/csv", b"email\nana@example.com\n", "612"),
        ("multipart/form-data", form(b"email\n")[1], "613"),
        ("multipart/form-data; boundary=b0undary", form(b"email\n")[1][2:], "613"),
        ("multipart/form-data; boundary=b0undary", form(b"email\n")[1][:-6], "613"),
        ("multipart/form-data; boundary=b0undary", b"", "613"),
        ("multipart/form-data; boundary=b0undary", form(b"email\nx\n", filename=None)[1], "1002"),
        ("multipart/form-data; boundary=b0undary", form(b"email\n")[1].replace(b'"file"', b'"upload"'), "1002"),
        ("multipart/form-data; boundary=b0undary", form(b"")[1], "1003"),
    ],
)
def test_a_form_that_is_not_as_it_should_be_is_refused(content_type: str, body: bytes, refusal: str) -> None:
    """A forgiving stand-in would let an upload pass that Marketo takes for nothing."""
    headers = {"content-type": content_type}
    assert code(Client().call("POST", f"{CREATE['leads']}?format=csv", headers=headers, body=body)) == refusal


def test_the_whole_body_counts_against_the_limit_and_not_only_the_file() -> None:
    """Chunks cut to exactly ten megabytes would all bounce: the envelope needs room."""
    headers, body = form(leads(10).encode())
    fits, over = Client(file_limit=len(body)), Client(file_limit=len(body) - 1)
    target = f"{CREATE['leads']}?format=csv"
    assert code(fits.call("POST", target, headers=headers, body=body)) == ""
    assert code(over.call("POST", target, headers=headers, body=body)) == "http 413"
    assert (fits.rules_broken, over.rules_broken) == ([], ["body over the limit"])


def test_an_address_of_more_than_eight_kilobytes_is_414() -> None:
    """Parameters that grow with the data belong into the body."""
    assert code(Client().call("GET", f"/rest/v1/lists.json?name={'x' * 8_192}")) == "http 414"


@pytest.mark.parametrize("kind", ["leads", "members", "objects"])
def test_without_the_permission_imports_their_status_and_their_files_are_603(kind: str) -> None:
    """The role that may not import may not look either: a resumed load must stop with a clear word."""
    client = Client()
    batch = client.batch("email,vin\nana@example.com,1\n", kind)
    client.marketo.settings.may_import = False
    assert code(client.upload("email,vin\nbob@example.com,2\n", kind)) == "603"
    assert [code(client.ask(batch, what, kind)) for what in ("status", "failures", "warnings")] == ["603"] * 3


def test_every_envelope_has_a_request_id_and_codes_are_strings() -> None:
    """Support asks for the id, and clients that compare codes with numbers never match."""
    client = Client()
    for answer in (client.call("GET", USAGE), client.call("GET", USAGE, None)):
        body = json.loads(answer.body)
        assert re.fullmatch(r"[0-9a-f]+#[0-9a-f]+", body["requestId"])
        assert answer.headers["Content-Type"].startswith("application/json")
        assert all(isinstance(error["code"], str) for error in body.get("errors", []))
