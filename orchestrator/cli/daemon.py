"""What does `orchestrator daemon` do? Arguments and environment in, the service run, exit code out."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from functools import partial
from pathlib import Path

import anyio

from orchestrator.adapters import logs
from orchestrator.cli.output import Output
from orchestrator.daemon.service import Service, serve
from orchestrator.daemon.setup import Setup, SetupSource, wipe_secrets
from orchestrator.errors import Misconfigured, OrchestratorError, WrongArgument, cause_of
from orchestrator.library import World

SWITCH_S = 0.001
"""A thread that plans lets the event loop in after so long. Python's own 5 ms add up: an answer has ten such steps."""


def run_daemon(options: argparse.Namespace, output: Output) -> int:
    """Runs until it is stopped. Raises OrchestratorError when it cannot begin."""
    if options.subscription is not None:
        raise WrongArgument(
            "--subscription: the daemon serves all subscriptions of the configuration",
            remedy="Say in a load.toml which one a file goes to.",
        )
    if os.geteuid() == 0 and not options.as_root:
        raise Misconfigured(
            "the daemon does not run as root: whoever can write to its inbox would reach further than need be",
            remedy="Run it as a user of its own (docs/operations.md), or say --as-root.",
        )
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an image of the memory would hold secrets and rows
    path = Path(options.config) if options.config else None

    flags = {
        "daemon.inbox": options.inbox,
        "daemon.listen": options.listen,
        "daemon.behind_proxy": options.behind_proxy or None,
    }

    def configure_logs(setup: Setup) -> None:
        logs.configure(
            level="debug" if options.verbose else "error" if options.quiet else "info",
            json=not sys.stderr.isatty(),
            secrets=setup.secrets,
            color=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
        )

    source = SetupSource(path, dict(os.environ), flags, configure_logs)
    wipe_secrets()
    setup = source.read()
    for warning in dict.fromkeys(warning for config in setup.by_name.values() for warning in config.warnings):
        output.note(f"warning: {warning}")

    def ready() -> None:
        url = service.listener.url if service.listener is not None else None
        output.json("status", state="ready", inbox=str(service.inbox.path), url=url)

    sys.setswitchinterval(SWITCH_S)
    service = Service(source, setup, World(), source.environ)
    try:
        code = anyio.run(partial(serve, service, ready))
    except BaseExceptionGroup as group:
        if isinstance(cause := cause_of(group), OrchestratorError):
            raise cause from None
        raise
    output.json("summary", exit_code=code)
    return code
