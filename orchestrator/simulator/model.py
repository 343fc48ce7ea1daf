"""How does the subscription answer? Requests in, answers out: no clock, no network, chance only from the seed.

Checks are made in the order: path, token, daily quota, rate, calls at a time, permission, size, multipart, parameters,
lookup field, list and partition, empty file, list busy, queue. (The order of the real service is not documented.)
Every rule that a client breaks is noted and can be asked for.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any
from urllib.parse import parse_qs

from orchestrator.simulator.faults import AFTER, JSON, Faults, Response, envelope, instead, refusal, spoil
from orchestrator.simulator.fields import BY_NAME, LEAD_FIELDS, LOOKUP_FIELDS, OBJECTS, LeadField, described
from orchestrator.simulator.judge import DELIMITERS, Judged, judge, result_file
from orchestrator.simulator.multipart import MalformedError, parse
from orchestrator.simulator.queue import Job, Queue, busy_shares
from orchestrator.simulator.settings import Settings

csv.field_size_limit(10_000_000)

QUEUE_FULL = "There are 10 imports currently being processed. Please try again later"
WINDOW_S = 20.0
LOSING = frozenset(AFTER) - {"slow", "extra fields"}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, read to its end. Header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    announced: int = 0
    """The length the headers tell; a body over the limit is refused unread."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that the client broke."""

    at: float
    rule: str
    detail: str


@dataclass
class _Token:
    value: str
    expires_at: float
    refused: bool = False


class _Refused(Exception):
    def __init__(self, code: str, message: str, http_status: int = 200) -> None:
        super().__init__(code)
        self.code, self.message, self.http_status = code, message, http_status


_CREATE = (
    (re.compile(r"/bulk/v1/leads\.json\Z"), "leads"),
    (re.compile(r"/bulk/v1/customobjects/(?P<name>[^/]+)/import\.json\Z"), "customobjects"),
    (re.compile(r"/bulk/v1/program/(?P<name>\d+)/members/import\.json\Z"), "members"),
)
_BATCH = (
    (re.compile(r"/bulk/v1/leads/batch/(?P<id>\d+)(?:/(?P<what>failures|warnings))?\.json\Z"), "leads"),
    (
        re.compile(
            r"/bulk/v1/customobjects/(?P<name>[^/]+)/import/(?P<id>\d+)/(?P<what>status|failures|warnings)\.json\Z"
        ),
        "customobjects",
    ),
    (
        re.compile(r"/bulk/v1/program/members/import/(?P<id>\d+)/(?P<what>status|failures|warnings)\.json\Z"),
        "members",
    ),
)
_IDENTITY = "/identity/oauth/token"


@dataclass
class Marketo:
    """One subscription. `handle` is called with times that never go back."""

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self._rng = Random(self.settings.seed)  # noqa: S311 a seed is the point
        self.faults = Faults(Random(self.settings.seed + 1))  # noqa: S311
        self.queue = Queue(self.settings.workers)
        self.jobs: dict[int, Job] = {}
        self.leads: dict[tuple[str, ...], list[str]] = {}
        self.violations: list[Violation] = []
        self.calls: Counter[str] = Counter()
        self.refused_imports: Counter[str] = Counter()
        self.in_flight = 0
        self._calls_today = self.settings.calls_used_before
        self._day: float | None = None
        self._window: deque[float] = deque()
        self._tokens: dict[str, _Token] = {}
        self._old_tokens: dict[str, _Token] = {}
        self._accepted: dict[str, int] = {}
        self._tries: Counter[bytes] = Counter()
        self._next_batch = 1000 + self._rng.randrange(1000)
        self._requests = 0
        self.now = 0.0

    # --- the door ---------------------------------------------------------------------------------------

    def handle(self, request: Request, now: float) -> Response:
        """The answer to one request."""
        self.now = max(self.now, now)
        self.queue.advance(self.now)
        path, _, text = request.target.partition("?")
        query = {key: values[0] for key, values in parse_qs(text, keep_blank_values=True).items()}
        kind = _kind(request.method, path)
        self.calls[kind] += 1
        self._requests += 1
        self._watch(request, path, query)
        if len(request.target) > 8_192:
            return Response(414, {"Content-Type": "text/html"}, b"<html>URI Too Long</html>")
        accepted = len(self.jobs)
        fault = self.faults.meets(kind)
        if fault is not None and (answer := instead(fault, self._request_id())) is not None:
            return answer
        if path == _IDENTITY:
            answer = self._identity(request, query)
        else:
            try:
                self._admit(request, query)
                answer = self._route(request, path, query)
            except _Refused as refused:
                if refused.http_status != 200:
                    answer = Response(refused.http_status, {"Content-Type": "text/html"}, b"<html>Not Found</html>")
                else:
                    if kind == "create":
                        self.refused_imports[refused.code] += 1
                    answer = refusal(self._request_id(), refused.code, refused.message)
        if fault in LOSING and len(self.jobs) > accepted:
            del self._accepted[self.jobs[self._next_batch].sha256]
        return spoil(fault, answer) if fault is not None else answer

    # --- tokens -----------------------------------------------------------------------------------------

    def _identity(self, request: Request, query: Mapping[str, str]) -> Response:
        form = {key: values[0] for key, values in parse_qs(request.body.decode("latin-1")).items()}
        given = {**query, **form}
        client = given.get("client_id", "")
        secret = self.settings.clients.get(client)
        if given.get("grant_type") != "client_credentials" or secret is None or given.get("client_secret") != secret:
            body = b'{"error":"invalid_client","error_description":"Bad client credentials"}'
            return Response(401, {"Content-Type": JSON}, body)
        token = self._tokens.get(client)
        if token is None or token.expires_at <= self.now:
            if token is not None:
                self._old_tokens[token.value] = token
            token = _Token(f"{self._rng.getrandbits(128):032x}:int", self.now + self.settings.token_life)
            self._tokens[client] = token
        left = int(token.expires_at - self.now)
        if left == 0 and not self.settings.expires_in_zero:
            left = 1
        answer = {"access_token": token.value, "token_type": "bearer", "expires_in": left, "scope": "apis@example.com"}
        return _json(answer)

    def begin_batches_at(self, number: int) -> None:
        """The batch id after which the next one comes."""
        self._next_batch = number

    def _client_of(self, request: Request, query: Mapping[str, str]) -> str:
        """The client whose token the request bears; refuses with 601, 602 or 603."""
        bearer = request.headers.get("authorization", "")
        value = bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else ""
        if not value:
            in_form = _token_in_form(request)
            if "access_token" in query or in_form:
                self._note("token outside of the header", "in the form" if in_form else "in the address")
            if not (in_form and self.settings.accept_token_in_form):
                raise _Refused("603", "Access denied")
            value = in_form
        for client, token in self._tokens.items():
            if token.value == value:
                if token.expires_at > self.now:
                    return client
                first, token.refused = not token.refused, True
                raise _Refused("602", "Access token expired") if first else _Refused("601", "Access token invalid")
        old = self._old_tokens.get(value)
        if old is not None and not old.refused:
            old.refused = True
            raise _Refused("602", "Access token expired")
        raise _Refused("601", "Access token invalid")

    def _admit(self, request: Request, query: Mapping[str, str]) -> None:
        """Token, quota, rate and calls at a time, in this order. What passes counts."""
        path = request.target.partition("?")[0]
        creates = any(pattern.match(path) for pattern, _ in _CREATE)
        if not (creates or _OTHER.match(path) or any(pattern.match(path) for pattern, _ in _BATCH)):
            raise _Refused("610", "Requested resource not found")
        self._client_of(request, query)
        if request.method != ("POST" if creates else "GET"):
            raise _Refused("605", "HTTP Method not supported")
        if (day := self.now // 86_400.0) != self._day:
            self._calls_today = 0 if self._day is not None else self._calls_today
            self._day = day
        if self._calls_today >= self.settings.calls_per_day:
            raise _Refused("607", f"Daily API Quota '{self.settings.calls_per_day}' reached")
        while self._window and self._window[0] <= self.now - WINDOW_S:
            self._window.popleft()
        if len(self._window) >= self.settings.calls_per_20s:
            self._note("too many calls in 20 s", f"{len(self._window)}")
            raise _Refused("606", f"Max rate limit '{self.settings.calls_per_20s}' exceeded with in '20' secs")
        if self.in_flight > self.settings.calls_at_once:
            self._note("too many calls at once", f"{self.in_flight}")
            raise _Refused("615", f"Concurrent access limit '{self.settings.calls_at_once}' reached")
        self._window.append(self.now)
        self._calls_today += 1
        if path.startswith("/bulk/") and not self.settings.may_import:
            raise _Refused("603", "Access denied")

    # --- routes -----------------------------------------------------------------------------------------

    def _route(self, request: Request, path: str, query: Mapping[str, str]) -> Response:
        for pattern, kind in _CREATE:
            if match := pattern.match(path):
                return self._create(kind, match.groupdict().get("name"), request, query)
        for pattern, kind in _BATCH:
            if match := pattern.match(path):
                return self._batch(
                    _full_kind(kind, match.groupdict().get("name")), int(match["id"]), match["what"] or "status"
                )
        return self._describe(path, query)

    def _create(self, kind: str, name: str | None, request: Request, query: Mapping[str, str]) -> Response:
        if (size := max(len(request.body), request.announced)) > self.settings.file_limit:
            self._note("body over the limit", f"{size:,} bytes")
            raise _Refused("413", "Request Entity Too Large", 413)
        if "content-encoding" in request.headers:
            self._note("compressed upload", request.headers["content-encoding"])
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/form-data"):
            raise _Refused("612", "Invalid Content Type")
        try:
            form = parse(request.body, content_type)
        except MalformedError as error:
            raise _Refused("613", f"Invalid Multipart Request: {error}") from None
        if "access_token" in form.fields:
            self._note("token outside of the header", "in the form")
        parameters = {**form.fields, **query}
        if form.file is None:
            if form.file_without_name:
                self._note("file part without a filename", "")
            raise _Refused("1002", "Missing value for required parameter 'file'")
        if "format" not in parameters:
            self._note("no format", "one guide says that csv is the default, and the reference that it is required")
        format = parameters.get("format", "csv").lower()
        if format not in DELIMITERS:
            raise _Refused("1001", f"Invalid value '{format}' for parameter 'format'")
        fields, keys, missing = self._target(kind, name, parameters)
        list_id = self._list(kind, parameters)
        if not form.file.strip():
            raise _Refused("1003", "Empty file")
        digest = hashlib.sha256(form.file).hexdigest()
        if list_id is not None and self.settings.list_busy != "never":
            queued_too = self.settings.list_busy == "queued"
            if self.queue.importing_into(list_id, queued_too=queued_too):
                raise _Refused("1019", "Import in progress for the target list")
        if len(self.queue) >= self.settings.queue_limit:
            if self.queue.ours() >= self.settings.queue_limit:
                self._note("an eleventh job", f"{self.queue.ours()} of ours are unfinished")
            raise _Refused("1016", QUEUE_FULL)
        return self._accept(kind, name, form.file, digest, format, fields, keys, missing, list_id)

    def _target(
        self, kind: str, name: str | None, parameters: Mapping[str, str]
    ) -> tuple[Mapping[str, LeadField], Sequence[str], Callable[[str], str]]:
        """Fields, key columns and the reason for a missing key; refuses what does not exist."""
        if kind == "customobjects":
            if name is None or name not in OBJECTS:
                raise _Refused("610", f"Object '{name}' not found")
            keys, fields = OBJECTS[name]
            return {field.name: field for field in fields}, keys, lambda key: "missing.dedupe.fields"
        if kind == "members":
            if int(name or 0) not in self.settings.programs:
                raise _Refused("1013", f"Program '{name}' not found")
            status = parameters.get("programMemberStatus")
            if not status:
                raise _Refused("1002", "Missing value for required parameter 'programMemberStatus'")
            if status not in self.settings.programs[int(name or 0)]:
                raise _Refused("1025", f"Program Status '{status}' not found")
            return BY_NAME, ("email",), _missing_key
        lookup = parameters.get("lookupField", "email")
        if lookup not in BY_NAME and self.settings.unknown_lookup == "1006":
            raise _Refused("1006", f"Lookup field '{lookup}' not found")
        if lookup in BY_NAME and lookup not in LOOKUP_FIELDS:
            raise _Refused("1011", f"Lookup field '{lookup}' not supported")
        partition = parameters.get("partitionName")
        if partition is None and len(self.settings.partitions) > 1:
            raise _Refused("1009", "Partition name must be specified")
        if partition is not None and partition not in self.settings.partitions:
            raise _Refused("1013", f"Partition '{partition}' not found")
        return BY_NAME, (lookup,), _missing_key

    def _list(self, kind: str, parameters: Mapping[str, str]) -> int | None:
        text = parameters.get("listId")
        if text is None or kind != "leads":
            return None
        if not text.isdigit():
            raise _Refused("1001", f"Invalid value '{text}' for parameter 'listId'")
        if int(text) not in self.settings.lists:
            raise _Refused("1013", f"List '{text}' not found")
        return int(text)

    def _accept(
        self,
        kind: str,
        name: str | None,
        content: bytes,
        digest: str,
        format: str,
        fields: Mapping[str, LeadField],
        keys: Sequence[str],
        missing: Callable[[str], str],
        list_id: int | None,
    ) -> Response:
        before = self._accepted.get(digest)
        if before is not None and not self.jobs[before].came_to_nothing:
            self._note("the same file twice", f"batch {before} has it")
        exists = (lambda key: (key,) in self.leads) if keys == ("id",) else None
        judgement = judge(
            content,
            format,
            fields,
            keys,
            missing,
            key_must_exist=exists,
            poison=self.settings.poison,
            stumbles=self._stumbles if self.settings.transient_share else None,
            keep=self._keep if self.settings.keep_leads else None,
        )
        if judgement is None:
            raise _Refused("1003", "Invalid data: the file could not be read")
        if judgement.rows == 0:
            self._note("a file without rows", "what becomes of it is not documented")
        self._next_batch += 1
        job = Job(
            batch_id=self._next_batch,
            kind=_full_kind(kind, name),
            keys=tuple(keys),
            accepted_at=self.now,
            seconds=self.settings.seconds_per_job + judgement.rows / self.settings.rows_per_second,
            judgement=judgement,
            format=format,
            sha256=digest,
            list_id=list_id,
            fails=judgement.poisoned or len(self.jobs) + 1 in self.settings.failing_jobs,
            body=content if self.settings.keep_bodies else None,
        )
        self.jobs[job.batch_id] = job
        self._accepted[digest] = job.batch_id
        self.queue.add(job, self.now)
        result: dict[str, object] = {"batchId": job.batch_id, "status": "Queued"}
        if kind == "customobjects":
            result["objectApiName"] = name
        else:
            result["importId"] = str(job.batch_id)
        return envelope(self._request_id(), success=True, result=[result])

    def _stumbles(self, cells: list[str]) -> str:
        """The reason why a row that is sound fails this time; empty when it does not."""
        digest = hashlib.sha256("\0".join([str(self.settings.seed), *cells]).encode()).digest()[:8]
        if int.from_bytes(digest) >= self.settings.transient_share * 2**64:
            return ""
        self._tries[digest] += 1
        return self.settings.transient_reason if self._tries[digest] <= self.settings.transient_tries else ""

    def _keep(self, key: tuple[str, ...], cells: list[str]) -> None:
        self.leads[key] = cells

    def _batch(self, kind: str, batch_id: int, what: str) -> Response:
        job = self.jobs.get(batch_id)
        if job is None or job.kind != kind or self.now - job.accepted_at > self.settings.batch_life:
            if job is None:
                self._note("an unknown batch asked after", str(batch_id))
            if self.settings.unknown_batch == "404":
                raise _Refused("404", "", 404)
            raise _Refused(self.settings.unknown_batch, f"Batch '{batch_id}' not found")
        if what == "status":
            if self.now - job.polled_at < self.settings.min_poll_interval:
                self._note("polled too often", f"batch {batch_id} after {self.now - job.polled_at:.2f} s")
            job.polled_at = self.now
            return self._status(job)
        return self._file(job, what)

    def _status(self, job: Job) -> Response:
        assert job.judgement is not None
        status, judged = job.status(self.now), job.judgement
        share = 0.0
        if status == "Complete":
            share = 1.0
        elif status == "Importing" and job.started_at is not None:
            share = min(1.0, (self.now - job.started_at) / max(job.seconds, 1e-9))
        failed = int(len(judged.failed) * share)
        warned = int(len(judged.warned) * share)
        processed = int((judged.rows - len(judged.failed)) * share)
        objects = job.kind.startswith("customobjects")
        result: dict[str, object] = {"batchId": job.batch_id, "status": status}
        if objects:
            result |= {"operation": "import", "objectApiName": job.kind.partition(":")[2]}
        else:
            result["importId"] = str(job.batch_id)
        if status != "Queued":
            result["numOfObjectsProcessed" if objects else "numOfLeadsProcessed"] = processed
            result |= {"numOfRowsFailed": failed, "numOfRowsWithWarning": warned}
            result["message"] = _message(status, processed, failed, warned, self.settings.failed_message)
        if objects and status == "Complete":
            result["importTime"] = f"{round(job.seconds)} second(s)"
        return envelope(self._request_id(), success=True, result=[result])

    def _file(self, job: Job, what: str) -> Response:
        assert job.judgement is not None
        rows: tuple[Judged, ...] = ()
        if job.status(self.now) == "Complete":
            rows = job.judgement.failed if what == "failures" else job.judgement.warned
        headers = {"Content-Type": "text/csv;charset=UTF-8"}
        if not rows:
            if job.kind.startswith("customobjects") or self.settings.no_rows == "404":
                raise _Refused("404", "", 404)
            if self.settings.no_rows == "empty":
                return Response(200, headers, b"")
        column = "Import Failure Reason" if what == "failures" else "Import Warning Reason"
        body = result_file(job.judgement.header, rows, column, job.format, job.keys, self.settings, self._rng)
        return Response(200, headers, body)

    def _describe(self, path: str, query: Mapping[str, str]) -> Response:
        result: list[object]
        if path == "/rest/v1/leads/describe2.json":
            fields = [described(field) for field in LEAD_FIELDS]
            result = [{"name": "API Lead", "searchableFields": [[f] for f in sorted(LOOKUP_FIELDS)], "fields": fields}]
        elif match := re.match(r"/rest/v1/customobjects/([^/]+)/describe\.json\Z", path):
            if match[1] not in OBJECTS:
                raise _Refused("1013", f"Object '{match[1]}' not found")
            keys, object_fields = OBJECTS[match[1]]
            result = [
                {
                    "name": match[1],
                    "idField": "marketoGUID",
                    "dedupeFields": list(keys),
                    "searchableFields": [list(keys)],
                    "fields": [described(field) for field in object_fields],
                }
            ]
        elif path == "/rest/v1/programs/members/describe.json":
            fields = [described(field) for field in LEAD_FIELDS]
            result = [{"name": "API Program Membership", "dedupeFields": ["leadId", "programId"], "fields": fields}]
        elif path == "/rest/v1/leads/partitions.json":
            result = [{"id": i, "name": name} for i, name in enumerate(self.settings.partitions, 1)]
        elif path == "/rest/v1/lists.json":
            result = [
                {"id": number, "name": f"List {number}"}
                for number in sorted(self.settings.lists)
                if query.get("id", str(number)) == str(number)
                and query.get("name", f"List {number}") == f"List {number}"
            ]
        elif match := re.match(r"/rest/v1/lists/(\d+)\.json\Z", path):
            if int(match[1]) not in self.settings.lists:
                raise _Refused("1013", f"List '{match[1]}' not found")
            result = [{"id": int(match[1]), "name": f"List {match[1]}"}]
        elif path == "/rest/v1/stats/usage.json":
            users = [{"userId": "apis@example.com", "count": self._calls_today}]
            result = [{"date": "2026-01-01", "total": self._calls_today, "users": users}]
        else:
            raise _Refused("610", "Requested resource not found")
        return envelope(self._request_id(), success=True, result=result)

    # --- others, rules, truth ---------------------------------------------------------------------------

    def occupy(self, count: int, now: float, seconds: float = float("inf")) -> None:
        """Jobs of other integrations take up places, each processed for so long."""
        self.now = max(self.now, now)
        self.queue.advance(self.now)
        for _ in range(min(count, self.settings.queue_limit - len(self.queue))):
            job = Job(batch_id=0, kind="foreign", accepted_at=self.now, seconds=seconds, ours=False)
            self.queue.add(job, self.now)

    def release(self, count: int, now: float) -> None:
        """Jobs of others end now."""
        self.now = max(self.now, now)
        self.queue.advance(self.now)
        self.queue.release(count, self.now)

    def truth(self, now: float) -> dict[str, Any]:
        """What really happened: for every batch of ours its rows, failures, warnings and times."""
        self.now = max(self.now, now)
        self.queue.advance(self.now)
        return {
            "batches": [
                {
                    "batch_id": job.batch_id,
                    "sha256": job.sha256,
                    "status": job.status(self.now),
                    "rows": job.judgement.rows,
                    "failed": [asdict(row) for row in job.judgement.failed],
                    "warned": [asdict(row) for row in job.judgement.warned],
                    "accepted_at": job.accepted_at,
                    "started_at": job.started_at,
                    "ended_at": job.ended_at,
                    "processor": job.processor,
                }
                for job in self.jobs.values()
                if job.judgement is not None
            ],
            **self.state(),
        }

    def state(self) -> dict[str, Any]:
        """The queue and the counters."""
        return {
            "unfinished": len(self.queue),
            "ours_unfinished": self.queue.ours(),
            "most_ours": self.queue.most_ours,
            "batches_accepted": len(self.jobs),
            "rows_accepted": sum(job.judgement.rows for job in self.jobs.values() if job.judgement),
            "busy": busy_shares([*self.queue.ended, *self.queue.running.values()], self.settings.workers),
            "calls": dict(self.calls),
            "refused_imports": dict(self.refused_imports),
            "faults": dict(self.faults.injected),
            "violations": [asdict(violation) for violation in self.violations],
        }

    def _watch(self, request: Request, path: str, query: Mapping[str, str]) -> None:
        if "//" in path:
            self._note("double slash in the path", path)
        for name in ("access_token", "client_secret"):
            if name in query:
                self._note("secret in the address", name)

    def _note(self, rule: str, detail: str) -> None:
        self.violations.append(Violation(self.now, rule, detail))

    def _request_id(self) -> str:
        return f"{self._requests:x}#{int(self.now * 1000):x}"


_OTHER = re.compile(
    r"/rest/v1/(leads/(describe2|partitions)|programs/members/describe|lists(/\d+)?|stats/usage"
    r"|customobjects/[^/]+/describe)\.json\Z"
)


def _full_kind(kind: str, name: str | None) -> str:
    return f"customobjects:{name}" if kind == "customobjects" else kind


def _token_in_form(request: Request) -> str:
    try:
        return parse(request.body, request.headers.get("content-type", "")).fields.get("access_token", "")
    except MalformedError:
        return ""


def _kind(method: str, path: str) -> str:
    if path == _IDENTITY:
        return "token"
    if any(pattern.match(path) for pattern, _ in _CREATE):
        return "create" if method == "POST" else "other"
    for pattern, _ in _BATCH:
        if match := pattern.match(path):
            return match["what"] or "status"
    return "other"


def _missing_key(key: str) -> str:
    return f"Value for lookup field '{key}' not found"


def _message(status: str, processed: int, failed: int, warned: int, failed_message: str) -> str:
    if status == "Failed":
        return failed_message
    if status == "Importing":
        return ""
    if failed:
        return f"Import completed with errors, {processed} records imported ({processed} members), {failed} failed"
    tail = f", {warned} warning." if warned else ""
    return f"Import succeeded, {processed} records imported ({processed} members){tail}"


def _json(body: object) -> Response:
    return Response(200, {"Content-Type": JSON}, json.dumps(body).encode())
