"""How fast is each kind of source made into plain text, and in how much memory? Beside the fastest tool for it alone.

Every way runs as a process of its own, several rounds in turn; speeds are MB of text out per second, memory is the
peak of the process. The tool alone only converts: no hashes, no limits, no exact values, no places of rows.

    python benchmarks/formats.py [MB]
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

ROUNDS = 3
BYTES_PER_LEAD = 330
WORKBOOK_ROWS = 100_000
OURS = """
import sys
from pathlib import Path
from orchestrator.adapters.sources.reading import spool
from orchestrator.core.model import Reading
query = sys.argv[3] if len(sys.argv) > 3 else None
folder = Path(sys.argv[2])
made = spool([sys.argv[1]], Reading(query=query), None, folder=folder, bytes_max=10**12, interrupted=lambda: None)
print(made.spool.size_bytes)
made.spool.release()
"""
DUCKDB = """
import duckdb, sys
duckdb.execute(f"COPY ({sys.argv[3]}) TO '{sys.argv[2]}/out.csv' (FORMAT csv)")
"""
JSON = """
import csv, json, sys
with open(sys.argv[1], encoding="utf-8") as file, open(sys.argv[2] + "/out.csv", "w", newline="") as out:
    first = json.loads(next(file))
    writer = csv.DictWriter(out, first)
    writer.writeheader()
    writer.writerow(first)
    for line in file:
        writer.writerow(json.loads(line))
"""
CALAMINE = """
import csv, python_calamine, sys
with open(sys.argv[2] + "/out.csv", "w", newline="") as out:
    csv.writer(out).writerows(python_calamine.CalamineWorkbook.from_path(sys.argv[1]).get_sheet_by_index(0).to_python())
"""
QUERY = "SELECT email, upper(country) AS country FROM source WHERE state <> 'x' OR state IS NULL"


def run(command: list[str], folder: Path, out: Path | None = None) -> tuple[float, float]:
    """Seconds and peak MB of one process."""
    begun = time.perf_counter()
    with (out or Path(os.devnull)).open("wb") as stdout:
        process = subprocess.Popen(command, stdout=stdout, cwd=Path(__file__).parent.parent)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    seconds = time.perf_counter() - begun
    for made in folder.iterdir():
        made.unlink()
    return seconds, usage.ru_maxrss / 1024


KINDS = {
    "gz": "leads.csv.gz",
    "zst": "leads.csv.zst",
    "bz2": "leads.csv.bz2",
    "xz": "leads.csv.xz",
    "zip": "leads.zip",
    "UTF-16": "leads-utf16.csv",
    "JSON lines": "leads.jsonl",
    "Parquet": "leads.parquet",
    "query": "leads.csv",
    "XLSX": "leads.xlsx",
}


def make(folder: Path, megabytes: int) -> None:
    """One file of each kind. In a process of its own: a child begins with the peak memory of its parent."""
    import duckdb
    from backports import zstd

    from orchestrator.simulator.leads import write_leads

    plain, rows = folder / "leads.csv", megabytes * 1_000_000 // BYTES_PER_LEAD
    write_leads(plain, rows)
    content = plain.read_bytes()
    (folder / KINDS["gz"]).write_bytes(gzip.compress(content, 6))
    (folder / KINDS["bz2"]).write_bytes(bz2.compress(content, 1))
    (folder / KINDS["xz"]).write_bytes(lzma.compress(content, preset=1))
    (folder / KINDS["zst"]).write_bytes(zstd.compress(content))
    (folder / KINDS["UTF-16"]).write_bytes(content.decode().encode("utf-16"))
    with zipfile.ZipFile(folder / KINDS["zip"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, "leads.csv")
    with plain.open(encoding="utf-8", newline="") as file, (folder / KINDS["JSON lines"]).open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in csv.DictReader(file))
    duckdb.execute(f"COPY (FROM read_csv('{plain}', all_varchar = true)) TO '{folder}/{KINDS['Parquet']}'")
    write_leads(folder / "small.csv", min(WORKBOOK_ROWS, rows))
    write_workbook(folder / "small.csv", folder / KINDS["XLSX"])


def write_workbook(source: Path, to: Path) -> None:
    """As Excel stores texts: once each, by number."""
    main, office = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org"
    links, texts = f"{office}/officeDocument/2006/relationships", dict[str, int]()
    relations = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
    relation = '<Relationship Id="{0}" Type="' + links + '/{1}" Target="{2}"/>'
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        kinds = "http://schemas.openxmlformats.org/package/2006/content-types"
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
        part = '<Override PartName="/xl/{0}.xml" ContentType="' + kind + '.{1}+xml"/>'
        parts = part.format("workbook", "sheet.main") + part.format("sheet1", "worksheet")
        parts += part.format("sharedStrings", "sharedStrings")
        named = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{kinds}">{named}{parts}</Types>')
        archive.writestr("_rels/.rels", relations.format(relation.format("r", "officeDocument", "xl/workbook.xml")))
        sheets = '<sheets><sheet name="L" sheetId="1" r:id="a"/></sheets>'
        archive.writestr("xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{links}">{sheets}</workbook>')
        both = relation.format("a", "worksheet", "sheet1.xml") + relation.format(
            "b", "sharedStrings", "sharedStrings.xml"
        )
        archive.writestr("xl/_rels/workbook.xml.rels", relations.format(both))
        with archive.open("xl/sheet1.xml", "w") as out, source.open(encoding="utf-8", newline="") as rows:
            out.write(f'<worksheet xmlns="{main}"><sheetData>'.encode())
            for number, cells in enumerate(csv.reader(rows), 1):
                line = [
                    f'<c r="{chr(65 + at)}{number}"><v>{cell}</v></c>'
                    if cell.isdigit()
                    else f'<c r="{chr(65 + at)}{number}" t="s"><v>{texts.setdefault(cell, len(texts))}</v></c>'
                    for at, cell in enumerate(cells)
                    if cell
                ]
                out.write(f'<row r="{number}">{"".join(line)}</row>'.encode())
            out.write(b"</sheetData></worksheet>")
        items = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in texts)
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{main}">{items}</sst>')


def alone(kind: str, path: Path, spools: Path) -> tuple[str, list[str], Path | None] | None:
    """The fastest tool on this machine for the conversion alone: its name, the command, where its stdout goes."""
    python, out = [sys.executable, "-c"], spools / "out.csv"
    match kind:
        case "gz" | "bz2" | "xz" | "zst":
            tool = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}[kind]
            return (f"{tool} -dc", [tool, "-dc", str(path)], out) if shutil.which(tool) else None
        case "zip":
            return ("unzip -p", ["unzip", "-p", str(path)], out) if shutil.which("unzip") else None
        case "UTF-16":
            return "iconv", ["iconv", "-f", "UTF-16", "-t", "UTF-8", str(path)], out
        case "JSON lines":
            return "json + csv", [*python, JSON, str(path), str(spools)], None
        case "Parquet":
            return "duckdb COPY", [*python, DUCKDB, str(path), str(spools), f"FROM read_parquet('{path}')"], None
        case "query":
            query = QUERY.replace("source", f"read_csv('{path}', all_varchar = true)")
            return "duckdb COPY", [*python, DUCKDB, str(path), str(spools), query], None
        case _:
            return "python-calamine + csv", [*python, CALAMINE, str(path), str(spools)], None


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
        return
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as named:
        folder, spools = Path(named, "sources"), Path(named, "spools")
        folder.mkdir()
        spools.mkdir()
        subprocess.run([sys.executable, __file__, "--make", str(folder), str(megabytes)], check=True)
        print(f"{megabytes} MB of text, median of {ROUNDS} rounds in turn (XLSX: {WORKBOOK_ROWS:,} rows)")
        print(f"  {'source':11} {'MB/s':>7} {'peak MB':>8}   {'alone':22} {'MB/s':>7} {'peak MB':>8} {'our share':>10}")
        for kind, name in KINDS.items():
            path, plain = folder / name, folder / ("small.csv" if kind == "XLSX" else "leads.csv")
            command = [sys.executable, "-c", OURS, str(path), str(spools), *([QUERY] if kind == "query" else [])]
            ways: list[Callable[[], tuple[float, float]]] = [lambda command=command: run(command, spools)]  # type: ignore[misc]
            tool = alone(kind, path, spools)
            if tool is not None:
                ways.append(lambda tool=tool: run(tool[1], spools, tool[2]))  # type: ignore[misc]
            found = [[way() for way in ways] for _ in range(ROUNDS)]
            size = plain.stat().st_size / 1e6
            speeds = [size / statistics.median(round_[at][0] for round_ in found) for at in range(len(ways))]
            peaks = [max(round_[at][1] for round_ in found) for at in range(len(ways))]
            line = f"  {kind:11} {speeds[0]:7,.0f} {peaks[0]:8,.0f}"
            if tool is not None:
                line += f"   {tool[0]:22} {speeds[1]:7,.0f} {peaks[1]:8,.0f} {speeds[0] / speeds[1]:10.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
