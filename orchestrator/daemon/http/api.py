"""How is the desk put behind JSON? One function for each thing that can be asked.

Errors are `{"error": {"code": ..., "message": ...}}`. Times are seconds since the epoch.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import quote

import anyio
import anyio.to_thread
import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.core.model import Standing
from orchestrator.daemon.deliveries import printable, sync_folder
from orchestrator.daemon.desk import Desk, NotPossible, NotThere
from orchestrator.daemon.events import Changes
from orchestrator.daemon.http.guard import RefusedError
from orchestrator.daemon.http.openapi import description
from orchestrator.daemon.overview import REPORT_NAMES, LoadView, Overview, Phase, QueueView
from orchestrator.errors import Misconfigured, OrchestratorError

log = structlog.get_logger()

PAGE = 100
EVENTS_EVERY_S = 1.0
LOOK_EVERY_S = 5.0
LISTENERS_MAX = 16
"""Of the connections that there may be, as many may be kept by people who watch."""
REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""A report's page has a policy of its own, stricter yet; in a sandbox it is nobody's origin, least of all ours."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Create(_Asked):
    upload: Annotated[str, StringConstraints(max_length=40)] | None = None
    inbox: Annotated[str, StringConstraints(max_length=600)] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class _Resume(_Asked):
    on_doubt: Literal["resend", "stop"] | None = None


class _Priority(_Asked):
    priority: Literal["low", "normal", "high"]


class _Nothing(_Asked):
    pass


T = TypeVar("T", bound=_Asked)


class Api:
    """The routes under /api/v1."""

    def __init__(self, desk: Desk, changes: Changes, stopping: anyio.Event) -> None:
        self._desk, self._changes, self._stopping = desk, changes, stopping
        self._listeners = 0

    def routes(self) -> list[Route]:
        at = "/api/v1"
        return [
            Route(f"{at}/openapi.json", self.openapi),
            Route(f"{at}/status", self.status),
            Route(f"{at}/events", self.events),
            Route(f"{at}/uploads", self.upload, methods=["POST"]),
            Route(f"{at}/loads", self.create, methods=["POST"]),
            Route(f"{at}/loads", self.loads),
            Route(f"{at}/loads/{{id}}", self.load),
            Route(f"{at}/loads/{{id}}/chunks", self.chunks),
            Route(f"{at}/loads/{{id}}/report/{{name}}", self.report),
            Route(f"{at}/loads/{{id}}/pause", self.pause, methods=["POST"]),
            Route(f"{at}/loads/{{id}}/resume", self.resume, methods=["POST"]),
            Route(f"{at}/loads/{{id}}/cancel", self.cancel, methods=["POST"]),
            Route(f"{at}/loads/{{id}}/priority", self.prioritise, methods=["POST"]),
        ]

    # --- looking ----------------------------------------------------------------------------------------

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(description())

    async def status(self, _: Request) -> Response:
        return JSONResponse(status_object(await self._desk.overview()))

    async def loads(self, request: Request) -> Response:
        overview = await self._desk.overview()
        phase, most = request.query_params.get("phase"), _number(request, "limit", PAGE, 1, 200)
        if phase is not None and phase not in get_args(Phase):
            raise RefusedError(422, f"phase: one of {', '.join(get_args(Phase))}")
        found = [one for one in overview.loads if phase in (None, one.phase)]
        return JSONResponse({"loads": [load_object(one) for one in found[:most]]})

    async def load(self, request: Request) -> Response:
        return JSONResponse(load_object(await self._desk.load(request.path_params["id"])))

    async def chunks(self, request: Request) -> Response:
        after = _number(request, "after", 0, 0, 2**62)
        most = _number(request, "limit", PAGE, 1, 1_000)
        found = await self._desk.chunks(request.path_params["id"], after, most)
        chunks = [chunk_object(one) for one in found]
        return JSONResponse({"chunks": chunks, "next": found[-1].number if len(found) == most else None})

    async def report(self, request: Request) -> Response:
        name = request.path_params["name"]
        path = await self._desk.report(request.path_params["id"], name)
        shown = name == "report.html"
        headers = {"content-disposition": f"{'inline' if shown else 'attachment'}; filename={quote(name)}"}
        if shown:
            headers["content-security-policy"] = REPORT_POLICY
        return FileResponse(path, headers=headers, media_type=REPORT_NAMES[name])

    async def events(self, request: Request) -> Response:
        """Server-sent events: the status, whenever something has changed, once a second at most."""
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if self._listeners >= LISTENERS_MAX:
            raise RefusedError(503, "too many are watching already")

        async def lines() -> AsyncIterator[str]:
            self._listeners += 1
            try:
                seen, before = -1, ""
                while not self._stopping.is_set():
                    seen = await self._changes.wait(seen, LOOK_EVERY_S)
                    status = status_object(await self._desk.overview())
                    changed = json.dumps({**status, "at": 0})  # also what other processes did
                    if changed == before:
                        yield ": still here\n\n"
                    else:
                        yield f"event: status\ndata: {json.dumps(status)}\n\n"
                    before = changed
                    await anyio.sleep(EVENTS_EVERY_S)
            finally:
                self._listeners -= 1

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    # --- changing ---------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """The body as a file; a load is made of it by the next request."""
        name = request.query_params.get("name", "")
        if not 0 < len(name) <= 255 or "/" in name or "\0" in name:
            raise RefusedError(422, "name: the file's name, without a path, in the query")
        delivery, path = await self._desk.begin_upload(name)
        part = path.with_name("upload.part")
        size = 0
        try:
            async with await anyio.open_file(part, "xb") as file:
                async for piece in request.stream():
                    size += len(piece)
                    await file.write(piece)
            await anyio.to_thread.run_sync(_keep, part, path)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._desk.forget_upload(delivery)
            raise
        return JSONResponse({"upload": delivery.id, "name": delivery.name, "bytes": size}, status_code=201)

    async def create(self, request: Request) -> Response:
        asked = await _asked(request, _Create)
        if (asked.upload is None) == (asked.inbox is None):
            raise RefusedError(422, "name either an upload or a file of the inbox")
        delivery = await self._desk.create(upload=asked.upload, inbox=asked.inbox, settings=asked.settings)
        log.info("load.asked_for", delivery=delivery.id)
        headers = {"location": f"/api/v1/loads/{delivery.id}"}
        return JSONResponse({"id": delivery.id, "name": delivery.name}, status_code=202, headers=headers)

    async def pause(self, request: Request) -> Response:
        await _asked(request, _Nothing)
        await self._desk.pause(request.path_params["id"])
        return await self._changed(request, "pause")

    async def resume(self, request: Request) -> Response:
        asked = await _asked(request, _Resume)
        await self._desk.resume(request.path_params["id"], asked.on_doubt)
        return await self._changed(request, "resume")

    async def cancel(self, request: Request) -> Response:
        await _asked(request, _Nothing)
        cancelled = await self._desk.cancel(request.path_params["id"])
        return await self._changed(request, "cancel", in_marketo=cancelled.in_marketo, note=cancel_note(cancelled))

    async def prioritise(self, request: Request) -> Response:
        asked = await _asked(request, _Priority)
        await self._desk.prioritise(request.path_params["id"], asked.priority)
        return await self._changed(request, "priority")

    async def _changed(self, request: Request, what: str, **more: Any) -> Response:
        log.info("load.changed", id=request.path_params["id"], change=what)
        return JSONResponse({"id": request.path_params["id"], "accepted": what, **more}, status_code=202)


def _keep(part: Path, path: Path) -> None:
    """Durable before anybody is told that it is there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def cancel_note(cancelled: Any) -> str:
    """What people must know who cancel a load."""
    if cancelled.in_marketo:
        return (
            f"{cancelled.in_marketo} batches are in Marketo, which cannot cancel them: they go on, and their rows "
            "count. Nothing else is sent. The report is written when they have ended."
        )
    return "Nothing else is sent. The report is written at once."


async def _asked(request: Request, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RefusedError(422, f"{where}: {first['msg']}" if where else str(first["msg"])) from None


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise RefusedError(422, f"{name}: a number from {low} to {high}")
    return int(text)


# --- as JSON --------------------------------------------------------------------------------------------


def load_object(one: LoadView) -> dict[str, Any]:
    made = asdict(one)
    made.pop("report_dir")  # a path of ours
    made["reports"] = list(REPORT_NAMES) if one.report_dir is not None and one.ended_at is not None else []
    return made


def chunk_object(standing: Standing) -> dict[str, Any]:
    offer = standing.offer
    counts = offer.counts if offer is not None else None
    return {
        "chunk": standing.number,
        "state": str(standing.state),
        "rows": standing.rows,
        "attempts": standing.attempts,
        "batch_id": offer.batch_id if offer is not None else None,
        "imported": counts.imported if counts is not None else None,
        "failed": counts.failed - standing.moved if counts is not None else None,
        "sent_again": standing.moved,
        "warned": counts.warned if counts is not None else None,
        "why": printable(standing.why),
    }


def queue_object(queue: QueueView) -> dict[str, Any]:
    return {
        "subscription": queue.name,
        "slots": [asdict(slot) for slot in queue.slots],
        "calls_left": queue.calls_left,
        "calls_used": queue.calls_used,
        "calls_per_day": queue.calls_per_day,
    }


def status_object(overview: Overview) -> dict[str, Any]:
    """Everything that is not over, and the queues."""
    return {
        "at": overview.at,
        "loads": [load_object(one) for one in overview.loads if one.ended_at is None],
        "queues": [queue_object(queue) for queue in overview.queues],
        "reasons": [{"kind": kind, "reason": why, "rows": rows} for kind, why, rows in overview.reasons],
        "waiting": list(overview.waiting),
        "not_taken": [asdict(one) for one in overview.not_taken],
    }


def errors() -> dict[Any, Any]:
    """What of the desk's and ours becomes which answer."""

    async def answer(status: int, _: Request, error: Exception) -> Response:
        message = error.sentence if isinstance(error, OrchestratorError) else str(error)
        return JSONResponse({"error": {"code": status, "message": message}}, status_code=status)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return JSONResponse({"error": {"code": error.status, "message": error.why}}, status_code=error.status)

    async def broken(_: Request, error: Exception) -> Response:
        status, message = 500, "a fault of ours; the daemon's log has it"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            status, message = 507, "the disk is full"
        return JSONResponse({"error": {"code": status, "message": message}}, status_code=status)

    return {
        RefusedError: refused,
        OrchestratorError: partial(answer, 503),
        500: broken,
        NotThere: partial(answer, 404),
        NotPossible: partial(answer, 409),
        Misconfigured: partial(answer, 422),
        404: partial(answer, 404),
        405: partial(answer, 405),
    }


async def healthz(_: Request) -> Response:
    """That the process answers, and nothing else."""
    return PlainTextResponse("ok\n")
