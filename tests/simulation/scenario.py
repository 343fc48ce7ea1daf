"""What does one seed stand for? Loads, who runs them and how often they die, and everything that goes wrong meanwhile.

Every seed has its own subset of what can go wrong, some of it often: most faults meet only some states of a chunk, and
a seed in which everything goes wrong at once never gets far enough to meet them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from random import Random

from orchestrator.simulator.faults import AFTER, KINDS
from orchestrator.simulator.settings import Settings

SECRET = "canary-client-secret"


@dataclass
class Command:
    """Somebody gives one command again and again until its load is over."""

    source: int = 0
    at: float = 0.0
    crashes: list[int] = field(default_factory=list)
    """The n-th point of the first, second, ... process is its last."""
    stops: list[float] = field(default_factory=list)
    """Seconds after which the first, second, ... process is sent a SIGTERM."""
    stop_in_upload: int = 0
    """The n-th upload of the first process is executed, and a SIGTERM comes before its answer."""
    away: bool = False
    """After a crash they come back only when everybody else is done."""


@dataclass
class Network:
    """What the network does, beside what Marketo does. Rates of calls."""

    latency_s: float = 0.05
    upload_s: float = 0.5
    refuse: float = 0.0
    """The connection is refused."""
    cut: float = 0.0
    """It breaks while the body is sent."""
    lose: float = 0.0
    """It breaks after the body was sent, before Marketo has read it."""
    hang: float = 0.0
    """No answer ever comes, although the call is executed."""
    early_reset: bool = False
    """An upload over Marketo's limit is answered while it is sent, and the answer is lost to the reset."""

    def heal(self) -> None:
        self.refuse = self.cut = self.lose = self.hang = 0.0


@dataclass
class Scenario:
    """What one seed stands for."""

    seed: int
    rows: list[int]
    """Of each source."""
    commands: list[Command]
    queued_jobs: int
    settings: Settings
    network: Network
    rates: dict[str, float]
    kinds: frozenset[str]
    heal_at: float
    """Seconds after the beginning: no faults from then on."""
    foreign: list[tuple[float, int, float]]
    """(when, how many, seconds each): jobs of others."""
    on_doubt: str
    list_id: int | None
    amnesia: tuple[float, float] | None = None
    """(from, until): Marketo says of every batch that it does not know it."""
    storage: float = 0.0
    """Share of commits that fail until the faults end."""
    locked: float = 0.0
    """Share of transactions that find the ledger locked until the faults end."""
    calls_at_once: int = 5
    calls_per_20s: int = 50
    """What the operator allows each process."""
    shared: float = 0.0
    """Share of the rows that have the key of an earlier one."""
    shared_keys: int = 1
    """Among so many different keys at most."""
    on_duplicate: str = "together"
    power: bool = False
    """Each process ends by a power cut: files lose what was not synced."""

    @classmethod
    def of(cls, seed: int) -> Scenario:
        """Everything from the seed: every seed has its own subset of what can go wrong."""
        rng = Random(seed)
        rare = Random(seed + 3)  # of its own, so that a rarity more leaves the other seeds as they are

        def share() -> float:
            return rng.choice([0.0, 0.0, 0.02, 0.1, 0.3])

        every = sorted({kind for kinds in KINDS.values() for kind in kinds})
        settings = Settings(
            seed=seed,
            clients={"client": SECRET},
            rows_per_second=1e9,
            seconds_per_job=rng.choice([1.0, 10.0, 40.0, 120.0]),
            token_life=rng.choice([3600.0, 3600.0, 600.0, 70.0]),
            queue_limit=rng.choice([10, 10, 4]),
            failing_jobs=frozenset(rng.sample(range(1, 15), rng.choice([0, 0, 0, 1, 3]))),
            poison=rng.choice([None, None, None, "lead7@example.com"]),
            file_limit=rng.choice([10_000_000] * 4 + [950]),
            unknown_batch=rng.choice(["1013", "610", "404"]),
            list_busy=rng.choice(["importing", "queued", "never"]),
            requote=rng.random() < 0.8,
            drop_empty_lookup_column=rng.random() < 0.2,
            no_rows=rng.choice(["404", "empty", "header"]),
            order=rng.choice(["input", "shuffled"]),
            keep_bodies=True,
        )
        if rng.random() < 0.04:  # a broken instance: whatever is sent fails
            settings.failing_jobs, settings.seconds_per_job = frozenset(range(1, 1000)), 10.0
        amnesia_at = rng.uniform(20.0, 600.0)
        sources = rng.choice([[0], [0], [0], [0, 1], [0, 0], [0, 1], [0, 0, 1]])
        at_once = rng.random() < 0.5
        scenario = cls(
            seed=seed,
            rows=[rng.randint(1, 70) if len(sources) == 1 else rng.randint(1, 40) for _ in range(max(sources) + 1)],
            commands=[
                Command(
                    source=source,
                    at=0.0 if at_once else rng.choice([0.0, 1.0, 60.0, 600.0]),
                    crashes=[rng.randint(1, rng.choice([20, 100, 400])) for _ in range(rng.choice([0, 0, 1, 1, 2, 4]))],
                    stops=[rng.uniform(0.0, rng.choice([5.0, 300.0])) for _ in range(rng.choice([0, 0, 0, 1, 2]))],
                    away=rng.random() < 0.3,
                )
                for source in sources
            ],
            queued_jobs=rng.choice([10, 3, 2, 1]),
            settings=settings,
            network=Network(
                refuse=share() / 3,
                cut=share() / 3,
                lose=share() / 3,
                hang=rng.choice([0.0, 0.0, 0.02]),
                early_reset=rng.random() < 0.5,
            ),
            rates={kind: share() for kind in KINDS},
            kinds=frozenset(rng.sample(every, rng.randint(1, len(every)))),
            heal_at=rng.choice([0.0, 600.0, 600.0, 1800.0, 5400.0]),
            foreign=[
                (rng.uniform(0, 1200), rng.randint(1, 10), rng.uniform(10, 300))
                for _ in range(rng.choice([0, 0, 1, 3]))
            ],
            on_doubt=rng.choice(["resend"] * 4 + ["stop"]),
            list_id=rng.choice([None, None, None, 1001]),
            storage=rng.choice([0.0, 0.0, 0.0, 0.01]),
            locked=rng.choice([0.0, 0.0, 0.0, 0.05]),
            amnesia=(amnesia_at, amnesia_at + rng.uniform(60.0, 600.0)) if rng.random() < 0.2 else None,
            calls_at_once=rare.choice([5, 5, 5, 2]),
            calls_per_20s=rare.choice([50, 50, 50, 8]),
        )
        settings.transient_share = rng.choice([0.0, 0.0, 0.1, 0.6])
        settings.transient_tries = rng.choice([1, 2, 3])
        settings.transient_reason = rng.choice(["System error", "Lead is locked", "Try later"])
        if rare.random() < 0.08:
            scenario.lose_answers(rare)
        for command in scenario.commands:
            command.stop_in_upload = rare.choice([0, 0, 0, 0, 1, 2])
        shared = Random(seed + 4)
        if shared.random() < 0.3:
            scenario.shared, scenario.shared_keys = shared.choice([0.1, 0.3, 0.9]), shared.choice([1, 3, 20])
            scenario.on_duplicate = shared.choice(["together"] * 4 + ["last", "ignore"])
        return scenario

    def lose_answers(self, rng: Random) -> None:
        """Answers to uploads are lost while several batches import: many doubts, and only the fence to end them."""
        self.rates["create"], self.kinds = 0.3, frozenset(AFTER)
        self.settings.seconds_per_job, self.settings.failing_jobs = rng.choice([40.0, 120.0]), frozenset()
        self.queued_jobs, self.settings.queue_limit = rng.choice([10, 3]), 10
        self.on_doubt, self.list_id = "resend", None
        self.heal_at = max(self.heal_at, 1800.0)
        self.alone()
        self.rows = [rng.randint(80, 110)]

    def alone(self) -> None:
        """The first command only."""
        self.commands, self.rows = self.commands[:1], self.rows[:1]


def leads(rng: Random, rows: int, source: int = 0, shared: float = 0.0, shared_keys: int = 1) -> bytes:
    """A source in which no two rows are alike: some fail, some are warned of, some are hard to cut.

    shared: the share of them that have the key of an earlier row, of which so many are used at most.
    """
    sharing, keys = Random(f"{rows} {source} {shared_keys}"), list[str]()
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(["email", "firstName", "leadScore", "company"])
    for number in range(1, rows + 1):
        email = rng.choice([f"lead{number}@example.com"] * 6 + ["", f"lead{number}@example"])
        score = rng.choice([str(number)] * 6 + [f"{number}.5"])
        company = rng.choice(["Acme", "Acme, Inc", 'the "A" firm', "two\nlines", "é😀", "x" * 120])
        if len(keys) < shared_keys and email:
            keys.append(email)
        elif sharing.random() < shared and keys:
            email = sharing.choice(keys)
            email = sharing.choice([email, email.upper(), f" {email}"])
        writer.writerow([email, rng.choice(["Ann", "Bo", "O'Neil"]), score, f"{source or ''}{number} {company}"])
    return out.getvalue().encode()
