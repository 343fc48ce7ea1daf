"""How fast is a whole load when Marketo costs nothing? Beside other ways to split a file and send its pieces.

A sink in a process of its own answers as Marketo does and throws every upload away; four uploads are in flight at a
time. Wall time, processor time of the loader and its children, and peak memory, start-up included, in turn and in one
run:

- orchestrator load: plans, sends, asks, and writes its report;
- filesplit (from PyPI) writes pieces with headers to disk, then one curl sends them;
- the same pieces, sent by httpx's `files=`.

After that a load whose every read takes 5 ms longer: how late does the event loop get to its timers?

    python benchmarks/load.py [MB] [ROUNDS]
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.simulator.fields import LEAD_FIELDS, described

BYTES_PER_LEAD = 315
PIECE_BYTES = 9_500_000
AT_ONCE = 4
READ_S = 0.005

HTTPX_FILES = """
import asyncio, sys, httpx
base, pieces = sys.argv[1], sys.argv[2:]
async def main():
    turns = asyncio.Semaphore(4)
    async with httpx.AsyncClient(base_url=base, timeout=60, trust_env=False) as http:
        async def send(piece):
            async with turns:
                with open(piece, "rb") as file:
                    (await http.post("/bulk/v1/leads.json", files={"file": file})).raise_for_status()
        await asyncio.gather(*map(send, pieces))
asyncio.run(main())
"""


# --- the sink -----------------------------------------------------------------------------------------


class Sink(asyncio.Protocol):
    """One connection: reads requests, forgets their bodies, answers at once."""

    batches = 1000

    def connection_made(self, transport: Any) -> None:
        self._transport, self._head, self._left, self._line = transport, b"", 0, b""

    def data_received(self, data: bytes) -> None:
        while data or (self._line and self._left == 0):
            if self._left > 0:
                taken = min(self._left, len(data))
                self._left, data = self._left - taken, data[taken:]
                if self._left == 0:
                    self._answer()
                continue
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            self._line = head.split(b"\r\n", 1)[0]
            lower = head.lower()
            if b"expect: 100-continue" in lower:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            self._left = int(length or 0)
            if self._left == 0:
                self._answer()

    def _answer(self) -> None:
        method, path, _ = self._line.decode().split(" ")
        self._line = b""
        body: dict[str, Any] = {"requestId": "1", "success": True}
        if path.startswith("/identity/"):
            body = {"access_token": "token", "token_type": "bearer", "expires_in": 3600}
        elif path.endswith("usage.json"):
            body["result"] = [{"total": 0}]
        elif path.endswith("describe2.json"):
            body["result"] = [{"name": "API Lead", "fields": [described(field) for field in LEAD_FIELDS]}]
        elif method == "POST":
            Sink.batches += 1
            body["result"] = [{"batchId": Sink.batches, "status": "Queued"}]
        else:
            batch = int(path.rpartition("/")[2].removesuffix(".json"))
            body["result"] = [{"batchId": batch, "status": "Complete", "numOfLeadsProcessed": 0, "numOfRowsFailed": 0}]
        content = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._transport.write(head.encode() + content)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def sink() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, __file__, "--sink"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


# --- the loaders ----------------------------------------------------------------------------------------


def environment(base: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "",  # as installed: modules are not compiled at each start
        "ORCHESTRATOR_MARKETO__BASE_URL": base,
        "ORCHESTRATOR_MARKETO__CLIENT_ID": "client",
        "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "secret",
        "ORCHESTRATOR_LIMITS__CHUNK_BYTES": str(PIECE_BYTES),
        "ORCHESTRATOR_LIMITS__CONCURRENT_CALLS": str(AT_ONCE + 1),
        "ORCHESTRATOR_LIMITS__CALLS_PER_20S": "100000",
        "ORCHESTRATOR_POLLING__MIN_INTERVAL": "0.02",
        "ORCHESTRATOR_POLLING__MAX_INTERVAL": "0.05",
    }


def ours(base: str, path: Path, folder: Path) -> list[list[str]]:
    return [[sys.executable, "-m", "orchestrator", "load", str(path), "--quiet", "--no-progress"]]


def split(path: Path, folder: Path) -> list[str]:
    code = "import sys; from filesplit.split import Split; Split(*sys.argv[1:3]).bysize(int(sys.argv[3]), True, True)"
    return [sys.executable, "-c", code, str(path), str(folder), str(PIECE_BYTES)]


def filesplit_and_curl(base: str, path: Path, folder: Path) -> list[list[str]]:
    each = f'next\\nurl = "{base}/bulk/v1/leads.json"\\nform = "file=@%s"\\nno-progress-meter\\noutput = "/dev/null"\\n'
    script = (
        f"for piece in {folder}/leads_*; do printf '{each}' \"$piece\"; done | tail -n +2 | "
        f"curl --silent --fail --parallel --parallel-max {AT_ONCE} --config -"
    )
    return [split(path, folder), ["bash", "-c", script]]


def filesplit_and_httpx(base: str, path: Path, folder: Path) -> list[list[str]]:
    return [
        split(path, folder),
        ["bash", "-c", f'exec "$0" -c "$1" {base} {folder}/leads_*', sys.executable, HTTPX_FILES],
    ]


def measured(commands: list[list[str]], base: str, folder: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds, and the largest peak of memory in MB of the commands one after another."""
    begun, cpu_s, peak_mb = time.perf_counter(), 0.0, 0.0
    for command in commands:
        process = subprocess.Popen(command, cwd=folder, env=environment(base), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode in (0, 3), (command, process.returncode)
        cpu_s += usage.ru_utime + usage.ru_stime
        peak_mb = max(peak_mb, usage.ru_maxrss / 1024)
    return time.perf_counter() - begun, cpu_s, peak_mb


# --- slow reads -----------------------------------------------------------------------------------------


class SlowFile(io.BufferedReader):
    """A disk that takes its time."""

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(READ_S)
        return super().read(size)


def lag(path: Path) -> None:
    """A load in this process whose reads are slow; prints how late the loop's timers were, at worst and at p99."""
    from unittest.mock import patch

    import aiofiles.threadpool
    import anyio

    from orchestrator import library
    from orchestrator.config import load_config
    from orchestrator.planning import LoadOptions

    def slow(file: Any, mode: str, *_: Any, opener: Any = None, **__: Any) -> Any:
        assert mode == "rb"
        return SlowFile(io.FileIO(file, "rb", opener=opener))

    late: list[float] = []

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await anyio.sleep(0.005)
            late.append(time.perf_counter() - begun - 0.005)

    async def main() -> None:
        config = load_config(None, os.environ, {})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await library.load(config, path, LoadOptions(target=config.target()))
            tasks.cancel_scope.cancel()

    with patch.object(aiofiles.threadpool, "sync_open", slow):
        anyio.run(main)
    late.sort()
    print(json.dumps({"p99_ms": late[int(0.99 * len(late))] * 1e3, "max_ms": late[-1] * 1e3}))


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    ways: dict[str, Callable[[str, Path, Path], list[list[str]]]] = {"orchestrator load": ours}
    if find_spec("filesplit") is not None and shutil.which("curl"):
        ways |= {"filesplit + curl": filesplit_and_curl, "filesplit + httpx files=": filesplit_and_httpx}
    else:
        print("filesplit (from PyPI) or curl is not installed: nothing to compare with")
    with tempfile.TemporaryDirectory() as name, sink() as base:
        path = Path(name, "leads.csv")
        make = [sys.executable, "-m", "orchestrator", "simulator", "--make-leads", str(path)]
        rows = str(megabytes * 1_000_000 // BYTES_PER_LEAD)
        subprocess.run([*make, "--rows", rows], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        size = path.stat().st_size
        seen: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, commands in ways.items():
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    seen[way].append(measured(commands(base, path, Path(folder)), base, Path(folder)))
        print(f"{size / 1e6:,.0f} MB, {AT_ONCE} uploads in flight, median of {rounds} rounds in turn")
        middle = {way: [statistics.median(values) for values in zip(*seen[way], strict=True)] for way in ways}
        mine = middle["orchestrator load"][0]
        for way, (wall_s, cpu_s, peak_mb) in middle.items():
            print(
                f"  {way:25} {size / wall_s / 1e6:6.0f} MB/s   our time is {mine / wall_s:5.2f} of it   "
                f"{cpu_s / size * 1e9:5.2f} CPU s a GB   {peak_mb:5.0f} MB at most"
            )
        with tempfile.TemporaryDirectory(dir=name) as folder:
            command = [sys.executable, __file__, "--lag", str(path)]
            done = subprocess.run(
                command, cwd=folder, env=environment(base), check=True, capture_output=True, text=True
            )
            told = json.loads(done.stdout.splitlines()[-1])
            late = f"{told['p99_ms']:.1f} ms late at p99, {told['max_ms']:.0f} ms at most"
            print(f"  reads {READ_S * 1e3:.0f} ms slower: the loop is {late}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--sink"]:
            asyncio.run(serve())
        case ["--lag", source]:
            lag(Path(source))
        case _:
            main()
