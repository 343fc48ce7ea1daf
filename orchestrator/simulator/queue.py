"""Which job is processed when? A first-in first-out queue with two processors, in its own time.

Events happen at their own times and in order, never at the time somebody looks: `advance` replays everything that
happened until now. Pure: no clock, no chance.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from orchestrator.simulator.judge import Judgement


@dataclass
class Job:
    """One import. `ours` is False for jobs of other integrations, which only take up places."""

    batch_id: int
    kind: str
    accepted_at: float
    seconds: float
    judgement: Judgement | None = None
    format: str = "csv"
    keys: tuple[str, ...] = ()
    sha256: str = ""
    list_id: int | None = None
    fails: bool = False
    ours: bool = True
    body: bytes | None = None
    started_at: float | None = None
    ended_at: float | None = None
    processor: int | None = None
    polled_at: float = float("-inf")

    def status(self, now: float) -> str:
        if self.started_at is None or self.started_at > now:
            return "Queued"
        if self.ended_at is None or self.ended_at > now:
            return "Importing"
        return "Failed" if self.fails else "Complete"

    @property
    def came_to_nothing(self) -> bool:
        """Has it ended without importing a row? Then the same file may well come again."""
        assert self.judgement is not None
        return self.ended_at is not None and (self.fails or len(self.judgement.failed) == self.judgement.rows)

    @property
    def unfinished(self) -> bool:
        return self.ended_at is None


@dataclass
class Queue:
    """Jobs waiting and jobs being processed. How many there may be is the model's business."""

    workers: int
    waiting: deque[Job] = field(default_factory=deque)
    running: dict[int, Job] = field(default_factory=dict)
    ended: list[Job] = field(default_factory=list)
    most_ours: int = 0
    """The most unfinished jobs of ours at one moment."""

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def ours(self) -> int:
        return sum(job.ours for job in (*self.waiting, *self.running.values()))

    def advance(self, now: float) -> None:
        """Everything that happened until now, in order."""
        while self.running:
            processor, job = min(self.running.items(), key=lambda item: (_end(item[1]), item[0]))
            at = _end(job)
            if at > now:
                break
            job.ended_at = at
            del self.running[processor]
            self.ended.append(job)
            self._start(at)

    def add(self, job: Job, now: float) -> None:
        """Accept a job; it starts at once when a processor is free."""
        self.waiting.append(job)
        self._start(now)
        self.most_ours = max(self.most_ours, self.ours())

    def release(self, count: int, now: float) -> None:
        """Jobs of others end now, the newest first."""
        others = [job for job in (*self.running.values(), *self.waiting) if not job.ours][::-1][:count]
        for job in others:
            if job.processor is None:
                self.waiting = deque(other for other in self.waiting if other is not job)
            else:
                job.ended_at = now
                self.ended.append(self.running.pop(job.processor))
        self._start(now)

    def importing_into(self, list_id: int, *, queued_too: bool) -> bool:
        jobs = (*self.running.values(), *(self.waiting if queued_too else ()))
        return any(job.list_id == list_id for job in jobs)

    def _start(self, at: float) -> None:
        for processor in range(self.workers):
            if processor not in self.running and self.waiting:
                job = self.waiting.popleft()
                job.started_at, job.processor = at, processor
                self.running[processor] = job


def _end(job: Job) -> float:
    assert job.started_at is not None
    return job.started_at + job.seconds


def busy_shares(jobs: list[Job], workers: int) -> list[float]:
    """Of the time from the first acceptance of ours to the last end of ours: the share each processor was busy."""
    ours = [job for job in jobs if job.ours and job.ended_at is not None]
    if not ours:
        return [0.0] * workers
    begin = min(job.accepted_at for job in ours)
    end = max(job.ended_at for job in ours if job.ended_at is not None)
    busy = [0.0] * workers
    for job in jobs:
        if job.started_at is not None and job.processor is not None:
            busy[job.processor] += max(0.0, min(job.ended_at or end, end) - max(job.started_at, begin))
    return [seconds / (end - begin) if end > begin else 1.0 for seconds in busy]
