"""The configuration: layers, limits, messages that name file, key, value and what is allowed; secrets stay hidden."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import load_config
from orchestrator.errors import Misconfigured

SECRET = "s3cret-value"


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    """The contract's order, and `config show` tells which one won."""
    file = written(tmp_path, "[import]\nlookup_field = 'file'\n[limits]\nqueued_jobs = 3\nchunk_bytes = 2_000\n")
    environ = {"ORCHESTRATOR_IMPORT__LOOKUP_FIELD": "environment", "ORCHESTRATOR_LIMITS__QUEUED_JOBS": "4"}
    config = load_config(file, environ, {"import.lookup_field": "flag"})
    assert (config.imports.lookup_field, config.limits.queued_jobs, config.limits.chunk_bytes) == ("flag", 4, 2_000)
    origins = {f"{setting.section}.{setting.key}": setting.origin for setting in config.settings}
    assert origins["import.lookup_field"] == "flag --lookup-field"
    assert origins["limits.queued_jobs"] == "environment ORCHESTRATOR_LIMITS__QUEUED_JOBS"
    assert origins["limits.chunk_bytes"] == str(file)
    assert origins["polling.min_interval"] == "default"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[limits]\nqueued_job = 3", ["limits.queued_job", "'queued_jobs'"]),
        ("[limit]\nqueued_jobs = 3", ["[limit]", "'limits'"]),
        ("[limits]\nqueued_jobs = 11", ["limits.queued_jobs", "11", "1 to 10"]),
        ("[limits]\nqueued_jobs = 0", ["limits.queued_jobs", "0", "1 to 10"]),
        ("[limits]\nchunk_bytes = 10_000_000", ["limits.chunk_bytes", "10000000", "1,000 to 9,999,999"]),
        ("[limits]\nchunk_bytes = 'big'", ["limits.chunk_bytes", "'big'"]),
        ("[polling]\nmin_interval = 0", ["polling.min_interval", "0"]),
        ("[polling]\nmin_interval = 40", ["polling.min_interval", "40", "polling.max_interval"]),
        pytest.param("[limits]\nchunk_bytes = " + "1" * 5_000, ["4300 digits"], id="digits"),
        pytest.param("[limits]\nchunk_bytes = " + "[" * 20_000, ["recursion"], id="nested"),
        ("[daemon]\nhook_url = 'https://hooks.example.com:4433443/x'", ["daemon.hook_url", "port"]),
        ("[polling]\nmin_interval = true", ["polling.min_interval", "cannot be true"]),
        ("[import]\nlist_id = true", ["import.list_id", "a number from 1"]),
        ("[polling]\nmin_interval = nan", ["polling.min_interval", "nan"]),
        ("[import]\nobject = 'contacts'", ["import.object", "contacts"]),
        ("[import]\nlist_id = 'x'", ["import.list_id", "'x'", "a number from 1"]),
        ("[state]\nledger = 'postgres://x'", ["state.ledger", "sqlite:///PATH"]),
        ('[state]\nledger = "sqlite:///a\\u0000b"', ["state.ledger", "NUL"]),
        ('[report]\ndir = "a\\u0000b"', ["report.dir", "NUL"]),
        ('[marketo]\nclient_secret_file = "a\\u0000b"', ["marketo.client_secret_file", "NUL"]),
        ("[limits]\nconcurrent_calls = 1" + 30 * "0", ["limits.concurrent_calls", "at most"]),
        ("[limits]\ndoubt_lease = 1e12", ["limits.doubt_lease", "1000000000"]),
        ("[limits]\ncalls_per_20s = 1" + 400 * "0", ["limits.calls_per_20s", "at most"]),
        ("[limits]\ncalls_per_day = 1" + 400 * "0", ["limits.calls_per_day", "at most"]),
        ("[marketo]\nbase_url = 'http://123-abc-456.mktorest.com'", ["marketo.base_url", "https"]),
        ("[marketo]\nbase_url = 'https://user:pw@x.mktorest.com'", ["marketo.base_url"]),
        ("[marketo\nbase_url = 1", ["line 1"]),
        ("marketo = 3", ["marketo", "section"]),
        ("[subscriptions.emea]\nclient_id = 'x'", ["subscriptions.emea"]),
        ("# emea is not here", ["there is no [subscriptions.emea]", "Write [subscriptions.emea.marketo]"]),
    ],
)
def test_what_is_wrong_is_named_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, named: list[str]
) -> None:
    """A message that makes people search is not a message."""
    subscription = "emea" if "emea" in text else None
    with pytest.raises(Misconfigured) as caught:
        load_config(written(tmp_path, text), {}, {}, subscription)
    assert caught.value.exit_code == 78
    assert caught.value.remedy
    for part in ["config.toml", *named]:
        assert part in str(caught.value), str(caught.value)


def test_a_wrong_environment_variable_is_named_and_the_nearest_known_one(tmp_path: Path) -> None:
    """A typing error in a deployment must not silently mean the default."""
    with pytest.raises(Misconfigured, match="ORCHESTRATOR_LIMITS__QUEUED_JOBS"):
        load_config(None, {"ORCHESTRATOR_LIMITS__QUEUED_JOB": "3"}, {})


@pytest.mark.parametrize("suffix", ["", "/", "/rest", "/rest/", "/identity", "/rest/v1"])
def test_the_base_url_is_taken_as_people_copy_it(suffix: str) -> None:
    """Marketo's own page shows the endpoint with /rest or /identity at its end."""
    if suffix == "/rest/v1":
        with pytest.raises(Misconfigured):
            load_config(None, {"ORCHESTRATOR_MARKETO__BASE_URL": f"https://123-ABC-456.mktorest.com{suffix}"}, {})
        return
    config = load_config(None, {"ORCHESTRATOR_MARKETO__BASE_URL": f"https://123-ABC-456.mktorest.com{suffix}"}, {})
    assert config.subscription_host == "123-abc-456.mktorest.com"
    assert config.marketo.base_url.lower() == "https://123-abc-456.mktorest.com"


def test_a_secret_is_shown_nowhere(tmp_path: Path) -> None:
    """Configuration is printed, logged and pasted into tickets."""
    config = load_config(written(tmp_path, f"[marketo]\nclient_secret = '{SECRET}'"), {}, {})
    assert config.marketo.client_secret.get_secret_value() == SECRET
    shown = [setting.shown for setting in config.settings]
    assert "********" in shown
    for text in (repr(config.marketo), str(config.marketo), repr(config), *shown):
        assert SECRET not in text
    with pytest.raises(Misconfigured) as caught:
        load_config(written(tmp_path, f"[marketo]\nclient_secret = ['{SECRET}']"), {}, {})
    assert SECRET not in str(caught.value)


def test_a_secret_file_is_read_and_warned_of_when_others_may_read_it(tmp_path: Path) -> None:
    """Secrets come as files from every orchestration system."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    file = written(tmp_path, f"[marketo]\nclient_secret_file = '{secret}'")
    config = load_config(file, {}, {})
    assert config.marketo.client_secret.get_secret_value() == SECRET
    assert config.warnings == ()
    secret.chmod(0o644)
    (warning,) = load_config(file, {}, {}).warnings
    assert warning.startswith(f"{secret} ")
    assert "0644" in warning
    secret.chmod(0o600)
    file.chmod(0o644)  # it names the secret's file and holds no secret
    assert load_config(file, {}, {}).warnings == ()
    secret.unlink()
    with pytest.raises(Misconfigured, match=r"client_secret_file"):
        load_config(file, {}, {})
    file.write_text(f"[marketo]\n[subscriptions.emea.marketo]\nclient_secret = '{SECRET}'")
    (warning,) = load_config(file, {}, {}, "emea").warnings
    assert warning.startswith(f"{file} ")


def test_the_secret_of_the_strongest_place_wins_however_it_is_given(tmp_path: Path) -> None:
    """A subscription's own secret file, or the environment's, must not lose to another subscription's secret."""
    secret = tmp_path / "secret"
    secret.write_text("from-file")
    secret.chmod(0o600)

    def found(text: str, environ: dict[str, str], subscription: str | None = None) -> str:
        config = load_config(written(tmp_path, text), environ, {}, subscription)
        return config.marketo.client_secret.get_secret_value()

    both = f"[marketo]\nclient_secret = 'outright'\nclient_secret_file = '{secret}'\n"
    assert found(both, {}) == "outright"
    assert found(f"[marketo]\nclient_secret = ''\nclient_secret_file = '{secret}'\n", {}) == "from-file"
    named = {"ORCHESTRATOR_MARKETO__CLIENT_SECRET_FILE": str(secret)}
    assert found("[marketo]\nclient_secret = 'outright'\n", named) == "from-file"
    assert found(both, {"ORCHESTRATOR_MARKETO__CLIENT_SECRET": "of-environment"}) == "of-environment"
    gone = "[marketo]\nclient_secret_file = '/nowhere/secret'\n"
    assert found(gone, {"ORCHESTRATOR_MARKETO__CLIENT_SECRET": "of-environment"}) == "of-environment"
    emea = f"[marketo]\nclient_secret = 'outright'\n[subscriptions.emea.marketo]\nclient_secret_file = '{secret}'\n"
    assert found(emea, {}, "emea") == "from-file"


def test_values_beyond_what_marketo_allows_are_warned_of_but_not_for_a_simulator(tmp_path: Path) -> None:
    """The simulator may be driven hard; a real subscription is shared with others."""
    hard = {"ORCHESTRATOR_POLLING__MIN_INTERVAL": "1", "ORCHESTRATOR_LIMITS__CALLS_PER_20S": "200"}
    real = load_config(None, {**hard, "ORCHESTRATOR_MARKETO__BASE_URL": "https://123-abc-456.mktorest.com"}, {})
    assert len(real.warnings) == 2
    loopback = load_config(None, {**hard, "ORCHESTRATOR_MARKETO__BASE_URL": "http://127.0.0.1:8099"}, {})
    assert loopback.warnings == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://x.mktorest.com",
        "https://",
        "ftp://x.mktorest.com",
        "https://x.mktorest.com@evil.example",
        "https://x.mktorest.com/#y",
        "https://x.mktorest.com?a=b",
        "https://x.mktorest.com\r\nHost: y",
        "http://127.0.0.1.nip.io",
        "http://127.evil.com",
        "http://169.254.169.254",
        "file:///etc/passwd",
        "x.mktorest.com",
    ],
)
def test_addresses_that_could_carry_the_secret_elsewhere_are_refused(url: str) -> None:
    """The client secret is sent to whatever this setting names."""
    with pytest.raises(Misconfigured):
        load_config(None, {"ORCHESTRATOR_MARKETO__BASE_URL": url}, {})


@given(text=st.text(max_size=200))
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """A broken configuration never shows a traceback."""
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(Misconfigured):
        load_config(path, {}, {})
