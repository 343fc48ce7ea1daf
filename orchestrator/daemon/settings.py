"""How is a file of the inbox to be loaded?

Weakest first: the configuration, `load.toml` in the file's folder, `NAME.load.toml` beside the file (or what came with
an HTTP request). The keys are those of the section [import] and the flags of `load`, less what could reach beyond the
file itself: a query, for one, may open any path. Unknown keys are errors, as everywhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.config import LIST_ID_MAX, ONE_KIND_ONLY, Config, no_truth, parse_object, unknown
from orchestrator.core.model import Format, Reading, Target
from orchestrator.errors import Misconfigured
from orchestrator.planning import LoadOptions

FOLDER_FILE = "load.toml"
SUFFIX = ".load.toml"
SETTINGS_BYTES_MAX = 64_000


def _object(value: str) -> str:
    parse_object(value)
    return value


class LoadSettings(BaseModel):
    """What can be said of one load. None: as the configuration says."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    subscription: str | None = None
    """Name of [subscriptions.NAME]; None: [marketo]."""
    object: Annotated[str, AfterValidator(_object)] | None = None
    lookup_field: str | None = Field(None, min_length=1)
    list_id: int | None = Field(None, ge=1, le=LIST_ID_MAX)
    partition_name: str | None = Field(None, min_length=1)
    member_status: str | None = Field(None, min_length=1)
    format: Format | None = None
    encoding: str | None = Field(None, max_length=40)
    sheet: str | None = Field(None, max_length=200)
    map: dict[str, str] = Field(default_factory=dict)
    """New name of a column -> its name in the file."""
    priority: Literal["low", "normal", "high"] | None = None
    max_rejected: int = Field(0, ge=0)
    on_doubt: Literal["resend", "stop"] = "resend"
    on_duplicate: Literal["together", "last", "ignore"] = "together"
    fail_on_warning: bool = False
    retry: bool = True
    force: bool = False

    _numbers = field_validator("list_id", "max_rejected", mode="before")(no_truth)

    def options(self, config: Config) -> LoadOptions:
        """As the library wants them. Raises Misconfigured."""
        return LoadOptions(
            target=self._target(config),
            format=self.format,
            reading=Reading(encoding=self.encoding, sheet=self.sheet, renamed=tuple(self.map.items())),
            fail_on_warning=self.fail_on_warning,
            on_doubt=self.on_doubt,
            on_duplicate=self.on_duplicate,
            priority=self.priority,
            max_rejected=self.max_rejected,
            force=self.force,
            retry=self.retry,
        )

    def _target(self, config: Config) -> Target:
        names = ("object", "lookup_field", "list_id", "partition_name", "member_status")
        changed = {name: value for name in names if (value := getattr(self, name)) is not None}
        target = config.with_import(changed).target()
        for name, kind in ONE_KIND_ONLY.items():
            if name in changed and target.kind != kind:
                raise Misconfigured(
                    f"{name} is for {kind} only, and this would import {self.object or config.imports.object}",
                    remedy="Leave it out, or name the object that is meant.",
                )
        return target


def settings_of(*layers: Mapping[str, Any], where: str) -> LoadSettings:
    """The settings that these layers make, the weakest first. Raises Misconfigured, naming key and value's place."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    try:
        return LoadSettings.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown(f"{where}: {key}: unknown key", key, list(LoadSettings.model_fields)) from None
        raise Misconfigured(
            f"{where}: {key}: {first['msg']}", remedy="docs/operations.md shows every setting with what it takes."
        ) from None


def read_settings(content: bytes, where: str) -> dict[str, Any]:
    """A settings file, not yet checked. Raises Misconfigured."""
    if len(content) > SETTINGS_BYTES_MAX:
        raise Misconfigured(f"{where}: larger than {SETTINGS_BYTES_MAX:,} bytes", remedy="It holds a few lines.")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and lists in lists in lists
        raise Misconfigured(f"{where}: {error}", remedy="Write it as TOML, in UTF-8.") from None
