"""Do credentials, permissions, places and header fit, before anything is sent?

Asks Marketo, uploads nothing. Where a question may need a permission that imports do not need, no answer is no fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.adapters.marketo import DESCRIBE_BYTES_MAX, Marketo
from orchestrator.caller import Caller
from orchestrator.core.fields import Described, described, misfits
from orchestrator.core.model import Target
from orchestrator.core.verdicts import Answered, Outcome, Ruling, Verdict


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One thing `check` looked at."""

    what: str
    ok: bool
    """False makes the command fail; a warning does not."""
    note: str = ""
    exit_code: int = 0
    warns: bool = False


async def describe(marketo: Marketo, caller: Caller, target: Target) -> tuple[Described | None, str]:
    """The fields that the target's rows may have; None, and why, when Marketo does not say."""
    outcome, ruling = await _asked(marketo, caller, target)
    if ruling.verdict is not Verdict.DONE or not isinstance(outcome, Answered):
        return None, ruling.why
    known = described(outcome)
    return (known, "") if known.fields else (None, "Marketo named no field")


async def _asked(marketo: Marketo, caller: Caller, target: Target) -> tuple[Outcome, Ruling]:
    path = "/rest/v1/leads/describe2.json"
    if target.kind == "customobjects":
        path = f"/rest/v1/customobjects/{target.name}/describe.json"
    return await caller.call("other", lambda token: marketo.get(token, path, bytes_max=DESCRIBE_BYTES_MAX))


async def access(marketo: Marketo, caller: Caller, target: Target, header: tuple[str, ...] | None) -> list[CheckLine]:
    """Credentials, permission, header, static list and partition, line by line."""
    what = f"custom object {target.name}" if target.kind == "customobjects" else "permission to read leads"
    outcome, ruling = await _asked(marketo, caller, target)
    reached = caller.sound_at is not None
    refused = "" if reached else f"refused: {ruling.why}. {ruling.remedy}"
    lines = [CheckLine("credentials", reached, refused, ruling.exit_code if reached else 77)]
    if not reached and ruling.exit_code != 77:
        return [CheckLine("Marketo is reached", False, f"{ruling.why}. Check marketo.base_url and the network.", 69)]
    if not reached:
        return lines
    if ruling.verdict is not Verdict.DONE or not isinstance(outcome, Answered):
        return [*lines, CheckLine(what, False, f"{ruling.why}. {ruling.remedy}".strip(), ruling.exit_code or 77)]
    lines.append(CheckLine(what, True, "whether it may write is seen with the first upload"))
    lines += header_lines(header, described(outcome), target)
    if target.kind == "leads":
        lines += await _places(marketo, caller, target)
    return lines


def header_lines(header: tuple[str, ...] | None, known: Described, target: Target) -> list[CheckLine]:
    """What does not fit of a header; of the lookup field alone where there is none."""
    found = misfits(header if header is not None else known.dedupe, known, target)
    return [
        CheckLine(
            "lookup field" if misfit.refuses else "column",
            not misfit.refuses,
            _said(misfit.column, misfit.note),
            78,
            warns=not misfit.refuses,
        )
        for misfit in found
    ]


def _said(column: str, note: str) -> str:
    return f"{column!r}: {note}"


async def _places(marketo: Marketo, caller: Caller, target: Target) -> list[CheckLine]:
    """The static list and the partition. Both questions may need a permission that imports do not."""
    lines: list[CheckLine] = []
    if target.list_id is not None:
        path = f"/rest/v1/lists/{target.list_id}.json"
        outcome, ruling = await caller.call("other", lambda token: marketo.get(token, path))
        found = isinstance(outcome, Answered) and outcome.success and bool(outcome.result)
        note = "" if found else ruling.why or "Marketo has no such static list"
        lines.append(CheckLine(f"static list {target.list_id}", found, note, 78))
    outcome, ruling = await caller.call("other", lambda token: marketo.get(token, "/rest/v1/leads/partitions.json"))
    if isinstance(outcome, Answered) and outcome.success:
        names = [str(item["name"]) for item in outcome.result if isinstance(item, dict) and "name" in item]
        known = ", ".join(names)
        if target.partition_name is not None and target.partition_name not in names:
            lines.append(CheckLine(f"partition {target.partition_name}", False, f"there are: {known}", 78))
        elif target.partition_name is None and len(names) > 1:
            note = f"there are several ({known}): set import.partition_name"
            lines.append(CheckLine("partition", False, note, 78))
    else:
        lines.append(CheckLine("partitions", True, f"could not be asked: {ruling.why}", warns=True))
    return lines
