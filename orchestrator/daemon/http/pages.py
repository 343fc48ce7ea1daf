"""What does a person see? The status page, a page for each load, and the sign-in.

Made on the server and whole without a script; the script only puts fresh parts in place. Every text from outside is
escaped by the templates. A change is a form with a key that is signed with the session, sent from our own origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from statistics import median
from typing import Any
from urllib.parse import parse_qs

import jinja2
import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from orchestrator.adapters.render.page import FILLS, KINDS, filters, style
from orchestrator.core.lifecycle import HOLDS_SLOT
from orchestrator.daemon.desk import Desk, NotPossible, NotThere
from orchestrator.daemon.http.guard import COOKIE, RefusedError
from orchestrator.daemon.http.tokens import SESSION_S, Tokens
from orchestrator.daemon.overview import HOURS_SHOWN, REPORT_NAMES, LoadView, Overview

log = structlog.get_logger()

OPEN_SHOWN, ENDED_SHOWN, CHUNKS_SHOWN = 100, 50, 200
FIELDS_MAX = 10
WORDS = {
    "waiting": "waiting",
    "running": "loading",
    "paused": "paused",
    "done": "loaded",
    "failed": "not loaded",
    "elsewhere": "loading, in another process",
    "interrupted": "interrupted",
    "finished": "loaded",
}
SLOT_WORDS = {
    "free": "free",
    "sending": "being sent",
    "doubtful": "doubtful",
    "queued": "queued",
    "importing": "importing",
    "others": "others'",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How everything is, at a glance."""

    word: str
    sentence: str
    tone: str


def verdict_of(overview: Overview) -> Verdict:
    """The whole picture in a word and a sentence."""
    running = [load for load in overview.loads if load.phase in ("running", "elsewhere")]
    paused = [load for load in overview.loads if load.phase == "paused"]
    put_off = [load for load in overview.loads if load.phase == "waiting" and load.why]
    others = sum(queue.count("others") for queue in overview.queues)
    doubtful = sum(queue.count("doubtful") for queue in overview.queues)
    said = [f"{_count(len(running), 'load')} under way"] if running else ["Nothing is under way"]
    waits = sum(load.phase == "waiting" for load in overview.loads)
    said += [f"{waits:,} waiting"] if waits else []
    said += [f"{len(paused):,} paused"] if paused else []
    said += [f"{_count(doubtful, 'place')} held by an upload whose answer was lost"] if doubtful else []
    said += [f"{_count(others, 'place')} taken by others when it was last tried"] if others else []
    sentence = ", ".join(said) + "."
    if put_off:
        return Verdict("Trouble", f"{sentence} {put_off[0].name}: {put_off[0].why}", "bad")
    if running and others and not any(queue.count("free") for queue in overview.queues):
        return Verdict("Waiting for others", sentence, "")
    if running:
        return Verdict("Loading", sentence, "good")
    if paused:
        return Verdict("Paused", sentence, "")
    return Verdict("Idle", sentence, "good")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def ending(load: LoadView) -> str:
    """How it ended, in words."""
    if load.cancelled:
        return "cancelled"
    match load.exit_code:
        case 0 | 4:
            return "all rows imported" if load.exit_code == 0 else "imported, with warnings"
        case 3:
            return "some rows are not imported" if load.imported else "nothing is imported"
        case _:
            return "not loaded"


class Pages:
    """The routes for people."""

    def __init__(self, desk: Desk, tokens: Tokens, now: Any, *, secure: bool) -> None:
        self._desk, self._tokens, self._now, self._secure = desk, tokens, now, secure

    def routes(self) -> list[Route]:
        return [
            Route("/", self.status),
            Route("/loads/{id}", self.load),
            Route("/loads/{id}/{change}", self.change, methods=["POST"]),
            Route("/login", self.sign_in, methods=["GET", "POST"]),
            Route("/logout", self.sign_out, methods=["POST"]),
            Route("/style.css", self.style),
            Route("/script.js", self.script),
            Route("/icon.svg", self.icon),
        ]

    # --- looking ----------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        overview = await self._desk.overview()
        open = [load for load in overview.loads if load.ended_at is None]
        return self._page(
            request,
            "status",
            live=True,
            at=overview.at,
            verdict=verdict_of(overview),
            open=open[:OPEN_SHOWN],
            open_count=len(open),
            ended=[load for load in overview.loads if load.ended_at is not None][:ENDED_SHOWN],
            queues=overview.queues,
            reasons=overview.reasons,
            waiting=overview.waiting,
            not_taken=overview.not_taken,
            hours=HOURS_SHOWN,
        )

    async def load(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        number = int(after) if after.isascii() and after.isdigit() and len(after) < 12 else 0
        try:
            load = await self._desk.load(request.path_params["id"])
            chunks = await self._desk.chunks(load.id, number, CHUNKS_SHOWN)
        except NotThere as error:
            return self._message(request, "There is no such load", str(error), status=404)
        tone = "" if load.ended_at is None or load.exit_code == 3 else "good"
        tone = "bad" if load.phase == "failed" else tone
        return self._page(
            request,
            "load",
            live=True,
            at=self._now(),
            load=load,
            tone=tone,
            chunks=chunks,
            after=number,
            more=len(chunks) == CHUNKS_SHOWN,
            page=CHUNKS_SHOWN,
            reports=list(REPORT_NAMES) if load.report_dir and load.load_id and load.ended_at is not None else [],
            in_marketo=sum(load.chunks.get(state, 0) for state in HOLDS_SLOT),
        )

    async def style(self, _: Request) -> Response:
        return Response(style() + _file("status.css"), media_type="text/css")

    async def script(self, _: Request) -> Response:
        return Response(_file("status.js"), media_type="text/javascript")

    async def icon(self, _: Request) -> Response:
        return Response(_file("icon.svg"), media_type="image/svg+xml")

    # --- changing ---------------------------------------------------------------------------------------

    async def change(self, request: Request) -> Response:
        id, change = request.path_params["id"], request.path_params["change"]
        form = await self._form(request)
        try:
            match change, form:
                case "pause", {}:
                    await self._desk.pause(id)
                case "resume", {"on_doubt": "resend"}:
                    await self._desk.resume(id, "resend")
                case "resume", {}:
                    await self._desk.resume(id, None)
                case "cancel", {}:
                    await self._desk.cancel(id)
                case "priority", {"priority": "low" | "normal" | "high" as priority}:
                    await self._desk.prioritise(id, priority)
                case _:
                    raise RefusedError(404, "there is no such change")
        except NotThere as error:
            return self._message(request, "There is no such load", str(error), status=404)
        except NotPossible as error:
            return self._message(request, "That cannot be done", str(error), status=409)
        log.info("load.changed", id=id, change=change)
        return RedirectResponse(f"/loads/{id}", status_code=303)

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form of our own page. Raises RefusedError."""
        fields = await _fields(request)
        session = request.scope["state"]["session"] if request.scope["state"]["who"] == "session" else ""
        if not self._tokens.is_form_key(fields.pop("key", ""), session):
            raise RefusedError(403, "the form is not one of this daemon's pages, or is too old: load the page again")
        return fields

    async def sign_in(self, request: Request) -> Response:
        """A token becomes a session. (The form needs no key: there is no session yet, and the Origin is ours.)"""
        if request.method != "POST":
            return self._page(request, "login", wrong="")
        now = self._now()
        if not self._tokens.may_try(now):
            return self._page(request, "login", status=429, wrong="Too many wrong tokens: wait a minute.")
        fields = await _fields(request)
        if not self._tokens.is_token(fields.get("token", "").strip()):
            self._tokens.failed(now)
            return self._page(request, "login", status=403, wrong="That is not the token.")
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            COOKIE,
            self._tokens.session(now),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        await self._form(request)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=self._secure)
        return answer

    # --- parts ------------------------------------------------------------------------------------------

    def _page(self, request: Request, name: str, *, status: int = 200, live: bool = False, **more: Any) -> Response:
        state = request.scope["state"]
        session = state["session"] if state["who"] == "session" else ""
        context: Mapping[str, Any] = {
            "live": live,
            "signed_in": bool(session),
            "key": self._tokens.form_key(session),
            "words": WORDS,
            "slot_words": SLOT_WORDS,
            "kinds": KINDS,
            "fills": FILLS,
            "ending": ending,
            **more,
        }
        return HTMLResponse(_templates().get_template(f"{name}.html.jinja").render(context), status_code=status)

    def _message(self, request: Request, heading: str, text: str, *, status: int) -> Response:
        return self._page(request, "message", status=status, heading=heading, text=text, back="/")


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form. Raises RefusedError."""
    text = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=FIELDS_MAX).items()}
    except ValueError:
        raise RefusedError(422, "no form of this daemon has so many fields") from None


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _templates() -> jinja2.Environment:
    """Compiled once."""
    loader = jinja2.FunctionLoader(_file)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters())
    environment.filters.update(clock=_clock, median=median)
    return environment


def _clock(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%-d %b %H:%M:%S") if at is not None else ""
