"""What goes wrong, when, and how? Faults by kind of call, at a rate or by script, from a seed.

A fault happens before a call is executed (it never was) or after (it was, and its answer is spoilt). The transport
carries out what bytes cannot say: dropped connections, truncated and slow bodies.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

Effect = Literal["none", "drop", "truncate", "slow"]

JSON = "application/json;charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. effect: `drop` closes the connection instead of answering, `truncate` stops half-way through the
    announced length, `slow` sends it in pieces with pauses."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    effect: Effect = "none"


def envelope(request_id: str, **content: object) -> Response:
    """Marketo's envelope, always with HTTP 200."""
    return Response(200, {"Content-Type": JSON}, json.dumps({"requestId": request_id, **content}).encode())


def refusal(request_id: str, code: str, message: str) -> Response:
    return envelope(request_id, success=False, errors=[{"code": code, "message": message}])


_HTML = b"<html><head><title>Error</title></head><body><h1>Bad Gateway</h1></body></html>"

BEFORE = (
    "http 500",
    "http 502",
    "http 503",
    "http 504",
    "http 429",
    "code 502",
    "code 601",
    "code 602",
    "code 604",
    "code 606",
    "code 608",
    "code 611",
    "code 614",
    "code 615",
    "code 713",
    "drop",
    "html",
    "empty",
    "list",
    "no errors",
    "integer code",
)
"""Instead of executing the call."""

AFTER = ("drop after", "http 502 after", "truncate", "cut silently", "slow", "no result", "extra fields")
"""The call was executed and its answer is spoilt (the last two of them harmlessly)."""

STATUS_ONLY = ("unknown status", "other batch")
IDENTITY = ("http 500", "http 502", "http 503", "drop", "html", "empty", "list", "slow", "truncate", "expires in 0")
GETS = (*BEFORE, "truncate", "cut silently", "slow", "no result", "extra fields")
KINDS: Mapping[str, Sequence[str]] = {
    "token": IDENTITY,
    "create": (*BEFORE, *AFTER),
    "status": (*GETS, *STATUS_ONLY),
    "failures": GETS,
    "warnings": GETS,
    "other": GETS,
}

_MESSAGES = {
    "502": "Bad Gateway",
    "601": "Access token invalid",
    "602": "Access token expired",
    "604": "Request timed out",
    "607": "Daily API Quota reached",
    "606": "Max rate limit '100' exceeded with in '20' secs",
    "608": "API Temporarily Unavailable",
    "611": "System error",
    "614": "Invalid Subscription",
    "615": "Concurrent access limit '10' reached",
    "713": "Transient Error",
}


@dataclass
class Scripted:
    """One fault to come: on the calls of a kind, after so many of them, so many times."""

    fault: str
    on: str
    times: int = 1
    after: int = 0


@dataclass
class Faults:
    """Decides which fault meets a call. `rates`: kind of call -> share of its calls; `kinds` narrows the choice."""

    rng: Random
    rates: dict[str, float] = field(default_factory=dict)
    kinds: frozenset[str] | None = None
    scripted: list[Scripted] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)

    def meets(self, kind: str) -> str | None:
        """The fault this call meets, if any."""
        for script in self.scripted:
            if script.on == kind:
                if script.after > 0:
                    script.after -= 1
                elif script.times > 0:
                    script.times -= 1
                    self.injected[f"{kind}: {script.fault}"] += 1
                    return script.fault
        rate = self.rates.get(kind, 0.0)
        if rate and self.rng.random() < rate:
            choice = [fault for fault in KINDS[kind] if self.kinds is None or fault in self.kinds]
            if choice:
                fault = self.rng.choice(choice)
                self.injected[f"{kind}: {fault}"] += 1
                return fault
        return None


def instead(fault: str, request_id: str) -> Response | None:
    """What comes instead of an answer; None for faults that happen after the call."""
    word, _, code = fault.partition(" ")
    if fault == "drop":
        return Response(0, {}, b"", "drop")
    if word == "http" and code.isdigit():
        return Response(int(code), {"Content-Type": "text/html"}, _HTML)
    if word == "code":
        return refusal(request_id, code, _MESSAGES[code])
    if fault == "html":
        return Response(200, {"Content-Type": "text/html"}, _HTML)
    if fault == "empty":
        return Response(200, {"Content-Type": JSON}, b"")
    if fault == "list":
        return Response(200, {"Content-Type": JSON}, b"[]")
    if fault == "no errors":
        return envelope(request_id, success=False, errors=[])
    if fault == "integer code":
        return Response(
            200,
            {"Content-Type": JSON},
            json.dumps({"requestId": request_id, "success": False, "errors": [{"code": 713, "message": "x"}]}).encode(),
        )
    return None


def spoil(fault: str, answer: Response) -> Response:
    """The answer of an executed call, spoilt."""
    if fault == "drop after":
        return replace(answer, effect="drop")
    if fault == "http 502 after":
        return Response(502, {"Content-Type": "text/html"}, _HTML)
    if fault == "truncate":
        return replace(answer, effect="truncate") if answer.body else answer
    if fault == "cut silently":
        return replace(answer, body=answer.body[: len(answer.body) // 2])
    if fault == "slow":
        return replace(answer, effect="slow")
    if fault == "expires in 0":
        return _changed(answer, lambda body: body.update(expires_in=0))
    if fault == "no result":
        return _changed(answer, lambda body: body.pop("result", None))
    if fault == "wrong content type":
        return replace(answer, headers={"Content-Type": "text/plain"})
    if fault == "extra fields":
        return _changed(answer, lambda body: body.update(moreResult=False, nextPageToken="x", hint={"a": [1]}))
    if fault == "unknown status":
        return _changed(answer, lambda body: [item.update(status="Paused") for item in body.get("result", [])])
    if fault == "other batch":
        return _changed(
            answer,
            lambda body: [item.update(batchId=1, importId="1") for item in body.get("result", [])],
        )
    raise ValueError(f"unknown fault {fault!r}")


def _changed(answer: Response, change: object) -> Response:
    if not answer.body.startswith(b"{"):
        return answer
    body = json.loads(answer.body)
    change(body)  # type: ignore[operator]
    return replace(answer, body=json.dumps(body).encode())
