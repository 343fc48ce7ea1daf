"""What does `orchestrator simulator` do? Serves the simulator on loopback, or writes sample leads."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from orchestrator.simulator.http import Door, server
from orchestrator.simulator.leads import write_leads
from orchestrator.simulator.model import Marketo
from orchestrator.simulator.settings import Settings


def serve(
    *,
    port: int,
    port_file: Path | None,
    rows_per_second: float,
    seconds_per_job: float,
    min_poll_interval: float,
    seed: int,
    quiet: bool,
) -> int:
    """Serve until SIGINT or SIGTERM; then say what happened. Returns the exit code."""
    settings = Settings(
        seed=seed,
        rows_per_second=rows_per_second,
        seconds_per_job=seconds_per_job,
        min_poll_interval=min_poll_interval,
    )
    ((client_id, secret),) = settings.clients.items()
    model = Marketo(settings)
    model.begin_batches_at(int(time.time()))  # a simulator that is started again gives no batch id a second time
    door = Door(model)
    running = server(door, port=port)

    def announce() -> None:
        while not running.started:
            if running.should_exit:
                return
            time.sleep(0.01)
        at = running.servers[0].sockets[0].getsockname()[1]
        if port_file is not None:
            partial = port_file.with_name(port_file.name + ".part")
            partial.write_text(f"{at}\n", encoding="utf-8")
            partial.replace(port_file)
        if not quiet:
            _say(
                f"Simulator on http://127.0.0.1:{at} until you stop it; nothing leaves this machine. Try:\n"
                f"  export ORCHESTRATOR_MARKETO__BASE_URL=http://127.0.0.1:{at}\n"
                f"  export ORCHESTRATOR_MARKETO__CLIENT_ID={client_id} ORCHESTRATOR_MARKETO__CLIENT_SECRET={secret}\n"
                "  orchestrator simulator --make-leads leads.csv\n"
                "  orchestrator load leads.csv"
            )

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises again, at its end, what ended it
    threading.Thread(target=announce, daemon=True).start()
    try:
        running.run()
    except (SystemExit, KeyboardInterrupt):
        if not running.started:
            print(f"error: port {port} on 127.0.0.1 cannot be had", file=sys.stderr)  # noqa: T201
            return 69
    if not running.started:
        return 69
    state = door.model.state()
    if not quiet:
        _say(
            f"{state['batches_accepted']} batches, {state['rows_accepted']:,} rows; "
            f"{len(state['violations'])} rules broken by the client"
        )
        for violation in state["violations"][:10]:
            _say(f"  {violation['rule']}: {violation['detail']}")
    return 0


def make_leads(path: Path, rows: int, *, seed: int) -> int:
    """Write a file of sample leads and say what is in it."""
    try:
        made = write_leads(path, rows, seed=seed)
    except OSError as error:
        print(f"error: {path}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    _say(
        f"{path}: {made.rows:,} leads, {made.size_bytes:,} bytes; {made.failing:,} rows will fail and {made.warned:,} "
        "be warned of, on purpose"
    )
    return 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
