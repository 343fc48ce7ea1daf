"""Which command, with which flags? The whole command line as one parser.

Nothing but the standard library is imported before a command runs: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from orchestrator import __version__

EXIT_CODES = {
    0: "every row is imported (warnings allowed)",
    2: "wrong arguments",
    3: "finished; some rows failed, could not be sent, or have an unknown outcome: see the report",
    4: "finished; rows have warnings and --fail-on-warning was given",
    65: "the source cannot be loaded as it is",
    66: "the source does not exist or cannot be read",
    69: "Marketo cannot be reached, or kept failing past the deadline",
    70: "a fault of ours, accounting that does not add up included",
    75: "stopped and resumable",
    77: "credentials or permissions refused",
    78: "the configuration is wrong",
    130: "stopped by SIGINT after saving; resumable",
    143: "stopped by SIGTERM (or SIGHUP) after saving; resumable",
}


SOURCES = (
    "CSV, TSV or SSV with a header, JSON lines, XLSX or Parquet, also packed (gz, zst, bz2, xz, zip); several files or "
    "patterns make one load; - is standard input"
)


def duration(text: str) -> float:
    """Seconds of 90, 90s, 15m, 2h or 1d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 90s, 15m, 2h or 1d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def count(text: str) -> int:
    """A number from 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def encoding(text: str) -> str:
    """The name of an encoding of text that Python knows."""
    try:
        "".encode(text)
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(f"{text!r} is no encoding, such as cp1252, latin-1, shift_jis") from None
    return text


def port(text: str) -> int:
    """A TCP port; 0 is any free one."""
    if count(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def renaming(text: str) -> tuple[str, str]:
    """(new name, old name) of NEW=OLD."""
    new, _, old = text.partition("=")
    if not new or not old:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=COLUMN, such as firstName=first_name")
    return new, old


class _Parser(argparse.ArgumentParser):
    """With --json, wrong arguments are told as every other error is."""

    as_json = False

    def error(self, message: str) -> NoReturn:
        if self.as_json:
            remedy = f"`{self.prog} --help` shows what there is."
            for line in (
                {"type": "error", "schema": 1, "code": 2, "message": message, "remedy": remedy},
                {"type": "summary", "schema": 1, "exit_code": 2},
            ):
                print(json.dumps(line, ensure_ascii=False))
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--config", metavar="FILE", help="configuration file (default: config.toml if there is one)")
    common.add_argument("--subscription", metavar="NAME", help="use [subscriptions.NAME.marketo] of the configuration")
    common.add_argument("--json", action="store_true", help="JSON lines on stdout, the last one a summary")
    common.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr")
    common.add_argument("-v", "--verbose", action="store_true", help="every step on stderr")

    target = _Parser(add_help=False, allow_abbrev=False)
    target.add_argument("--format", choices=("csv", "tsv", "ssv"), help="default: by suffix, then by the header")
    target.add_argument(
        "--encoding", type=encoding, metavar="NAME", help="encoding of the text (default: UTF-8, or UTF-16 with a mark)"
    )
    target.add_argument("--sheet", metavar="NAME", help="sheet of the workbook")
    target.add_argument("--query", metavar="SQL", help="load what this query gives; the source is the table `source`")
    target.add_argument(
        "--map", type=renaming, action="append", default=[], metavar="FIELD=COLUMN", help="rename a column for Marketo"
    )
    target.add_argument("--lookup-field", metavar="FIELD", help="field Marketo matches existing leads by")
    target.add_argument("--list-id", metavar="ID", help="static list the leads are added to")
    target.add_argument("--partition", metavar="NAME", help="lead partition")
    target.add_argument("--object", metavar="KIND", help="leads, customobjects:API_NAME or members:PROGRAM_ID")
    target.add_argument("--member-status", metavar="STATUS", help="status of program members")
    target.add_argument(
        "--on-duplicate",
        choices=("together", "last", "ignore"),
        default="together",
        help="rows that share a lookup value: in the order of the file (default), the last one only, or as they come",
    )
    target.add_argument(
        "--max-rejected", type=count, default=0, metavar="N", help="leave out up to N rows that cannot be sent"
    )

    running = _Parser(add_help=False, allow_abbrev=False)
    running.add_argument("--fail-on-warning", action="store_true", help="exit with 4 when rows have warnings")
    running.add_argument("--on-doubt", choices=("resend", "stop"), help="what follows an upload whose answer was lost")
    running.add_argument(
        "--priority", choices=("low", "normal", "high"), help="among the loads of one subscription (default: normal)"
    )
    running.add_argument("--max-wait", type=duration, metavar="DURATION", help="stop, resumable, after 90s, 15m, 2h")
    running.add_argument("--no-retry", action="store_true", help="do not send rows again that failed by accident")
    running.add_argument("--no-progress", action="store_true", help="no progress on stderr")

    codes = "exit codes:\n" + "\n".join(
        textwrap.fill(f"  {code:<4} {meaning}", 79, subsequent_indent=" " * 7) for code, meaning in EXIT_CODES.items()
    )
    top = _Parser(
        prog="orchestrator",
        allow_abbrev=False,
        description="Load lead files of any size into Adobe Marketo Engage; account for every row.",
        epilog=codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"orchestrator {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    load = commands.add_parser(
        "load",
        parents=[common, target, running],
        help="plan, send, wait, report; the same command again resumes",
        description="Load SOURCE and wait until every row is accounted for. The same command again resumes.",
    )
    load.add_argument("source", metavar="SOURCE", nargs="+", help=SOURCES)
    load.add_argument("--report-dir", metavar="DIR", help="folder of the report (default: reports/<load id>)")
    load.add_argument("--force", action="store_true", help="load the same content again")

    plan = commands.add_parser(
        "plan",
        parents=[common, target],
        help="the dry run: chunks, calls, time, findings",
        description="Show what a load would do. Nothing is sent and nothing is written down.",
    )
    plan.add_argument("source", metavar="SOURCE", nargs="+", help=SOURCES)

    plan.add_argument("--check-values", action="store_true", help="look at every value: types, lengths, dates, e-mails")

    status = commands.add_parser(
        "status",
        parents=[common],
        help="loads and their chunks, from the ledger",
        description="Show the loads of the ledger, also while one runs; with LOAD its chunks.",
    )
    status.add_argument("load", metavar="LOAD", nargs="?", help="id of a load, or how it begins")

    resume = commands.add_parser(
        "resume",
        parents=[common, running],
        help="go on with an interrupted load",
        description="Go on with LOAD, or with the newest interrupted load.",
    )
    resume.add_argument("load", metavar="LOAD", nargs="?", help="id of a load, or how it begins")

    retry = commands.add_parser(
        "retry",
        parents=[common, running],
        help="a new load of the rows that failed and are worth sending again",
        description="Send the failed rows of LOAD again as a load of their own: as they stand where their reason may "
        "pass by itself, or mended by rules. The same command again resumes.",
    )
    retry.add_argument("load", metavar="LOAD", help="id of a finished load, or how it begins")
    retry.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="RULES",
        help="mend rows by rules, separated by commas: trim[:COLUMN], strip-controls[:COLUMN], one-line[:COLUMN], "
        "lower:COLUMN, upper:COLUMN, blank:COLUMN, blank-invalid:COLUMN[=TYPE], truncate:COLUMN=CHARACTERS, "
        "map:COLUMN=FILE",
    )
    retry.add_argument(
        "--reasons",
        choices=("transient", "unknown", "all"),
        default="unknown",
        help="rows that go again unmended: transient reasons only, unknown ones too (default), or all",
    )
    retry.add_argument("--dry-run", action="store_true", help="show what would be changed and sent; send nothing")
    retry.add_argument("--report-dir", metavar="DIR", help="folder of the report (default: reports/<load id>)")
    retry.add_argument(
        "--max-rejected", type=count, default=0, metavar="N", help="leave out up to N rows that cannot be sent"
    )
    retry.add_argument("--force", action="store_true", help="send the same rows again, although they were")

    report = commands.add_parser(
        "report",
        parents=[common],
        help="write the report of a load again",
        description="Write the report of LOAD again from the ledger and the collected files.",
    )
    report.add_argument("load", metavar="LOAD", help="id of a load, or how it begins")

    verify = commands.add_parser(
        "verify",
        parents=[common],
        help="do the books of a report balance, by its files and its source",
        description="Recompute the report in REPORT_DIR from its files and SOURCE, and say whether the books balance.",
    )
    verify.add_argument("report_dir", metavar="REPORT_DIR", help="folder of a report")
    verify.add_argument(
        "source", metavar="SOURCE", nargs="+", help="the file that was loaded; all of them, if several were"
    )

    purge = commands.add_parser(
        "purge",
        parents=[common],
        help="remove a load with its report and all that is known of it",
        description="Remove the report of LOAD, its collected files, and what the ledger holds of it.",
    )
    purge.add_argument("load", metavar="LOAD", help="id of a load, or how it begins")
    purge.add_argument("--unfinished", action="store_true", help="also a load that is not finished: it is given up")

    export = commands.add_parser(
        "export",
        parents=[common],
        help="everything the ledger holds, as JSON lines",
        description="Write everything that can be read of the ledger as JSON lines, also of a damaged one.",
    )
    export.add_argument("load", metavar="LOAD", nargs="?", help="id of a load, or how it begins")

    check = commands.add_parser(
        "check",
        parents=[common, target],
        help="configuration, credentials, permission, header",
        description="Check the configuration, the credentials, what the API user may do, and SOURCE's header.",
    )
    check.add_argument("source", metavar="SOURCE", nargs="*", help="a source to check against Marketo's fields")

    daemon = commands.add_parser(
        "daemon",
        parents=[common],
        help="run for months: load what is put into the inbox",
        description="Run until stopped, and load every file that is put into the inbox. Files move from the inbox to "
        "work, and from there to done or failed.",
    )
    daemon.add_argument("--inbox", metavar="DIR", help="folder that files are put into (daemon.inbox)")
    daemon.add_argument("--listen", metavar="ADDRESS", help="HOST:PORT, unix:PATH or off (daemon.listen)")
    daemon.add_argument("--behind-proxy", action="store_true", help="a proxy before it does TLS (daemon.behind_proxy)")
    daemon.add_argument("--as-root", action="store_true", help="run as root all the same")

    config = commands.add_parser("config", help="the configuration", description="Look at the configuration.")
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser(
        "show",
        parents=[common],
        help="every setting, its value, and where it came from",
        description="Show every setting, its value and its origin; secrets masked.",
    )

    simulator = commands.add_parser(
        "simulator",
        help="serve a stand-in for Marketo on loopback",
        description="Serve a stand-in for Marketo's bulk import on loopback, to try everything without credentials; "
        "or, with --make-leads, write a file of sample leads.",
    )
    simulator.add_argument("--port", type=port, default=8099, help="port on 127.0.0.1 (0: any free one)")
    simulator.add_argument("--port-file", metavar="FILE", help="write the port here once it is served")
    simulator.add_argument("--rows-per-second", type=float, default=2_000.0, metavar="R", help="of each processor")
    simulator.add_argument("--seconds-per-job", type=float, default=0.5, metavar="S", help="before the rows of a job")
    simulator.add_argument("--min-poll-interval", type=float, default=5.0, metavar="S", help="noted when undercut")
    simulator.add_argument("--seed", type=int, default=1, help="of everything random")
    simulator.add_argument("--make-leads", metavar="FILE", help="write sample leads to FILE instead")
    simulator.add_argument("--rows", type=count, default=200_000, help="how many sample leads")
    simulator.add_argument("-q", "--quiet", action="store_true", help="say neither what to set nor what was done")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: runs one command and returns its exit code."""
    told = signal.getsignal(signal.SIGINT)
    if told is signal.default_int_handler:  # amid the imports it would show a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = sys.argv[1:] if arguments is None else list(arguments)
    _Parser.as_json = "--json" in given
    if given[:1] and given[0].startswith("-") and given[0] not in ("-h", "--help", "--version"):
        parser().error(f"{given[0]} stands before the command; flags stand after it: orchestrator COMMAND {given[0]} …")
    options = parser().parse_args(given)
    from orchestrator.cli.commands import run

    try:
        signal.signal(signal.SIGINT, told)
        return run(options)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
