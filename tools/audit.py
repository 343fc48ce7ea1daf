"""Asks the public advisory database (OSV) about every version that a lock pins: `tools/audit.py [flags of pip-audit]`.

Ends with 0 when there was an answer about every one and no weakness is known, 1 when one is, and 69 when that is not
known: the service could not be reached, or did not answer about every version, or does not even tell of a weakness
that has been public for years. pip-audit asks; but it ends with 1 also when it could not, looks only at what this
Python would install, and takes what the service does not know for sound. Hence this.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KNOWN_TO_BE_WEAK = "jinja2==2.11.2"  # CVE-2020-28493: who does not tell of it does not tell of others
WAIT_S = 1800.0
EX_UNAVAILABLE = 69


class NotAudited(Exception):
    """Nothing can be said of these versions."""


def rounds(pins: set[str]) -> list[list[str]]:
    """The pins so that no round has two versions of one package: pip-audit takes one at a time."""
    packages: dict[str, list[str]] = {}
    for pin in sorted(pins):
        packages.setdefault(pin.split("==")[0], []).append(pin)
    return [
        [versions[turn] for versions in packages.values() if turn < len(versions)]
        for turn in range(max(map(len, packages.values())))
    ]


def ask(pins: list[str], flags: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What is known of each pin. Raises NotAudited unless there is an answer about every one."""
    with tempfile.TemporaryDirectory() as folder:  # also for its cache: old answers are none
        file = Path(folder, "pins.txt")
        file.write_text("\n".join(pins), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off"]
        command += ["--cache-dir", folder, *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            raise NotAudited(f"no end after {WAIT_S:.0f} s") from None
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reasons = re.findall(r"^\w[\w.]*: .+", done.stderr, re.MULTILINE) or done.stderr.splitlines()
        raise NotAudited(reasons[-1] if reasons else f"pip-audit ended with {done.returncode}") from None
    known = {f"{one['name']}=={one['version']}": one["vulns"] for one in answers if "vulns" in one}
    if missing := set(pins) - set(known):
        raise NotAudited(f"no answer about {', '.join(sorted(missing))}")
    return known


def main(flags: list[str]) -> int:
    locks = (ROOT / "requirements.lock", *ROOT.glob("*/requirements.lock"))
    pins = {pin for lock in locks for pin in re.findall(r"^\w\S*==\S+", lock.read_text("utf-8"), re.MULTILINE)}
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for some in rounds(pins | {KNOWN_TO_BE_WEAK}):
            found |= ask(some, flags)
        if not found[KNOWN_TO_BE_WEAK]:
            raise NotAudited(f"the service does not know the weakness of {KNOWN_TO_BE_WEAK}")
    except NotAudited as error:
        print(f"NOT AUDITED, nothing is known of the {len(pins)} versions: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    weak = {pin: found[pin] for pin in sorted(pins) if found[pin]}
    for pin, weaknesses in weak.items():
        for one in weaknesses:
            names = ", ".join([one["id"], *sorted(one["aliases"])])
            print(f"{pin}: {names}, mended in {', '.join(one['fix_versions']) or 'no version yet'}")
    print(f"{len(pins)} versions asked about, {len(weak)} with known weaknesses")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
