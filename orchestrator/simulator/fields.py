"""Which fields does the simulated subscription have, and which values do they take?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeadField:
    name: str
    display_name: str
    data_type: str
    length: int | None = None
    updateable: bool = True


LEAD_FIELDS = (
    LeadField("id", "Id", "integer", updateable=False),
    LeadField("email", "Email Address", "email", 255),
    LeadField("firstName", "First Name", "string", 255),
    LeadField("lastName", "Last Name", "string", 255),
    LeadField("middleName", "Middle Name", "string", 255),
    LeadField("company", "Company Name", "string", 255),
    LeadField("title", "Job Title", "string", 255),
    LeadField("phone", "Phone Number", "phone", 255),
    LeadField("mobilePhone", "Mobile Phone Number", "phone", 255),
    LeadField("website", "Website", "url", 255),
    LeadField("address", "Address", "text", 2000),
    LeadField("city", "City", "string", 255),
    LeadField("state", "State", "string", 255),
    LeadField("postalCode", "Postal Code", "string", 255),
    LeadField("country", "Country", "string", 255),
    LeadField("industry", "Industry", "string", 255),
    LeadField("annualRevenue", "Annual Revenue", "currency"),
    LeadField("numberOfEmployees", "Num Employees", "integer"),
    LeadField("leadScore", "Lead Score", "score"),
    LeadField("leadSource", "Lead Source", "string", 255),
    LeadField("leadStatus", "Lead Status", "string", 255),
    LeadField("dateOfBirth", "Date of Birth", "date"),
    LeadField("lastContactedAt", "Last Contacted", "datetime"),
    LeadField("unsubscribed", "Unsubscribed", "boolean"),
    LeadField("notes", "Notes", "text", 30000),
    LeadField("externalId", "External Id", "string", 255),
    LeadField("sfdcLeadId", "SFDC Lead Id", "string", 255),
    LeadField("createdAt", "Created At", "datetime", updateable=False),
)
BY_NAME: Mapping[str, LeadField] = {field.name: field for field in LEAD_FIELDS}
LOOKUP_FIELDS = frozenset({"id", "email", "externalId", "sfdcLeadId"})
"""Fields leads may be matched by; matching by another existing field answers 1011."""

OBJECTS: Mapping[str, tuple[tuple[str, ...], tuple[LeadField, ...]]] = {
    "car_c": (
        ("vin",),
        (
            LeadField("vin", "VIN", "string", 255),
            LeadField("make", "Make", "string", 255),
            LeadField("year", "Year", "integer"),
        ),
    ),
}
"""Custom objects: API name -> (dedupe fields, fields)."""

_DIGITS = re.compile(r"[+-]?[0-9]{1,19}\Z").match


def _integer(value: str) -> bool:
    return bool(_DIGITS(value)) and -(2**63) <= int(value) < 2**63


_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?\Z").match
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z").match
_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:?\d{2})?\Z").match
_BOOLEAN = frozenset({"true", "false", "1", "0", "yes", "no"})
is_email = re.compile(r"[!-?A-~]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\Z").match
"""ASCII only, one at sign, a dotted domain: Marketo takes no emoji."""

CHECKS: Mapping[str, Callable[[str], object]] = {
    "integer": _integer,
    "score": _integer,
    "percent": _integer,
    "currency": _NUMBER,
    "float": _NUMBER,
    "date": _DATE,
    "datetime": _DATETIME,
    "boolean": lambda value: value.lower() in _BOOLEAN,
}
"""Data types whose values are checked; a value that does not fit fails its row."""


def described(field: LeadField) -> dict[str, object]:
    """A field as describe2 shows it."""
    shown: dict[str, object] = {
        "name": field.name,
        "displayName": field.display_name,
        "dataType": field.data_type,
        "updateable": field.updateable,
        "crmManaged": False,
    }
    if field.length is not None:
        shown["length"] = field.length
    return shown
