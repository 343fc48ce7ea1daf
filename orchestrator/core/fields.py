"""Which fields has the subscription, and does a header fit them?

Marketo takes any header: it ignores an unknown column in silence, and fails every row without the lookup field. So this
is looked at before anything is sent. Nothing here raises on what Marketo sends.

Sources: describe2 and the describe of custom objects, as documented; names count with their case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from orchestrator.core.model import Target
from orchestrator.core.verdicts import Answered, plain

NOT_DESCRIBED = frozenset({"externalCompanyId", "externalSalesPersonId", "leadPartitionId"})
"""Columns of lead imports that link to a company, a sales person, a partition: documented, and no fields of leads."""

STANDARD_KEYS = frozenset(
    {
        *("id", "cookies", "email", "twitterId", "facebookId", "linkedInId"),
        *("sfdcAccountId", "sfdcContactId", "sfdcLeadId", "sfdcLeadOwnerId", "sfdcOpptyId"),
    }
)
"""What leads may be looked up by beside fields of one's own: documented, and not that describe names each of them."""

LIKENED = 20
"""Unknown columns that are compared with every field: with 1,500 fields each takes 20 ms, and nothing
else is done meanwhile."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field as describe shows it. length: in characters (of type text: bytes), where it has one."""

    name: str
    label: str
    data_type: str
    length: int | None
    updateable: bool


@dataclass(frozen=True, slots=True)
class Described:
    """What describe says of an object: its fields, and (custom objects) those that identify a record together."""

    fields: tuple[Field, ...]
    dedupe: tuple[str, ...] = ()

    def named(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something about a header. refuses: no row could be imported."""

    column: str
    note: str
    refuses: bool = False


def described(answer: Answered) -> Described:
    """The fields in an answer of describe; none when it does not say."""
    fields: list[Field] = []
    dedupe: tuple[str, ...] = ()
    for item in answer.result:
        if not isinstance(item, Mapping):
            continue
        listed, keys = item.get("fields"), item.get("dedupeFields")
        fields += [found for entry in _list(listed) if (found := _field(entry)) is not None]
        dedupe = tuple(plain(key) for key in _list(keys) if isinstance(key, str))
    return Described(tuple(fields), dedupe)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _field(entry: Any) -> Field | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        return None
    length, label = entry.get("length"), entry.get("displayName")
    return Field(
        name=entry["name"],
        label=label if isinstance(label, str) else "",
        data_type=str(entry.get("dataType", "")),
        length=length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None,
        updateable=entry.get("updateable") is not False,
    )


def misfits(header: Sequence[str], known: Described, target: Target) -> list[Misfit]:
    """What does not fit between a header and the fields; nothing where the fields are not known.

    Program members are let be: their files mix fields of leads and of members, and no page says which.
    """
    if not known.fields or target.kind == "members":
        return []
    found: list[Misfit] = []
    if target.kind == "leads" and known.named(target.lookup_field) is None:
        note = f"Marketo has no such field to look leads up by{_hint(target.lookup_field, known)}"
        if target.lookup_field in STANDARD_KEYS:
            note = "Marketo does not name this field among its own: it may refuse to look leads up by it"
        found.append(Misfit(target.lookup_field, note, refuses=target.lookup_field not in STANDARD_KEYS))
    keys = {target.lookup_field} if target.kind == "leads" else set(known.dedupe)
    if target.kind == "customobjects":
        note = "the header lacks this field, which identifies a record: every row would fail"
        found += [Misfit(key, note, refuses=True) for key in known.dedupe if key not in header]
    for name in header:
        field = known.named(name)
        if field is None and name not in NOT_DESCRIBED and name not in keys:
            hint = _hint(name, known, likely=len(found) < LIKENED)
            found.append(Misfit(name, f"Marketo has no such field and will ignore the column{hint}"))
        elif field is not None and not field.updateable and name not in keys:
            found.append(Misfit(name, "Marketo does not let this field be written: the column changes nothing"))
    return found


def _hint(name: str, known: Described, *, likely: bool = True) -> str:
    """What was perhaps meant. likely: also what only looks like it."""
    asked = name.strip().casefold()
    for field in known.fields:
        if field.name.casefold() == asked:
            return f"; it is named {field.name!r} (case and spaces count)"
    labelled = [field for field in known.fields if field.label.casefold() == asked]
    if labelled:
        return f"; {name!r} is the label of {labelled[0].name!r}: use that, or --map {labelled[0].name}={name!r}"
    if not likely:
        return ""
    by_word = {word: field.name for field in known.fields for word in (_word(field.name), _word(field.label)) if word}
    near = get_close_matches(_word(name), by_word, n=1, cutoff=0.75)
    return f"; did you mean {by_word[near[0]]!r}?" if near else ""


def _word(name: str) -> str:
    """first_name, First Name and firstName are one word."""
    return "".join(character for character in name.casefold() if character.isalnum())
