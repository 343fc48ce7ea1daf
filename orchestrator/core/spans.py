"""The spans of a chunk, where there are too many to keep: read when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from orchestrator.core.model import Span


class Spans(Sequence[Span]):
    """As a tuple of them; only the first and the last one are at hand. `read` gives them all, in order."""

    def __init__(self, count: int, first: Span, last: Span, read: Callable[[], Iterable[Span]]) -> None:
        self._count, self._first, self._last, self._read = count, first, last, read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Span]:
        return iter(self._read())

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        if index == 0:
            return self._first
        if index == -1:
            return self._last
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and tuple(other) == tuple(self)

    def __hash__(self) -> int:
        return hash(tuple(self))
