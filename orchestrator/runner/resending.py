"""How do rows that failed by accident get into a last chunk of their load?

When every chunk has come to rest, the failure files are read once more, and the rows worth it become new chunks, in one
transaction that can happen once for each time rows go again: a crash before it changes nothing, and after it the new
chunks are in the ledger like all others. Which rows those are is decided by `again`.
"""

from __future__ import annotations

import structlog

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.ledger import Ledger
from orchestrator.adapters.render import read_chunk, read_header
from orchestrator.core.again import LastChunks, goes_again, may_go_again
from orchestrator.core.model import Load, State
from orchestrator.runner.books import Books

log = structlog.get_logger()


async def send_again(load: Load, books: Books, clock: Clock) -> bool:
    """Put failed rows that are worth it into new chunks; False when there are none any more."""
    if books.by_state[State.HELD]:
        return False  # people are to decide something first
    last = await books.ask(_gathered, books.ledger, load)
    chunks = last.finish()
    if not chunks:
        return False
    added = await books.ask(books.ledger.add_last_chunks, load.id, clock.now(), last.again, chunks, last.moved)
    if added:
        books.moved_on(last.rows, len(chunks))
        log.info("rows.sent_again", rows=last.rows, chunks=len(chunks), again=last.again)
    return True


def _gathered(ledger: Ledger, load: Load) -> LastChunks:
    tries = ledger.gone_again(load.id)
    last = LastChunks(read_header(load), load.budget, tries + 1)
    if last.header[-1:] != b"\n" or len(last.header) != load.header.stop - load.header.start:
        return last  # the source is gone, or not what it was
    for record in ledger.records(load.id):
        if may_go_again(record, tries):
            notes: list[str] = []
            found = [
                (row.sent, content)
                for row, content in read_chunk(load, record, notes)
                if row.sent is not None and goes_again(row, tries)
            ]
            if not notes:
                last.take(record, found)
    return last
