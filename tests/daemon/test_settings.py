"""Settings of a file: read strictly, whoever wrote them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import load_config
from orchestrator.daemon.settings import SETTINGS_BYTES_MAX, LoadSettings, read_settings, settings_of
from orchestrator.errors import Misconfigured

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_s27_whatever_a_settings_file_holds_it_is_read_or_refused_in_one_sentence(content: bytes) -> None:
    """It lies in a folder where strangers may write."""
    with contextlib.suppress(Misconfigured):
        settings_of(read_settings(content, "x.load.toml"), where="x.load.toml")


@given(asked=st.dictionaries(st.sampled_from(sorted(LoadSettings.model_fields)), VALUES, max_size=4))
def test_s27_values_of_any_kind_are_taken_or_refused_with_their_key(asked: dict[str, Any]) -> None:
    """Over HTTP they come as JSON, of any kind."""
    refused = ""
    try:
        settings_of(asked, where="settings")
    except Misconfigured as error:
        refused = error.message
    assert not refused or any(refused.startswith(f"settings: {key}") for key in asked)


@pytest.mark.parametrize("key", ["query", "report_dir", "base_url", "client_secret", "__class__", "Object"])
def test_s27_a_key_that_is_not_known_is_refused(key: str) -> None:
    """A typing error would load into the wrong place; and some of these would open other files."""
    with pytest.raises(Misconfigured, match="unknown key"):
        settings_of({key: "x"}, where="settings")


def test_a_mistyped_key_is_named_with_the_nearest_one() -> None:
    """Nobody finds a missing letter among seventeen names."""
    with pytest.raises(Misconfigured, match="Did you mean 'priority'"):
        settings_of({"prioritty": "high"}, where="leads.csv.load.toml")


@pytest.mark.parametrize(
    "content",
    [b"list_id = " + b"1" * 5_000, b"map = " + b"[" * 30_000, b"map = " + b"{a = " * 10_000],
    ids=["digits", "lists", "tables"],
)
def test_s27_what_python_itself_gives_up_on_is_refused(content: bytes) -> None:
    """It ended the daemon, and every daemon after it for as long as the file lay there."""
    with pytest.raises(Misconfigured, match=r"x\.load\.toml"):
        read_settings(content, "x.load.toml")


@pytest.mark.parametrize("key", ["list_id", "max_rejected"])
def test_true_is_no_number(key: str) -> None:
    """It would be read as 1, and the leads go into another list."""
    with pytest.raises(Misconfigured, match=rf"settings: {key}: .*cannot be true"):
        settings_of({key: True}, where="settings")


def test_s27_a_settings_file_has_an_end() -> None:
    """It holds a few lines."""
    with pytest.raises(Misconfigured, match="larger than"):
        read_settings(b"#" * (SETTINGS_BYTES_MAX + 1), "x.load.toml")


@pytest.mark.parametrize(
    ("asked", "configured", "kind"),
    [
        ({"list_id": 1001, "object": "customobjects:car_c"}, "leads", "leads"),
        ({"list_id": 1001}, "customobjects:car_c", "leads"),
        ({"partition_name": "Europe", "object": "members:1044", "member_status": "On List"}, "leads", "leads"),
        ({"lookup_field": "vin", "object": "customobjects:car_c"}, "leads", "leads"),
        ({"member_status": "On List"}, "leads", "members"),
    ],
)
def test_a_setting_that_the_object_cannot_take_is_refused(asked: dict[str, Any], configured: str, kind: str) -> None:
    """As the flags of the command line are: whoever names a list expects leads in it."""
    config = load_config(None, {"ORCHESTRATOR_IMPORT__OBJECT": configured}, {})
    with pytest.raises(Misconfigured, match=f"{next(iter(asked))} is for {kind} only, and this would import"):
        settings_of(asked, where="settings").options(config)


@pytest.mark.parametrize("number", [0, 2**63])
def test_a_list_that_no_ledger_can_hold_is_refused(number: int) -> None:
    """It was a fault of ours (70), of the command line too."""
    with pytest.raises(Misconfigured, match="list_id"):
        settings_of({"list_id": number}, where="settings")
    with pytest.raises(Misconfigured, match=r"import\.list_id"):
        load_config(None, {"ORCHESTRATOR_IMPORT__LIST_ID": str(number)}, {})
