"""Servers that are not who they say: real TLS on loopback, and nothing of a load ever reaches them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from adapters.test_marketo import ACCEPTED, Peer, http, upload

from orchestrator.adapters import marketo
from orchestrator.adapters.marketo import Marketo
from orchestrator.core.model import BatchId, Target
from orchestrator.core.verdicts import Answered, Failed, Outcome, Verdict, judge

CERTIFICATES = Path(__file__).parent / "certificates"


def ask(server: str, question: Callable[[Marketo], Awaitable[Outcome]], **tls: ssl.TLSVersion) -> tuple[Outcome, Peer]:
    """What a question to a server with this certificate comes to, and what the server saw."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{server}.pem")
    if tls:
        context.set_ciphers("ALL:@SECLEVEL=0")  # what a server would have to do to speak it still
    for name, value in tls.items():
        setattr(context, name, value)
    peer = Peer(http(ACCEPTED))

    async def main() -> Outcome:
        listening = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=2**24, ssl=context)
        client = Marketo(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}", "client-id", "the-secret")
        try:
            return await question(client)
        finally:
            await client.aclose()
            listening.close()

    return anyio.run(main), peer


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority of these tests is one that this machine trusts."""
    authority = str(CERTIFICATES / "authority.pem")
    monkeypatch.setattr(marketo, "_certificates", lambda: ssl.create_default_context(cafile=authority))


@pytest.mark.parametrize("server", ["self-signed", "signed", "expired"])
def test_a_certificate_that_nobody_trusts_stops_a_load_before_a_byte_of_it_is_sent(server: str) -> None:
    """Its own, or that of an authority nobody knows: whoever answers there is not Marketo."""
    outcome, peer = ask(server, upload)
    assert isinstance(outcome, Failed)
    assert outcome.certificate
    assert not outcome.body_sent
    assert "certificate is not to be trusted" in outcome.why
    assert judge(outcome, "create").verdict is Verdict.GIVE_UP_LOAD
    assert peer.requests == []


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(("server", "why"), [("expired", "expired"), ("elsewhere", "IP address mismatch")])
def test_a_certificate_that_is_over_or_another_host_s_is_refused_with_its_reason(server: str, why: str) -> None:
    """Signed by somebody trusted is not enough."""
    outcome, peer = ask(server, upload)
    assert isinstance(outcome, Failed)
    assert outcome.certificate
    assert why in outcome.why
    assert peer.requests == []


@pytest.mark.usefixtures("trusting")
def test_a_trusted_certificate_of_the_right_host_is_taken() -> None:
    """Otherwise the tests above would show nothing."""
    outcome, peer = ask("signed", upload)
    assert isinstance(outcome, Answered)
    assert len(peer.requests) == 1


@pytest.mark.usefixtures("trusting")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_server_that_speaks_old_tls_only_is_not_spoken_to() -> None:
    """TLS 1.1 can be read by others."""
    outcome, peer = ask("signed", upload, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    assert isinstance(outcome, Failed)
    assert not outcome.body_sent
    assert peer.requests == []


def test_an_authority_named_by_the_environment_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets a variable could read the secret and the leads."""
    marketo._certificates.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))
    outcome, peer = ask("signed", lambda client: client.status("tok", Target(), BatchId(7)))
    assert isinstance(outcome, Failed)
    assert outcome.certificate
    assert peer.requests == []
