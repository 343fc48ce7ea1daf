"""What does each command do? Arguments in, library called, exit code out; signals on the way."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.abc

from orchestrator import library, verification
from orchestrator.adapters import logs
from orchestrator.adapters.memory import settle_memory
from orchestrator.cli.output import (
    Output,
    resume_command,
    retry_command,
    show_check,
    show_export,
    show_plan,
    show_purged,
    show_result,
    show_status,
    table,
)
from orchestrator.cli.progress import watching
from orchestrator.cli.retry import show_change, show_nothing, show_preview, show_retry
from orchestrator.config import ONE_KIND_ONLY, Config, load_config
from orchestrator.core.model import Format, Reading
from orchestrator.errors import OrchestratorError, WrongArgument, cause_of
from orchestrator.library import LoadResult, Observer, RetryOptions, StopRequest
from orchestrator.planning import LoadOptions

T = TypeVar("T")

SIGNAL_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
"""A terminal that is closed ends a load as SIGTERM does, unless `nohup` has made us deaf to it."""


def run(options: argparse.Namespace) -> int:
    """One command, from its arguments to its exit code. No expected error shows a traceback."""
    output = Output(as_json=getattr(options, "json", False), quiet=options.quiet if "quiet" in options else False)
    try:
        return _dispatch(options, output)
    except OrchestratorError as error:
        output.error(error)
        output.json("summary", exit_code=error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        output.json("summary", exit_code=130)
        return 130
    except Exception as error:  # noqa: BLE001 the last resort: a fault of ours, told in one line
        if getattr(options, "verbose", False):
            import traceback

            traceback.print_exc()
        more = "" if getattr(options, "verbose", False) else " (-v shows where)"
        output.always(f"internal fault: {type(error).__name__}{more}; please report it")
        output.json("error", code=70, message=f"internal fault: {type(error).__name__}", remedy="")
        output.json("summary", exit_code=70)
        return 70


def _dispatch(options: argparse.Namespace, output: Output) -> int:
    if options.command == "simulator":
        return _simulator(options)
    settle_memory()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's algebra is not used: its threads cost 40 ms at a start
    if options.command == "daemon":
        from orchestrator.cli.daemon import run_daemon

        return run_daemon(options, output)
    config = _configure(options, output)
    match options.command:
        case "load":
            return _load(options, output, config)
        case "resume":
            return _resume(options, output, config)
        case "plan":
            wanted = _load_options(options, config)
            planning = partial(library.plan, config, options.source, wanted, check_values=options.check_values)
            return _looked(output, planning, lambda summary: show_plan(output, summary))
        case "status":
            show_status(output, library.status(config, options.load), named=options.load is not None)
            return 0
        case "retry":
            return _retry(options, output, config)
        case "report":
            result = library.report(config, options.load)
            return _shown(options, output, result)
        case "verify":
            return show_check(output, verification.verify(Path(options.report_dir), options.source, config))
        case "purge":
            return show_purged(output, library.purge(config, options.load, unfinished=options.unfinished))
        case "export":
            return show_export(library.export(config, options.load))
        case "check":
            config.need_credentials()
            checking = partial(library.check, config, options.source, _load_options(options, config))
            return _looked(output, checking, lambda lines: show_check(output, lines))
        case _:
            return _config_show(output, config)


def _configure(options: argparse.Namespace, output: Output) -> Config:
    flags = {
        "import.lookup_field": getattr(options, "lookup_field", None),
        "import.list_id": getattr(options, "list_id", None),
        "import.partition_name": getattr(options, "partition", None),
        "import.object": getattr(options, "object", None),
        "import.member_status": getattr(options, "member_status", None),
    }
    path = Path(options.config) if options.config else None
    config = load_config(path, os.environ, flags, options.subscription)
    logs.configure(
        level="info" if options.verbose else "error" if options.quiet else "warning",
        json=not sys.stderr.isatty(),
        secrets=[config.marketo.client_secret.get_secret_value()],
        color=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
    )
    for warning in config.warnings:
        output.note(f"warning: {warning}")
    return config


def _load_options(options: argparse.Namespace, config: Config) -> LoadOptions:
    report_dir = getattr(options, "report_dir", None)
    target = config.target()
    for name, kind in ONE_KIND_ONLY.items():
        flag = name.removesuffix("_name")
        if getattr(options, flag) is not None and target.kind != kind:
            raise WrongArgument(
                f"--{flag.replace('_', '-')} is for {kind} only, and this would import {config.imports.object}",
                remedy="Leave it out, or name the object that is meant with --object.",
            )
    return LoadOptions(
        target=target,
        format=Format(options.format) if options.format else None,
        reading=Reading(
            encoding=options.encoding,
            sheet=options.sheet,
            query=options.query,
            renamed=tuple(options.map),
            tagged=config.imports.tag_rows == "column",
        ),
        report_dir=Path(report_dir) if report_dir else None,
        fail_on_warning=getattr(options, "fail_on_warning", False),
        on_duplicate=options.on_duplicate,
        on_doubt=getattr(options, "on_doubt", None) or "resend",
        priority=getattr(options, "priority", None),
        max_wait_s=getattr(options, "max_wait", None),
        max_rejected=options.max_rejected,
        force=getattr(options, "force", False),
        retry=not getattr(options, "no_retry", False),
    )


def _load(options: argparse.Namespace, output: Output, config: Config) -> int:
    config.need_credentials()
    wanted = _load_options(options, config)
    return _drive(
        options,
        output,
        lambda observer, stop: library.load(config, options.source, wanted, observer=observer, stop=stop),
    )


def _retry(options: argparse.Namespace, output: Output, config: Config) -> int:
    wanted = RetryOptions(
        reasons=options.reasons,
        fix=",".join(options.fix),
        report_dir=Path(options.report_dir) if options.report_dir else None,
        max_rejected=options.max_rejected,
        force=options.force,
    )
    if options.dry_run:
        return show_preview(output, library.preview_retry(config, options.load, wanted, show_change(output)))
    config.need_credentials()
    summary = library.plan_retry(config, options.load, wanted)
    if summary.load is None:
        return show_nothing(output, summary)
    show_retry(output, summary)
    return _go_on(options, output, config, summary.load.id)


def _resume(options: argparse.Namespace, output: Output, config: Config) -> int:
    config.need_credentials()
    return _go_on(options, output, config, options.load)


def _go_on(options: argparse.Namespace, output: Output, config: Config, load: str | None) -> int:
    return _drive(
        options,
        output,
        lambda observer, stop: library.resume(
            config,
            load,
            on_doubt=options.on_doubt,
            priority=options.priority,
            max_wait_s=options.max_wait,
            fail_on_warning=options.fail_on_warning,
            retry=not options.no_retry,
            observer=observer,
            stop=stop,
        ),
    )


def _drive(
    options: argparse.Namespace,
    output: Output,
    begin: Callable[[Observer, StopRequest], Awaitable[LoadResult]],
) -> int:
    """Run a load under signals and with progress: the first signal stops it after saving, the second at once."""
    stop = StopRequest()

    async def main() -> LoadResult:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_signals, stop, output)
            with watching(output, wanted=not options.no_progress) as observer:
                result = await begin(observer, stop)
            tasks.cancel_scope.cancel()
        return result

    result = _run(main)
    return _shown(options, output, result, fail_on_warning=options.fail_on_warning, no_retry=options.no_retry)


def _looked(output: Output, begin: Callable[..., Awaitable[T]], show: Callable[[T], int]) -> int:
    """Run what sends nothing under signals: the first one ends it, as soon as no file is half written."""
    stop, results = StopRequest(), list[T]()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_signals, stop, output)
            with anyio.CancelScope() as scope:
                stop.callbacks.append(scope.cancel)
                results.append(await begin(stop=stop))
            tasks.cancel_scope.cancel()

    _run(main)
    if not stop.exit_code:
        return show(results[0])
    output.json("summary", exit_code=stop.exit_code)
    return stop.exit_code


def _run(main: Callable[[], Awaitable[T]]) -> T:
    """Run it to its end. Raises the error that ended it, not the group it came in."""
    try:
        return anyio.run(main)
    except BaseExceptionGroup as group:
        if isinstance(cause := cause_of(group), OrchestratorError):
            raise cause from None
        raise


def _shown(
    options: argparse.Namespace,
    output: Output,
    result: LoadResult,
    *,
    fail_on_warning: bool = False,
    no_retry: bool = False,
) -> int:
    config, subscription = options.config, options.subscription
    resume = resume_command(result, config, subscription, fail_on_warning=fail_on_warning, no_retry=no_retry)
    return show_result(output, result, resume=resume, retry=retry_command(result, config, subscription))


async def _signals(stop: StopRequest, output: Output, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with anyio.open_signal_receiver(*(SIGNAL_CODES.keys() - ({signal.SIGHUP} if deaf else set()))) as signals:
        task_status.started()
        async for received in signals:
            if stop.exit_code:
                os._exit(SIGNAL_CODES[received])
            output.always("stopping; a second signal stops at once")
            stop.set(SIGNAL_CODES[received])


def _config_show(output: Output, config: Config) -> int:
    rows: list[tuple[str, ...]] = [("SETTING", "VALUE", "FROM")]
    for setting in config.settings:
        rows.append((f"{setting.section}.{setting.key}", setting.shown, setting.origin))
        output.json("status", setting=f"{setting.section}.{setting.key}", value=setting.shown, origin=setting.origin)
    output.json("summary", exit_code=0)
    output.data(table(rows))
    return 0


def _simulator(options: argparse.Namespace) -> int:
    from orchestrator.simulator.command import make_leads, serve

    if options.make_leads:
        return make_leads(Path(options.make_leads), options.rows, seed=options.seed)
    return serve(
        port=options.port,
        port_file=Path(options.port_file) if options.port_file else None,
        rows_per_second=options.rows_per_second,
        seconds_per_job=options.seconds_per_job,
        min_poll_interval=options.min_poll_interval,
        seed=options.seed,
        quiet=options.quiet,
    )
