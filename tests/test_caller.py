"""Turns and tokens, under virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import anyio
import httpx
import pytest
from simulation.virtual import VirtualClock, run

from orchestrator.adapters.marketo import Marketo
from orchestrator.caller import TOKEN_RENEWALS, Caller
from orchestrator.core.model import BatchId, Target
from orchestrator.core.verdicts import Answered, Failed, Outcome, Ruling, Verdict

T = TypeVar("T")


def reply(status: int, body: dict[str, object]) -> httpx.Response:
    """An answer whose body is still to be read, as from a socket."""
    return httpx.Response(status, stream=httpx.ByteStream(json.dumps(body).encode()))


class Service(httpx.AsyncBaseTransport):
    """An identity service and one endpoint. Tokens as documented: shared, and not to be renewed early."""

    def __init__(self, life_s: float = 3600.0) -> None:
        self.life_s, self.issued, self.until = life_s, 0, 0.0
        self.identity_calls = self.calls = self.in_flight = self.most_in_flight = 0
        self.call_times: list[float] = []
        self.identity_status = 200
        self.answer: Callable[[str], dict[str, object]] = lambda token: {"success": True, "result": []}

    @property
    def token(self) -> str:
        return f"token-{self.issued}"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        now = asyncio.get_running_loop().time()
        if request.url.path == "/identity/oauth/token":
            self.identity_calls += 1
            await asyncio.sleep(0.05)
            if self.identity_status != 200:
                return reply(self.identity_status, {"error": "invalid_client"})
            if now >= self.until:
                self.issued += 1
                self.until = now + self.life_s
            return reply(200, {"access_token": self.token, "expires_in": int(self.until - now)})
        self.calls += 1
        self.call_times.append(now)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.2)
        self.in_flight -= 1
        sent = request.headers["Authorization"].removeprefix("Bearer ")
        if sent != self.token or now >= self.until:
            return reply(200, {"success": False, "errors": [{"code": "602", "message": "expired"}]})
        return reply(200, self.answer(sent))


def with_caller(
    service: Service, main: Callable[[Caller, Marketo], Awaitable[T]], calls_per_20s: int = 50
) -> tuple[T, float]:
    async def body() -> T:
        client = Marketo("https://host", "id", "secret", transport=service)
        caller = Caller(client, VirtualClock(), Random(1), calls_per_20s=calls_per_20s, concurrent_calls=5)  # type: ignore[arg-type]
        return await main(caller, client)

    return run(body, end=100_000.0)


def ask(caller: Caller, client: Marketo) -> Awaitable[tuple[Outcome, Ruling]]:
    return caller.call("status", lambda token: client.status(token, Target(), BatchId(1)))


async def ask_often(caller: Caller, client: Marketo, times: int) -> list[Ruling]:
    rulings: list[Ruling] = []

    async def one() -> None:
        rulings.append((await ask(caller, client))[1])

    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(one)
    return rulings


def test_forty_calls_with_an_expired_token_fetch_one_new_token() -> None:
    """A storm of renewals would hit the identity service and could lock the user out."""
    service = Service(life_s=10.0)

    async def main(caller: Caller, client: Marketo) -> list[Ruling]:
        await ask(caller, client)
        service.until = 0.0  # revoked at Marketo: our deadline does not know
        return await ask_often(caller, client, 40)

    rulings, _ = with_caller(service, main, calls_per_20s=1000)
    assert all(ruling.verdict is Verdict.DONE for ruling in rulings)
    assert service.identity_calls == 2


def test_a_dying_token_is_waited_out_before_an_upload() -> None:
    """The identity service hands back the same token until it is over: asking again and again is a loop."""
    service = Service(life_s=3600.0)

    async def main(caller: Caller, client: Marketo) -> str:
        await ask(caller, client)
        await anyio.sleep(3570.0)
        seen: list[str] = []

        async def upload(token: str) -> Outcome:
            seen.append(token)
            return Answered(True, ())

        await caller.call("create", upload)
        return seen[0]

    token, ended_at = with_caller(service, main)
    assert token == "token-2"
    assert service.identity_calls <= 4
    assert 3600 <= ended_at < 3620


def test_a_token_that_keeps_being_rejected_is_not_renewed_for_ever() -> None:
    """Two renewals per call, then the runner decides; otherwise one bad answer loops at full speed."""
    service = Service()
    service.answer = lambda token: {"success": False, "errors": [{"code": 601, "message": "Unauthorized"}]}
    (_, ruling), _ = with_caller(service, ask)
    assert ruling.verdict is not Verdict.DONE
    assert service.calls <= TOKEN_RENEWALS + 1


def test_wrong_credentials_are_told_at_once() -> None:
    """401 does not pass by waiting."""
    service = Service()
    service.identity_status = 401
    (outcome, ruling), ended_at = with_caller(service, ask)
    assert isinstance(outcome, Failed)
    assert (ruling.verdict, ruling.exit_code) == (Verdict.GIVE_UP_LOAD, 77)
    assert ended_at < 1.0


@pytest.mark.parametrize("calls_per_20s", [5, 50])
def test_calls_keep_to_the_window_and_to_the_number_at_a_time(calls_per_20s: int) -> None:
    """606 and 615 hit every integration of the subscription, not only us."""
    service = Service()
    with_caller(service, lambda caller, client: ask_often(caller, client, 120), calls_per_20s)
    for start in service.call_times:
        assert sum(start <= at < start + 20.0 for at in service.call_times) <= calls_per_20s
    assert service.most_in_flight <= 5
    assert len(service.call_times) == 120


@pytest.mark.parametrize(("code", "pause_s"), [("606", 20.0), ("615", 2.0)])
def test_one_refusal_for_rate_pauses_everybody(code: str, pause_s: float) -> None:
    """A back-off of the one task that was told would leave the others hammering."""
    service = Service()
    service.answer = lambda token: {"success": False, "errors": [{"code": code, "message": "slow"}]}

    async def main(caller: Caller, client: Marketo) -> None:
        await ask(caller, client)
        service.answer = lambda token: {"success": True, "result": []}
        await ask_often(caller, client, 3)

    with_caller(service, main)
    assert service.call_times[1] - service.call_times[0] >= pause_s
