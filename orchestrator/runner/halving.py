"""How is a chunk halved? Its bytes are read again, they must be the ones that were planned, and the core cuts them.

When a chunk is halved is decided by `verdicts` (too large) and `isolate` (its batches end Failed).
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import anyio.to_thread

from orchestrator.adapters.files import read_spans
from orchestrator.core.model import Chunk, Load
from orchestrator.core.plan import halve
from orchestrator.errors import SourceChanged


async def halves(load: Load, chunk: Chunk) -> tuple[Chunk, Chunk]:
    """The two halves of a chunk of at least two rows. Raises SourceChanged and SourceMissing."""
    return await anyio.to_thread.run_sync(partial(_halves, load, chunk))


def _halves(load: Load, chunk: Chunk) -> tuple[Chunk, Chunk]:
    path = Path(load.source.path)
    content = read_spans(path, load.header, chunk.spans)
    if hashlib.sha256(content).hexdigest() != chunk.sha256:
        raise SourceChanged(
            f"{path}: its content is not what was planned (chunk {chunk.number}, rows {chunk.first_row} to "
            f"{chunk.last_row}); the chunk was not halved",
            remedy="Put the planned file back to go on, or load the new one: that is another load.",
        )
    header_bytes = load.header.stop - load.header.start
    return halve(chunk, content[:header_bytes], content[header_bytes:], load.format)
