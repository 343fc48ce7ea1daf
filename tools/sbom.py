"""The parts of what a user runs, as CycloneDX 1.6: `tools/sbom.py FILE`.

These are the packages of deploy/requirements.lock: what the program needs, and what its formats do (`scope` is
`optional` for what only these bring in), for every system and Python that the lock is for. Python itself and the
tools of development are not among them. Versions, hashes (of any file that may be installed) and who needs whom are
the lock's; licences are what the package says of itself, where that very version is installed here.

The same lock and the same packages make the same bytes: there is no time in it, and its serial number comes from
its content. There is no address either: a name and a version are the same wherever they are fetched from.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def licences(name: str, version: str) -> list[dict[str, Any]]:
    """What the installed package says; nothing if another version is installed, or none."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    if package.version != version:
        return []
    for expression in package.metadata.get_all("License-Expression") or []:
        return [{"expression": expression, "acknowledgement": "declared"}]
    names = [one for one in package.metadata.get_all("License") or [] if one and "\n" not in one]
    if not names:  # older packages say it by classifiers, some with the whole text besides
        classifiers = package.metadata.get_all("Classifier") or []
        names = [one.split(" :: ")[-1] for one in classifiers if one.startswith("License :: ")]
    return [{"license": {"name": one, "acknowledgement": "declared"}} for one in names]


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """The document, of the lock's text and the [project] table of pyproject.toml."""
    root = project["name"]
    parts: dict[str, dict[str, Any]] = {}  # by purl: one package may have a version for each of several Pythons
    wanted_by: dict[str, set[str]] = {}  # by purl: names, the project's own among them
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        name, version, marker = re.findall(r"^(\S+)==(\S+)(?: ; (.*?))? \\\n", entry)[0]
        purl = f"pkg:pypi/{name}@{version}"
        wanted_by[purl] = set(re.findall(r"^    # (?:via |  )(\w\S*)", entry, re.MULTILINE))
        hashes = re.findall(r"--hash=sha256:(\w+)", entry)
        parts[purl] = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "scope": "optional",
            "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
            "licenses": licences(name, version),
            "purl": purl,
            "properties": [{"name": f"{root}:environment_marker", "value": marker}] if marker else [],
        }
    needs: dict[str, list[str]] = {
        name: [purl for purl, wanting in wanted_by.items() if name in wanting]
        for name in (root, *(part["name"] for part in parts.values()))
    }
    direct = {re.split(r"[^\w.-]", one)[0] for one in project["dependencies"]}
    reached = [purl for purl in needs[root] if parts[purl]["name"] in direct]
    for purl in reached:  # it grows meanwhile
        parts[purl]["scope"] = "required"
        reached += [one for one in needs[parts[purl]["name"]] if one not in reached]
    document = {
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": root,
                "version": project["version"],
                "licenses": [{"expression": project["license"]}],
            }
        },
        "components": list(parts.values()),
        "dependencies": [
            {"ref": root, "dependsOn": needs[root]},
            *({"ref": purl, "dependsOn": needs[part["name"]]} for purl, part in parts.items()),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(document))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return head | document


def main(target: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    document = bill((ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8"), project)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{target}: {len(document['components'])} parts, {document['serialNumber']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
