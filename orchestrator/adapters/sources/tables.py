"""How do Parquet files and queries become rows? By DuckDB, shut in: no network, no extension, no other file.

Values as a person would write them: dates and times in W3C form, whole floating numbers without ".0", none with an
exponent, decimals with all their places, null and NaN empty. What has no such form (nested types, bytes, intervals) is
refused by its column. Rows keep their order, so the same file gives the same bytes.

What DuckDB says about a query is shown; what it says about values is not, since it quotes them.
"""

from __future__ import annotations

import csv
import io
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.adapters.sources.inputs import Interrupted
from orchestrator.adapters.sources.packed import RATIO_FROM_BYTES, RATIO_MAX
from orchestrator.adapters.sources.spool import BUFFER_BYTES, SPILL, Spool
from orchestrator.core.model import Format
from orchestrator.errors import (
    ArchiveUnsound,
    FilesDiffer,
    OrchestratorError,
    QueryFailed,
    ReaderMissing,
    SpoolFailing,
    TooLargeUnpacked,
    ValuesUnfit,
)

MEMORY = "512MB"
"""What DuckDB may hold before it spills to the spool folder; reading Parquet and copying needs far less."""
THREADS = 2
COLUMNS_MAX = 5_000
"""As for JSON lines: Marketo has a few thousand fields."""
WATCH_S = 0.1
"""How often a running query is looked after."""

_NUMBERS = "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT DECIMAL"
_OTHERS = ("VARCHAR", "UUID", "BOOLEAN", "TIME", "TIME_NS", "TIME WITH TIME ZONE", "JSON", "ENUM")
_NO_VALUE = '"NULL"'
"""The type of a column that has no value at all."""
_PLAIN = {*_NUMBERS.split(), *_OTHERS, _NO_VALUE}
"""Types whose text is what DuckDB makes of them."""


class Tables:
    """One DuckDB, for the files of one load. `out` takes what it writes."""

    def __init__(self, name: str, out: Spool, interrupted: Interrupted) -> None:
        self._duckdb = _library(name)
        self._name, self._out, self._interrupted = name, out, interrupted
        self._spill = out.path.with_name(out.path.name + SPILL)
        self._read_bytes = 0
        settings = {"threads": THREADS, "memory_limit": MEMORY, "temp_directory": str(self._spill)}
        settings |= {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        self._db = self._duckdb.connect(config=settings)

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    def parquet(self, files: Sequence[tuple[str, Path]]) -> int:
        """Parquet files, (name, path) each, become the table `source`; how many rows they have together."""
        first: list[tuple[str, str]] = []
        for name, path in files:
            self._read_bytes += path.stat().st_size
            try:
                described = self._db.execute(f"DESCRIBE SELECT * FROM {_parquet([path])}").fetchall()
            except self._duckdb.Error as error:
                raise ArchiveUnsound(
                    f"{name}: the Parquet file cannot be read: it is cut, damaged, or unknown to DuckDB",
                    remedy="Copy or export it again.",
                ) from error
            columns = [(str(column), str(kind)) for column, kind, *_ in described]
            first = first or columns
            if [column for column, _ in columns] != [column for column, _ in first]:
                raise FilesDiffer(
                    f"{name} has other columns than {files[0][0]}",
                    remedy="Files of one load have the same columns in the same order.",
                )
            for (column, kind), (_, wanted) in zip(columns, first, strict=True):
                if kind not in (wanted, _NO_VALUE):  # it would be made the first one's: 1.5 a 2, and 007 a 7
                    raise FilesDiffer(
                        f"{name}: column {column!r} is {kind}, and in {files[0][0]} {wanted}; nothing was sent",
                        remedy="To a query, a column has one type in all files. Load them one by one, or without one.",
                    )
        paths = [path for _, path in files]
        self._db.execute(f"CREATE VIEW source AS SELECT * FROM {_parquet(paths)}")
        self._shut([str(path) for path in paths])
        (count,) = self._run("SELECT count(*) FROM source").fetchall()[0]
        return int(count)

    def delimited(self, path: Path, fields: Sequence[str], format: Format) -> None:
        """A delimited text, whose first line names these columns, becomes the table `source`, all of it text."""
        self._read_bytes += path.stat().st_size
        columns = ", ".join(f"{_text(field)}: 'VARCHAR'" for field in fields)
        options = f"delim = {_text(format.delimiter)}, quote = '\"', escape = '\"', header = true, auto_detect = false"
        options += f", max_line_size = 16000000, buffer_size = 64000000, columns = {{{columns}}}"
        if len(fields) == 1:  # a blank line is no row; an empty value is quoted then
            column, options = _name(fields[0]), f"{options}, allow_quoted_nulls = false"
            shown, only = f"nullif({column}, '') AS {column}", f" WHERE {column} IS NOT NULL"
        else:
            shown, only = "*", ""
        try:
            self._db.execute(f"CREATE VIEW source AS SELECT {shown} FROM read_csv({_text(str(path))}, {options}){only}")
        except self._duckdb.BinderException as error:
            raise QueryFailed(
                f"{self._name}: no table can be made of its columns; nothing was sent",
                remedy="To SQL, names that differ in case only are one: rename one of them.",
            ) from error
        self._shut([str(path)])

    def rows(self, query: str) -> Iterator[bytes]:
        """What a query gives, as CSV, the header first."""
        statements = self._understood(lambda: self._db.extract_statements(query))
        if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
            raise QueryFailed(f"{self._name}: the query is not one SELECT", remedy="Give one SELECT; nothing was sent.")
        self._understood(lambda: self._db.execute(f"CREATE TEMP VIEW result AS {query}"))
        types = [(str(name), str(kind)) for name, kind, *_ in self._run("DESCRIBE result").fetchall()]
        if len(types) > COLUMNS_MAX:
            raise ValuesUnfit(f"{self._name}: {len(types):,} columns, and at most {COLUMNS_MAX:,} are read")
        texts = [self._as_text(name, kind) for name, kind in types]
        if len(texts) == 1:
            texts = [f"coalesce({texts[0]}, '')"]  # a blank line would be no row
        shown = ", ".join(f"{text} AS {_name(name)}" for text, (name, _) in zip(texts, types, strict=True))
        path = _text(str(self._out.path))
        options = "FORMAT csv, HEADER false, NULLSTR '', QUOTE '\"', ESCAPE '\"', USE_TMP_FILE false"
        self._run(f"COPY (SELECT {shown} FROM result) TO {path} ({options})")
        self._out.written_by_others()
        header = io.StringIO(newline="")
        csv.writer(header, lineterminator="\n").writerow([name for name, _ in types])
        yield header.getvalue().encode()
        with self._out.path.open("rb") as file:
            while block := file.read(BUFFER_BYTES):
                yield block

    def _shut(self, paths: list[str]) -> None:
        """From here on, nothing but these files."""
        allowed = ", ".join(_text(path) for path in [*paths, str(self._out.path)])
        self._db.execute(f"SET allowed_paths = [{allowed}]")
        self._db.execute(f"SET allowed_directories = [{_text(str(self._spill))}]")
        self._db.execute("SET enable_external_access = false")
        self._db.execute("SET lock_configuration = true")

    def _as_text(self, name: str, kind: str) -> str:
        column, base = _name(name), kind.partition("(")[0]
        if base == "DATE" or base.startswith("TIMESTAMP"):
            infinite = f"WHEN isinf({column}) THEN error('an infinite date')"
            if base == "TIMESTAMP WITH TIME ZONE":
                moment = f"replace(CAST(make_timestamp(epoch_us({column})) AS VARCHAR), ' ', 'T') || 'Z'"
                return f"CASE {infinite} ELSE {moment} END"
            if base == "TIMESTAMPTZ_NS":
                infinite = infinite.replace(column, f"CAST({column} AS TIMESTAMPTZ)", 1)
                moment = f"replace(CAST(make_timestamp_ns(epoch_ns({column})) AS VARCHAR), ' ', 'T') || 'Z'"
                return f"CASE {infinite} ELSE {moment} END"
            return f"CASE {infinite} ELSE replace(CAST({column} AS VARCHAR), ' ', 'T') END"
        if base in ("FLOAT", "DOUBLE"):
            return _number(column)
        if kind.endswith("]") or base not in _PLAIN:
            raise ValuesUnfit(
                f"{self._name}: column {name!r} is {base}, which has no form as a cell; nothing was sent",
                remedy="Leave it out, or turn it into text, with --query (SELECT * EXCLUDE …, or CAST).",
            )
        return f"CAST({column} AS VARCHAR)"

    def _understood(self, ask: Any) -> Any:
        """Errors in the query itself are the user's to read."""
        try:
            return ask()
        except self._duckdb.Error as error:
            raise QueryFailed(f"{self._name}: the query: {error}", remedy=_TABLE) from error

    def _run(self, sql: str) -> Any:
        """Run under watch: a signal, or too large a result, ends it."""
        ended, why = threading.Event(), list[OrchestratorError]()
        watcher = threading.Thread(target=self._watch, args=(ended, why), daemon=True)
        watcher.start()
        try:
            return self._db.execute(sql)
        except self._duckdb.Error as error:
            if why:
                raise why[0] from error
            if isinstance(error, self._duckdb.IOException) and "space" in str(error).lower():
                raise SpoolFailing(
                    f"spool folder {self._out.path.parent}: no space left on the device; nothing was sent",
                    remedy="Make room there, and run the same command again.",
                ) from error
            raise QueryFailed(
                f"{self._name}: the rows cannot be read ({type(error).__name__}); nothing was sent", remedy=_HINT
            ) from error
        finally:
            ended.set()
            watcher.join()

    def _watch(self, ended: threading.Event, why: list[OrchestratorError]) -> None:
        while not ended.wait(WATCH_S):
            try:
                self._interrupted()
                size_bytes = self._out.path.stat().st_size
                if size_bytes > max(RATIO_FROM_BYTES, RATIO_MAX * self._read_bytes):
                    raise TooLargeUnpacked(
                        f"{self._name}: as text it is more than {RATIO_MAX} times as large; nothing was sent",
                        remedy="That is how decompression bombs look. If it is sound, convert it yourself.",
                    )
                self._out.written_by_others()
            except OrchestratorError as error:
                why.append(error)
                self._db.interrupt()
                return


_TABLE = "The source is the table `source`."
_HINT = (
    "A value does not fit the type asked of it, a row has another number of cells than the header, or lines end in LF "
    "here and in CR LF there."
)


def _library(name: str) -> ModuleType:
    try:
        import duckdb
    except ImportError as error:
        raise ReaderMissing(name, "a Parquet file, or a query,", "parquet") from error
    return duckdb


def _parquet(paths: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(_text(str(path)) for path in paths)}])"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _number(column: str) -> str:
    """A floating number in plain digits: the shortest that are this number, written without an exponent.

    NaN is told by its text: of Parquet, isnan answers by the column's smallest and largest number, which leave NaN out.
    """
    text = f"CAST({column} AS VARCHAR)"
    return (
        f"CASE WHEN {column} = 0 THEN '0' WHEN ends_with({text}, 'nan') THEN NULL "
        f"WHEN ends_with({text}, 'inf') THEN error('an infinite number') "
        f"WHEN contains({text}, 'e') THEN {_plain(text)} "
        f"WHEN ends_with({text}, '.0') THEN replace({text}, '.0', '') ELSE {text} END"
    )


def _plain(text: str) -> str:
    """Digits of a number that is written with an exponent."""
    sign = f"CASE WHEN starts_with({text}, '-') THEN '-' ELSE '' END"
    digits = f"replace(replace(split_part({text}, 'e', 1), '.', ''), '-', '')"
    power = f"CAST(split_part({text}, 'e', 2) AS INTEGER)"
    small = f"'0.' || repeat('0', -{power} - 1) || {digits}"
    large = f"rpad({digits}, {power} + 1, '0')"
    return f"{sign} || CASE WHEN {power} < 0 THEN {small} ELSE {large} END"
