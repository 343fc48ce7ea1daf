"""How does one call get its turn and its token?

Every call of a subscription goes through one Caller: so many at a time, so many in any 20 seconds, all of them
paused when Marketo says 606 or 615, and with a token that the subscription has now. A token is renewed by one
task at a time, keyed by the token that failed: whoever comes second finds it renewed. The identity service hands
back the same token until it has run out, so a dying one is waited out, never fought.

What a call means and whether it is repeated is the runner's business, except for 601 and 602: those were not
executed, and are repeated here with a new token, twice at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import anyio

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.marketo import Marketo, Token
from orchestrator.core.pace import CallWindow
from orchestrator.core.verdicts import CallKind, Failed, Outcome, Ruling, Verdict, judge

TOKEN_RENEWALS = 2
"""Renewals within one call before we say that the token keeps being rejected."""
UPLOAD_MARGIN_S = 60.0
"""An upload is not begun with less life than this left in the token: its answer would be 602."""
SILENT_S = 1800.0
"""When calls have done nothing but fail for so long, Marketo is out of order. So long without any call is no part
of it: the machine slept, or there was nothing to ask."""
TOKEN_RETRY_S = (0.5, 30.0)
"""First and longest wait before the identity service is asked again after a failure."""
_NOTHING_DONE = frozenset({Verdict.RENEW_TOKEN, Verdict.ASK_AGAIN, Verdict.DOUBT, Verdict.GIVE_UP_LOAD})


class Caller:
    """The turns and the token of one subscription. `made` counts the calls that were made, by kind."""

    def __init__(
        self,
        marketo: Marketo,
        clock: Clock,
        rng: Random,
        *,
        calls_per_20s: int,
        concurrent_calls: int,
        turns: anyio.Semaphore | None = None,
    ) -> None:
        """turns: taken by every call; given where several loads of one process share `concurrent_calls`."""
        self._marketo, self._clock, self._rng = marketo, clock, rng
        self._calls_per_20s = calls_per_20s
        self._window = CallWindow(calls_per_20s)
        self._turns = turns or anyio.Semaphore(concurrent_calls)
        self._window_lock = anyio.Lock()
        self.next_turn_at = 0.0
        """When a call that waits for its turn is made; in the past when none waits."""
        self._token_lock = anyio.Lock()
        self._token: Token | None = None
        self._token_until = 0.0
        self._token_failures = 0
        self.made: Counter[CallKind] = Counter()
        self.calls = 0
        """All calls that were made, tokens excluded: those do not count against the day's quota."""
        self.sound_at: float | None = None
        """When Marketo last gave an answer that made sense; None until the first."""
        self.trouble = ""
        """Why the newest call did nothing; empty after one that did."""
        self.failing_s = 0.0
        """For how long calls have done nothing, from the first to the newest of them since one last did."""
        self._failed_at: float | None = None

    async def call(self, kind: CallKind, ask: Callable[[str], Awaitable[Outcome]]) -> tuple[Outcome, Ruling]:
        """Make one call when its turn has come: its outcome and what that means.

        `ask` gets a token and makes the exchange; it may be asked again with another token.
        """
        rejected: str | None = None
        for _ in range(TOKEN_RENEWALS + 1):
            token = await self._current_token(rejected, UPLOAD_MARGIN_S if kind == "create" else 0.0)
            if isinstance(token, Failed):
                return token, judge(token, "token")
            async with self._turns:
                await self._turn()
                outcome = await ask(token.value)
                self.made[kind] += 1
                self.calls += 1
            ruling = judge(outcome, kind)
            self._remember(outcome, kind, ruling)
            if ruling.verdict is Verdict.SLOW_DOWN:
                self._window.pause(self._clock.now() + ruling.wait_s * self._rng.uniform(1.0, 1.2))
            if ruling.verdict is not Verdict.RENEW_TOKEN:
                return outcome, ruling
            rejected = token.value
        why = f"Marketo keeps rejecting the token it hands out ({ruling.why})"
        return outcome, Ruling(Verdict.ASK_AGAIN, why)

    @property
    def paused_until(self) -> float:
        """No call is made before: Marketo said that the subscription is over its rate."""
        return self._window.paused_until

    def share_pace(self, callers: int) -> None:
        """So many processes make calls of this subscription now: each keeps to its part of the pace."""
        self._window.allow(max(1, self._calls_per_20s // max(1, callers)))

    async def _turn(self) -> None:
        """Wait until one more call fits into the window, and take that place."""
        async with self._window_lock:  # first come, first served: nobody starves
            while (at := self._window.next_at(self._clock.now())) > self._clock.now():
                self.next_turn_at = at
                await anyio.sleep(at - self._clock.now())
            self._window.made(self._clock.now())

    async def _current_token(self, rejected: str | None, margin_s: float) -> Token | Failed:
        """A token other than the rejected one, with at least `margin_s` to live; Failed when there is none."""
        async with self._token_lock:
            for _ in range(4):
                now = self._clock.now()
                if self._token is not None and self._token.value != rejected:
                    left_s = self._token_until - now
                    if left_s > margin_s:
                        return self._token
                    if left_s > 0:  # asking now would hand back this very token
                        await anyio.sleep(left_s + 1.0)
                answer = await self._marketo.token()
                self.made["token"] += 1
                if isinstance(answer, Failed):
                    self._token_failures += 1
                    self._remember(answer, "token", judge(answer, "token"))
                    first_s, longest_s = TOKEN_RETRY_S
                    wait_s = min(longest_s, first_s * 2.0**self._token_failures)
                    if answer.http_status != 401:
                        await anyio.sleep(wait_s * self._rng.uniform(0.5, 1.0))
                    return answer
                self._token_failures = 0
                self.sound_at = self._clock.now()
                if answer.life_s < 1.0:  # its last second: wait it out
                    await anyio.sleep(1.0)
                    continue
                if answer.value == rejected:  # the service stands by it: give both a moment, then believe it
                    await anyio.sleep(1.0)
                    rejected = None
                self._token, self._token_until = answer, self._clock.now() + answer.life_s
        return Failed("the identity service keeps handing out a token that is over")

    def _remember(self, outcome: Outcome, kind: CallKind, ruling: Ruling) -> None:
        """A sound envelope may say for ever that nothing can be done. (That a batch is unknown does say something.)

        Questions beside the load prove that Marketo works, and not that it does not.
        """
        now = self._clock.now()
        if not isinstance(outcome, Failed):
            self.sound_at = now
        if ruling.verdict not in _NOTHING_DONE or ruling.then is Verdict.GONE:
            self.trouble, self.failing_s, self._failed_at = "", 0.0, None
            return
        self.trouble = ruling.why or "no reason was given"
        if kind != "other":
            if self._failed_at is not None and now - self._failed_at < SILENT_S:
                self.failing_s += now - self._failed_at
            self._failed_at = now
