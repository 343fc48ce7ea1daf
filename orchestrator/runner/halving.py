"""How is a chunk halved? Its bytes are read again, they must be the ones that were planned, and the core cuts them.

When a chunk is halved is decided by `verdicts` (too large) and `isolate` (its batches end Failed).
"""

from __future__ import annotations

from functools import partial

import anyio.to_thread

from orchestrator.adapters.files import read_chunk
from orchestrator.core.model import Chunk, Load
from orchestrator.core.plan import halve


async def halves(load: Load, chunk: Chunk) -> tuple[Chunk, Chunk]:
    """The two halves of a chunk of at least two rows. Raises SourceChanged and SourceMissing."""
    return await anyio.to_thread.run_sync(partial(_halves, load, chunk))


def _halves(load: Load, chunk: Chunk) -> tuple[Chunk, Chunk]:
    content = read_chunk(load.source, load.header, chunk)
    header_bytes = load.header.stop - load.header.start
    return halve(chunk, content[:header_bytes], content[header_bytes:], load.format)
