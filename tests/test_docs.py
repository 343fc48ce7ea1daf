"""What the documentation says is what the code does: commands, flags, settings, exit codes, events, links."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import errors
from orchestrator.cli.main import EXIT_CODES, parser
from orchestrator.config import SECTIONS, load_config
from orchestrator.core.model import State
from orchestrator.core.repair import KINDS
from orchestrator.core.verdicts import Verdict

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "config.example.toml"


def parsers(top: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parser."""
    children = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not children:
        yield name, top
    for child, inner in children[0].choices.items() if children else ():
        yield from parsers(inner, f"{name} {child}".strip())


def test_every_command_and_flag_is_documented() -> None:
    """A flag nobody can read of does not exist."""
    common = COMMANDS.split("\n## ")[1]
    for name, command in parsers(parser()):
        section = next((part for part in COMMANDS.split("\n## ") if part.startswith(f"`{name}")), None)
        assert section is not None, f"docs/commands.md has no section for `{name}`"
        assert f"`{name}" in README, f"the README does not name `{name}`"
        for action in command._actions:
            assert action.help, f"{name}: {action.dest} has no help"
            for flag in action.option_strings:
                assert re.search(rf"{re.escape(flag)}\b", section + common), f"`{name}` does not document {flag}"


def test_every_repair_rule_is_in_the_help_and_documented() -> None:
    """Whoever sits before a thousand failed rows types --help first."""
    said = next(command.format_help() for name, command in parsers(parser()) if name.endswith("retry"))
    for kind in KINDS.values():
        assert kind.shape in "".join(said.split())
        assert kind.shape.split("[")[0].split("=")[0] in COMMANDS


def test_no_flag_is_documented_that_does_not_exist() -> None:
    """What is documented is a promise."""
    known = {flag for _, command in parsers(parser()) for action in command._actions for flag in action.option_strings}
    known |= {"--version"}
    for text in (README, COMMANDS, EXAMPLE.read_text(encoding="utf-8")):
        for line in text.splitlines():
            if "orchestrator" in line or line.startswith("|"):
                for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
                    assert flag in known, f"{flag} in: {line}"


def test_the_example_holds_every_setting_with_its_default() -> None:
    """The example is the reference: a setting missing there would be found by nobody."""
    text = EXAMPLE.read_text(encoding="utf-8")
    written = tomllib.loads(text)
    shown = load_config(EXAMPLE, {}, {})
    defaults = {(setting.section, setting.key): setting.value for setting in load_config(None, {}, {}).settings}
    for setting in shown.settings:
        assert setting.value == defaults[setting.section, setting.key], setting
    for section, model in SECTIONS.items():
        block = text.split(f"[{section}]")[1].split("\n[")[0]
        for key in model.model_fields:
            assert key in written[section] or re.search(rf"^# {key} = ", block, re.MULTILINE), f"{section}.{key}"
            line = next(line for line in block.splitlines() if re.match(rf"(# )?{key} = ", line))
            above = block.splitlines()[block.splitlines().index(line) - 1]
            assert "#" in line.removeprefix("# ") or above.startswith("#"), f"{section}.{key} has no reason"


def test_every_exit_code_is_in_the_readme_and_every_error_has_one_of_them() -> None:
    """Makefiles and schedulers decide by the code."""
    table = {int(code) for row in re.findall(r"^\| ([\d /]+) \|", README, re.MULTILINE) for code in row.split("/")}
    assert table == set(EXIT_CODES)
    todo: list[type[errors.OrchestratorError]] = [errors.OrchestratorError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        assert kind.exit_code in EXIT_CODES
        assert kind.__name__ == "OrchestratorError" or kind.__name__ in (errors.__doc__ or ""), kind


def test_every_log_event_is_listed_and_no_other() -> None:
    """Alerts are written against these names."""
    listed = set(
        re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs/events.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    used: set[str] = set()
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log")), args=[ast.Constant(value=str(event)), *_]):
                    used.add(event)
    assert listed == used


@pytest.mark.parametrize("word", [*State, *(verdict.name for verdict in Verdict)])
def test_every_state_is_in_the_glossary_and_every_verdict_is_used(word: str) -> None:
    """Words mean one thing, and no word is left over."""
    if word in {str(state) for state in State}:
        assert f"| `{word}` |" in (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    else:
        code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "orchestrator").rglob("*.py"))
        assert code.count(f"Verdict.{word}") >= 2


def test_every_link_and_every_path_in_the_documents_leads_somewhere() -> None:
    """Documents rot by moved files."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(documents) >= 8
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", text):
            assert not target or (document.parent / target).exists(), f"{document.name}: {target}"
        if document.name == "architecture.md":
            for module in re.findall(r"`([a-z_]+/(?:[a-z_]+\.py|[a-z_.]+))`", text):
                assert (ROOT / "orchestrator" / module).exists() or (ROOT / module).exists(), module


def test_every_module_is_in_the_architecture_page() -> None:
    """A reader must be told where a change belongs."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "orchestrator").rglob("*.py"):
        module = path.relative_to(ROOT / "orchestrator")
        if module.parts[0] not in ("cli", "simulator") and not module.name.startswith("__"):
            assert module.name in text, module


def test_make_help_lists_every_target() -> None:
    """The Makefile is an interface."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == phony.split()
    for target in ("demo", "load", "test", "check", "bench", "help"):
        assert target in phony.split()
        assert f"make {target}" in README, target


def test_every_module_says_which_question_it_answers() -> None:
    """The first line of a module is what a reader sees first."""
    for path in (ROOT / "orchestrator").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if source.strip():
            assert ast.get_docstring(ast.parse(source)), path
