"""What do sample leads look like? A file as people have them, with some rows that are bad on purpose.

Twenty columns, about 345 bytes a row: names in several scripts, quoted commas, notes of several lines. Every e-mail
address is different, but where it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

HEADER = (
    "email,firstName,lastName,company,title,phone,mobilePhone,website,address,city,state,postalCode,country,industry,"
    "annualRevenue,numberOfEmployees,leadScore,leadSource,externalId,notes"
)
_FIRST = ("Ana", "Zoë", "José", "Łucja", "李雷", "Олена", "Søren", "Noor", "Máire", "Kwame", "Aiko", "Jean-Luc")
_LAST = ("Baker", "Nuñez", "Müller", "Kowalski", "王", "Шевченко", "Ødegård", "O'Neil", "van der Berg", "Ito")
_COMPANY = ("Acme", "Globex", "Initech", "Umbrella", "Stark", "Hooli", "Vandelay", "Wonka")
_CITY = ("São Paulo", "Zürich", "Kraków", "Austin", "Québec", "Osaka", "Accra", "Leeds")


@dataclass(frozen=True, slots=True)
class LeadsMade:
    """What was written, and what Marketo will say about it."""

    rows: int
    failing: int
    warned: int
    size_bytes: int


def write_leads(
    path: Path, rows: int, *, seed: int = 1, bad_share: float = 0.002, padding: int = 0, first: int = 1
) -> LeadsMade:
    """Write sample leads; of those `bad_share` fail (no e-mail, or a score that is no number) or are warned of.

    padding: bytes added to each row's notes. first: number of the first lead, so that files can be disjoint.
    """
    rng = Random(seed)  # noqa: S311 a seed is the point
    failing = warned = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER + "\n")
        lines: list[str] = []
        for number in range(first, first + rows):
            email, score = f"lead{number:08d}@example.com", str(number % 100)
            if rng.random() < bad_share:
                match rng.randrange(3):
                    case 0:
                        email, failing = "", failing + 1
                    case 1:
                        score, failing = f"{score}.5", failing + 1
                    case _:
                        email, warned = f"lead{number:08d}@example", warned + 1
            company = f"{_COMPANY[number % 8]} {number % 977}"
            if number % 12 == 0:
                company = f'"{company}, Inc."'
            notes = f"Met at the fair in hall {number % 40}; asked for a demo and for prices of plan {number % 7}."
            if padding:
                notes += " " + "x" * padding
            if number % 50 == 0:
                notes = (
                    f'"First call: friendly.\nSecond call: said ""send an offer"".\nThird call on day {number % 31}."'
                )
            lines.append(
                f"{email},{_FIRST[number % 12]},{_LAST[number % 10]},{company},Head of Marketing {number % 9},"
                f"+1 555 {number % 1000:03d} {number % 10000:04d},+1 556 {number % 1000:03d} {number % 10000:04d},"
                f"https://www.example.com/c/{number % 977},{number % 900} High Street,{_CITY[number % 8]},"
                f"State {number % 50},{number % 100000:05d},Country {number % 90},Industry {number % 30},"
                f"{number % 9000}000.50,{number % 5000},{score},Web form {number % 20},ext-{number:010d},{notes}"
            )
            if len(lines) == 5_000:
                file.write("\n".join(lines) + "\n")
                lines.clear()
        if lines:
            file.write("\n".join(lines) + "\n")
    return LeadsMade(rows, failing, warned, path.stat().st_size)
