"""An integration that speaks to the model with plain values; time passes only when a test says so."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from orchestrator.simulator.faults import Response
from orchestrator.simulator.model import Marketo, Request
from orchestrator.simulator.settings import Settings

IDENTITY = "/identity/oauth/token"
CREATE = {
    "leads": "/bulk/v1/leads.json",
    "members": "/bulk/v1/program/1044/members/import.json",
    "objects": "/bulk/v1/customobjects/car_c/import.json",
}
BATCH = {
    "leads": "/bulk/v1/leads/batch/{id}{what}.json",
    "members": "/bulk/v1/program/members/import/{id}{what}.json",
    "objects": "/bulk/v1/customobjects/car_c/import/{id}{what}.json",
}
MINE = "mine"
USAGE = "/rest/v1/stats/usage.json"


def leads(count: int, first: int = 0) -> str:
    """A file of so many good leads."""
    return "email,firstName\n" + "".join(f"lead{first + n}@example.com,Ana\n" for n in range(count))


def form(content: bytes | None, filename: str | None = "leads.csv", **fields: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of an upload."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()]
    if content is not None:
        named = f'; filename="{filename}"' if filename else ""
        head = f'Content-Disposition: form-data; name="file"{named}\r\nContent-Type: text/csv\r\n\r\n'
        parts.append(head.encode() + content)
    body = b"".join(b"--b0undary\r\n" + part + b"\r\n" for part in parts) + b"--b0undary--\r\n"
    return {"content-type": "multipart/form-data; boundary=b0undary"}, body


def code(answer: Response) -> str:
    """What was refused with: a code, an HTTP status that is not 200, or nothing."""
    if answer.status != 200:
        return f"http {answer.status}"
    body = json.loads(answer.body)
    return "" if body["success"] else str(body["errors"][0]["code"])


def result(answer: Response) -> dict[str, Any]:
    assert not code(answer), answer
    found: dict[str, Any] = json.loads(answer.body)["result"][0]
    return found


class Client:
    """Begins at a time of 100 s, so that nothing rests on the clock beginning at nought."""

    def __init__(self, **settings: Any) -> None:
        self.marketo = Marketo(Settings(**settings))
        self.now = 100.0

    @property
    def rules_broken(self) -> list[str]:
        return [violation.rule for violation in self.marketo.violations]

    def send(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Response:
        return self.marketo.handle(Request(method, target, headers or {}, body), self.now)

    def identify(self, client: str = "demo-client", secret: str = "demo-secret") -> Response:
        given = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
        return self.send("POST", IDENTITY, body=urlencode(given).encode())

    def token(self, client: str = "demo-client", secret: str = "demo-secret") -> str:
        return str(json.loads(self.identify(client, secret).body)["access_token"])

    def call(
        self,
        method: str,
        target: str,
        token: str | None = MINE,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """A call with a token, by default a good one."""
        bearer = self.token() if token == MINE else token
        authorization = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        return self.send(method, target, {**authorization, **(headers or {})}, body)

    def upload(self, content: str, kind: str = "leads", token: str | None = MINE, **parameters: str) -> Response:
        if kind == "members":
            parameters.setdefault("programMemberStatus", "On List")
        headers, body = form(content.encode())
        target = f"{CREATE[kind]}?{urlencode({'format': 'csv', **parameters})}"
        return self.call("POST", target, token, headers, body)

    def batch(self, content: str, kind: str = "leads", **parameters: str) -> int:
        """The id of an accepted upload."""
        return int(result(self.upload(content, kind, **parameters))["batchId"])

    def ask(self, batch: int, what: str = "status", kind: str = "leads") -> Response:
        path = "" if (kind, what) == ("leads", "status") else f"/{what}"
        return self.call("GET", BATCH[kind].format(id=batch, what=path))

    def status(self, batch: int, kind: str = "leads") -> dict[str, Any]:
        return result(self.ask(batch, kind=kind))

    def judged(self, content: str, kind: str = "leads", **parameters: str) -> tuple[dict[str, Any], str, str]:
        """Status, failures and warnings of an upload after its end."""
        batch = self.batch(content, kind, **parameters)
        self.now += 3_600.0
        files = [self.ask(batch, what, kind) for what in ("failures", "warnings")]
        failures, warnings = ("" if file.status == 404 else file.body.decode() for file in files)
        return self.status(batch, kind), failures, warnings

    def calls_counted(self) -> int:
        """Calls of today, this one included, as the service itself says."""
        return int(result(self.call("GET", USAGE))["total"])
