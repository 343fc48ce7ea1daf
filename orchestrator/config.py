"""What is set, where does it come from, and is it sound?

Flag > environment (`ORCHESTRATOR_<SECTION>__<KEY>`) > config.toml > default. Every value knows its origin; every error
names file (or variable, or flag), key, value and what is allowed, and never a secret's value. Unknown keys are errors:
a misspelt limit would otherwise be no limit.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from orchestrator.core.model import Target
from orchestrator.errors import Misconfigured, WrongArgument

ENVIRONMENT_PREFIX = "ORCHESTRATOR_"
DEFAULT_FILE = Path("config.toml")


def is_loopback(host: str) -> bool:
    """Is this this machine? By address, never by how the name begins: 127.evil.com is somebody else's."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _base_url(value: str) -> str:
    """Scheme and host of the subscription; what people paste from Marketo's admin page is accepted."""
    if not value:
        return value
    if not value.isascii() or any(character.isspace() for character in value):
        raise ValueError("must be an address such as https://123-ABC-456.mktorest.com")
    parts = urlsplit(value.rstrip("/"))
    path = re.sub(r"/(rest|identity)$", "", parts.path)
    try:
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError as error:
        raise ValueError("has a port that is not a number from 0 to 65535") from error
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[0-9A-Za-z.:-]+", host):
        raise ValueError("must be an address such as https://123-ABC-456.mktorest.com")
    if path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must be scheme and host only: no path, user, query or fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("must be https: over http, credentials and leads could be read on the way")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _hook_command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be cut into a program and its arguments: {error}") from None
    if value and not words:
        raise ValueError("names no program")
    return value


def _hook_url(value: SecretStr) -> SecretStr:
    """Where events are told to. It may have a secret in its path, as such addresses often do."""
    parts = urlsplit(value.get_secret_value())
    if value.get_secret_value() and (
        parts.scheme not in ("http", "https") or (parts.scheme == "http" and not is_loopback(parts.hostname or ""))
    ):
        raise ValueError("must be an https address, or http on this machine")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("has a port that is not a number from 0 to 65535") from None
    return value


def _target_text(value: str) -> str:
    parse_object(value)
    return value


def parse_object(value: str) -> tuple[Literal["leads", "customobjects", "members"], str | None]:
    """`leads`, `customobjects:API_NAME` or `members:PROGRAM_ID`, taken apart."""
    kind, _, name = value.partition(":")
    if kind == "leads" and not name and ":" not in value:
        return "leads", None
    if kind == "customobjects" and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return "customobjects", name
    if kind == "members" and name.isascii() and name.isdigit():
        return "members", name
    raise ValueError("must be leads, customobjects:API_NAME or members:PROGRAM_ID")


ONE_KIND_ONLY = {"lookup_field": "leads", "list_id": "leads", "partition_name": "leads", "member_status": "members"}
"""Settings that are passed over with any other kind of object: whoever gave one expects what it says."""
LARGEST = 10**15
"""Of whole numbers. They are reckoned with as fractions too, and a larger one is none of anything that is set here."""


def no_truth(value: Any) -> Any:
    """What is given for a number: `true` would be the number 1."""
    if isinstance(value, bool):
        raise ValueError(f"cannot be {str(value).lower()}")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        return value if cls.model_fields[info.field_name or ""].annotation is bool else no_truth(value)

    @field_validator("*")
    @classmethod
    def _is_usable(cls, value: Any) -> Any:
        """Neither the ledger nor the system takes everything that TOML can say."""
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"must be {LARGEST:,} at most")
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("has a NUL character in it")
        return value


class MarketoSection(_Section):
    base_url: Annotated[str, AfterValidator(_base_url)] = ""
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    client_secret_file: Path | None = None


LIST_ID_MAX = 2**63 - 1
"""What the ledger can hold."""


class ImportSection(_Section):
    object: Annotated[str, AfterValidator(_target_text)] = "leads"
    lookup_field: str = Field("email", min_length=1)
    list_id: int | None = Field(None, ge=1, le=LIST_ID_MAX)
    partition_name: str | None = Field(None, min_length=1)
    member_status: str | None = Field(None, min_length=1)
    tag_rows: Literal["off", "column"] = "off"


class LimitsSection(_Section):
    chunk_bytes: int = Field(9_500_000, ge=1_000, le=9_999_999)
    queued_jobs: int = Field(10, ge=1, le=10)
    queue_depth: Annotated[int, Field(ge=1, le=10)] | Literal["auto"] = "auto"
    concurrent_calls: int = Field(5, ge=1)
    calls_per_20s: int = Field(50, ge=1)
    calls_per_day: int = Field(50_000, ge=1)
    reserve_calls_per_day: int = Field(5_000, ge=0)
    doubt_lease: float = Field(1_800.0, gt=0, le=1_000_000_000, allow_inf_nan=False)
    spool_bytes: int = Field(100_000_000_000, ge=1_000_000)


class PollingSection(_Section):
    min_interval: float = Field(5.0, gt=0, allow_inf_nan=False)
    max_interval: float = Field(30.0, gt=0, allow_inf_nan=False)


class StateSection(_Section):
    ledger: str = Field("sqlite:///.orchestrator/ledger.db", pattern=r"^sqlite:///.+$")


class ReportSection(_Section):
    dir: Path = Path("reports")
    keep_days: float = Field(30.0, gt=0, allow_inf_nan=False)


class DaemonSection(_Section):
    inbox: Path = Path("inbox")
    work: Path = Path("work")
    done: Path = Path("done")
    failed: Path = Path("failed")
    quiet_period: float = Field(10.0, gt=0, allow_inf_nan=False)
    scan_interval: float = Field(1.0, gt=0, allow_inf_nan=False)
    loads_at_once: int = Field(20, ge=1, le=100)
    listen: str = Field("127.0.0.1:8089", min_length=1)
    hosts: str = ""
    behind_proxy: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    token_file: Path = Path(".orchestrator/daemon.token")
    upload_bytes: int = Field(2_000_000_000, ge=1)
    hook_command: Annotated[str, AfterValidator(_hook_command)] = ""
    hook_url: Annotated[SecretStr, AfterValidator(_hook_url)] = SecretStr("")
    waiting_after: float = Field(3_600.0, gt=0, allow_inf_nan=False)


SECTIONS: Mapping[str, type[_Section]] = {
    "marketo": MarketoSection,
    "import": ImportSection,
    "limits": LimitsSection,
    "polling": PollingSection,
    "state": StateSection,
    "report": ReportSection,
    "daemon": DaemonSection,
}
_ALLOWED = {
    "limits.chunk_bytes": "1,000 to 9,999,999",
    "limits.queued_jobs": "1 to 10",
    "limits.queue_depth": '"auto", or 1 to 10',
    "limits.reserve_calls_per_day": "0 or more",
    "state.ledger": "sqlite:///PATH",
    "import.list_id": "a number from 1",
    "daemon.loads_at_once": "1 to 100",
}
_Layer = dict[tuple[str, str], tuple[Any, str]]
"""(section, key) -> (value, where it came from), of one of the places that settings come from."""
SECRET_KEYS = frozenset({"client_secret", "hook_url"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it came out: its value, and where that came from."""

    section: str
    key: str
    value: Any
    origin: str

    @property
    def shown(self) -> str:
        """The value, a secret masked."""
        if isinstance(self.value, SecretStr):
            return "********" if self.value.get_secret_value() else ""
        if isinstance(self.value, bool):
            return str(self.value).lower()  # as it is written in config.toml
        return "" if self.value is None else str(self.value)


@dataclass(frozen=True)
class Config:
    """The whole configuration, checked."""

    marketo: MarketoSection
    imports: ImportSection
    limits: LimitsSection
    polling: PollingSection
    state: StateSection
    report: ReportSection
    daemon: DaemonSection
    settings: tuple[Setting, ...]
    subscriptions: tuple[str, ...] = ()
    """Names of the [subscriptions.NAME] that the file has."""
    warnings: tuple[str, ...] = field(default=())

    @property
    def subscription_host(self) -> str:
        """Host (and port) of the subscription: whose queue and quota it is."""
        return urlsplit(self.marketo.base_url).netloc.lower()

    @property
    def ledger_path(self) -> Path:
        return Path(self.state.ledger.removeprefix("sqlite:///"))

    @property
    def report_dir(self) -> Path:
        return self.report.dir

    def target(self) -> Target:
        """What [import] asks for."""
        kind, name = parse_object(self.imports.object)
        if kind == "members" and self.imports.member_status is None:
            raise Misconfigured(
                "import.member_status is not set: program members need the status they get",
                remedy="Set import.member_status (or --member-status) to a status of the program's channel.",
            )
        return Target(
            kind=kind,
            name=name,
            lookup_field=self.imports.lookup_field,
            list_id=self.imports.list_id if kind == "leads" else None,
            partition_name=self.imports.partition_name if kind == "leads" else None,
            member_status=self.imports.member_status if kind == "members" else None,
        )

    def with_import(self, changed: Mapping[str, Any]) -> Config:
        """The same with other import settings, which were checked before."""
        return replace(self, imports=self.imports.model_copy(update=dict(changed)))

    def need_credentials(self) -> None:
        """Raises Misconfigured, naming what is missing to talk to Marketo."""
        for key in ("base_url", "client_id", "client_secret"):
            value = getattr(self.marketo, key)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                raise Misconfigured(
                    f"marketo.{key} is not set",
                    remedy=f"Set it in config.toml (see config.example.toml) or as {variable('marketo', key)}.",
                )


def variable(section: str, key: str) -> str:
    """The environment's name of a setting."""
    return f"{ENVIRONMENT_PREFIX}{section.upper()}__{key.upper()}"


def load_config(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], subscription: str | None = None
) -> Config:
    """Read all layers. flags: by `section.key`; None means not given. Raises Misconfigured."""
    file, table = _read_file(path)
    warnings: list[str] = []
    in_file: _Layer = {  # an empty value is not set, as in the example
        (section, key): (value, str(file)) for section, key, value in _file_settings(table, file) if value != ""
    }
    of_subscription: _Layer = {}
    if subscription is not None:
        origin = f"{file} [subscriptions.{subscription}.marketo]"
        for key, value in _subscription(table, file, subscription).items():
            of_subscription["marketo", key] = (value, origin)
    in_environment: _Layer = {
        (section, key): (text, f"environment {name}") for name, section, key, text in _environment(environ)
    }
    on_command_line: _Layer = {}
    for name, value in flags.items():
        if value is not None:
            section, key = name.split(".")
            on_command_line[section, key] = (value, _flag(key))
    layers = [in_file, of_subscription, in_environment, on_command_line]
    if file is not None and any(("marketo", "client_secret") in layer for layer in (in_file, of_subscription)):
        _warn_if_readable(file, warnings)
    _read_secret_file(layers, warnings)
    layered = {setting: value for layer in layers for setting, value in layer.items()}
    sections = {name: _section(name, model, layered) for name, model in SECTIONS.items()}
    settings = tuple(
        Setting(name, key, getattr(sections[name], key), layered.get((name, key), (None, "default"))[1])
        for name, model in SECTIONS.items()
        for key in model.model_fields
    )
    config = Config(
        marketo=sections["marketo"],
        imports=sections["import"],
        limits=sections["limits"],
        polling=sections["polling"],
        state=sections["state"],
        report=sections["report"],
        daemon=sections["daemon"],
        settings=settings,
        subscriptions=tuple(table.get("subscriptions") or ()),
    )
    if config.polling.min_interval > config.polling.max_interval:
        low, high = (
            f"polling.{setting.key} = {setting.value:g} (from {setting.origin})"
            for setting in settings
            if setting.section == "polling"
        )
        raise Misconfigured(
            f"{low} is longer than {high}",
            remedy="Set min_interval to at most max_interval.",
        )
    warnings += _beyond_marketo(config)
    return Config(**{**config.__dict__, "warnings": tuple(warnings)})


# --- layers ---------------------------------------------------------------------------------------------


def _read_file(path: Path | None) -> tuple[Path | None, dict[str, Any]]:
    file = path or DEFAULT_FILE
    try:
        return file, tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        if path is None and isinstance(error, FileNotFoundError):
            return None, {}
        remedy = (
            "Check the path given with --config."
            if path
            else "Run this in a folder that you may read, or name it with --config."
        )
        raise Misconfigured(f"{file}: {error.strerror}", remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{file}: byte {error.start:,} is not UTF-8", remedy="Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and lists in lists in lists
        raise Misconfigured(f"{file}: {error}", remedy="Compare it with config.example.toml.") from error


def _file_settings(table: Mapping[str, Any], file: Path | None) -> Iterator[tuple[str, str, Any]]:
    for section, content in table.items():
        if section == "subscriptions":
            continue
        if section not in SECTIONS:
            raise unknown(f"{file}: unknown section [{section}]", section, [*SECTIONS, "subscriptions"])
        if not isinstance(content, dict):
            raise Misconfigured(f"{file}: {section} must be a section: [{section}]", remedy=_SEE_EXAMPLE)
        for key, value in content.items():
            _check_key(section, key, f"{file}")
            yield section, key, value


def _subscription(table: Mapping[str, Any], file: Path | None, name: str) -> Mapping[str, Any]:
    subscriptions = table.get("subscriptions")
    known = list(subscriptions) if isinstance(subscriptions, dict) else []
    if not isinstance(subscriptions, dict) or name not in subscriptions:
        message = f"{file or 'config.toml'}: there is no [subscriptions.{name}]"
        if not known:
            raise Misconfigured(message, remedy=f"Write [subscriptions.{name}.marketo] there: config.example.toml.")
        raise unknown(message, name, known)
    content = subscriptions[name]
    marketo = content.get("marketo") if isinstance(content, dict) else None
    if not isinstance(marketo, dict) or set(content) != {"marketo"}:
        raise Misconfigured(
            f"{file}: [subscriptions.{name}] must hold [subscriptions.{name}.marketo] and nothing else",
            remedy=_SEE_EXAMPLE,
        )
    for key in marketo:
        _check_key("marketo", key, f"{file} [subscriptions.{name}.marketo]")
    return marketo


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    names = {
        variable(section, key): (section, key) for section, model in SECTIONS.items() for key in model.model_fields
    }
    for name, value in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            if name not in names:
                section = name.partition("__")[0]
                near = [one for one in names if one.partition("__")[0] == section]
                raise unknown(f"environment: unknown setting {name}", name, near or list(names))
            yield name, *names[name], value


def _check_key(section: str, key: str, where: str) -> None:
    known = list(SECTIONS[section].model_fields)
    if key not in known:
        raise unknown(f"{where}: unknown key {section}.{key}", key, known)


def unknown(message: str, name: str, known: list[str]) -> Misconfigured:
    """A name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return Misconfigured(message, remedy=f"{hint}Known: {', '.join(known)}.")


def _read_secret_file(layers: Sequence[_Layer], warnings: list[str]) -> None:
    """Put the secret that the strongest layer names by a file into that layer; one given outright goes first."""
    for layer in reversed(layers):
        if ("marketo", "client_secret") in layer:
            return
        if ("marketo", "client_secret_file") in layer:
            break
    else:
        return
    value, origin = layer["marketo", "client_secret_file"]
    path = Path(str(value))
    try:
        layer["marketo", "client_secret"] = (path.read_text(encoding="utf-8").strip(), f"file {path}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        if "\0" in str(path):
            reason = "no name of a file: it has a NUL character in it"
        raise Misconfigured(
            f"marketo.client_secret_file = {str(path)!r} (from {origin}): {reason}",
            remedy="Put the client secret alone into that file.",
        ) from error
    _warn_if_readable(path, warnings)


def _warn_if_readable(path: Path, warnings: list[str]) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        warnings.append(f"{path} holds a secret and others may read it (mode {mode:04o}): chmod 600 {path}")


def _section(name: str, model: type[_Section], layered: Mapping[tuple[str, str], tuple[Any, str]]) -> Any:
    values = {key: value for (section, key), (value, _) in layered.items() if section == name}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        value, origin = layered[name, key]
        shown = "********" if key in SECRET_KEYS else repr(value)
        what = str(first["msg"]).removeprefix("Value error, ")
        allowed = _ALLOWED.get(f"{name}.{key}")
        what = what[:1].lower() + what[1:]
        remedy = f"Allowed: {allowed}." if allowed else _SEE_EXAMPLE
        if origin == _flag(key):
            raise WrongArgument(f"{origin.removeprefix('flag ')} {shown}: {what}", remedy=remedy) from None
        raise Misconfigured(f"{name}.{key} = {shown} (from {origin}): {what}", remedy=remedy) from None


def _flag(key: str) -> str:
    """Where a setting comes from that was given on the command line."""
    return f"flag --{'partition' if key == 'partition_name' else key.replace('_', '-')}"


_SEE_EXAMPLE = "config.example.toml shows every key with its meaning."


def _beyond_marketo(config: Config) -> list[str]:
    """Values that Marketo does not allow, or asks not to use. The simulator may be driven hard."""
    if not config.marketo.base_url or is_loopback(urlsplit(config.marketo.base_url).hostname or ""):
        return []
    limits, interval = config.limits, config.polling.min_interval
    rules = [
        ("polling.min_interval", interval, interval < 5, "Marketo asks for 5 s or more between polls"),
        ("limits.calls_per_20s", limits.calls_per_20s, limits.calls_per_20s > 100, "Marketo allows 100 for everyone"),
        ("limits.concurrent_calls", limits.concurrent_calls, limits.concurrent_calls > 10, "Marketo allows 10"),
    ]
    return [f"{key} = {value:g}: {rule}" for key, value, beyond, rule in rules if beyond]
