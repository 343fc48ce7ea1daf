"""Which subscriptions does this daemon serve, and with which settings? Read at the start and again at SIGHUP.

One configuration for each subscription that can be used: [marketo] under the empty name when it has an address, and
each [subscriptions.NAME]. What the environment says of [marketo] is for [marketo] alone: a secret there would otherwise
go to all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import ENVIRONMENT_PREFIX, Config, DaemonSection, load_config
from orchestrator.daemon.settings import LoadSettings
from orchestrator.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Setup:
    """The configurations by the name of their subscription. `main` has what is the daemon's own."""

    main: Config
    by_name: Mapping[str, Config]

    @property
    def daemon(self) -> DaemonSection:
        return self.main.daemon

    def of(self, settings: LoadSettings) -> Config:
        """The configuration for a load. Raises Misconfigured when there is none."""
        found = self.by_name.get(settings.subscription or "")
        if found is None:
            known = ", ".join(name for name in self.by_name if name) or "none"
            what = f"subscription {settings.subscription!r}" if settings.subscription else "marketo.base_url"
            raise Misconfigured(f"{what} is not configured", remedy=f"Known subscriptions: {known}.")
        return found

    def name_of(self, host: str) -> str:
        """What people call the subscription of this host."""
        return next((name or host for name, config in self.by_name.items() if config.subscription_host == host), host)

    def hosts(self) -> list[str]:
        return list(dict.fromkeys(config.subscription_host for config in self.by_name.values()))

    def check(self, settings: LoadSettings) -> None:
        """Raises Misconfigured when a load with these settings cannot even begin."""
        settings.options(self.of(settings))

    @property
    def secrets(self) -> list[str]:
        found = [config.marketo.client_secret.get_secret_value() for config in self.by_name.values()]
        return [*found, self.daemon.hook_url.get_secret_value()]


@dataclass(frozen=True, slots=True)
class SetupSource:
    """Where it is read from, again and again."""

    path: Path | None
    environ: Mapping[str, str]
    flags: Mapping[str, Any]
    when_read: Callable[[Setup], None] = lambda _: None
    """Called with each sound one: the log must mask its secrets."""

    def read(self) -> Setup:
        """Raises Misconfigured: then nothing has changed."""
        main = load_config(self.path, self.environ, self.flags)
        by_name = {"": main} if main.marketo.base_url else {}
        own = f"{ENVIRONMENT_PREFIX}MARKETO__"
        rest = {name: value for name, value in self.environ.items() if not name.startswith(own)}
        for name in main.subscriptions:
            by_name[name] = load_config(self.path, rest, self.flags, name)
        if not by_name:
            main.need_credentials()
        for config in by_name.values():
            config.need_credentials()
        setup = Setup(main, by_name)
        self.when_read(setup)
        return setup


def wipe_secrets() -> None:
    """The client secret is not left in the environment, where hooks would inherit it."""
    os.environ.pop(f"{ENVIRONMENT_PREFIX}MARKETO__CLIENT_SECRET", None)
