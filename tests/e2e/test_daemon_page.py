"""The status page in a real browser: with a mouse, a keyboard, a screen reader, without scripts, and under attack."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from e2e.daemon import Client, csv, people
from e2e.pages import browser, chromium
from e2e.scenes import SCENES, Scene
from e2e.test_page import CONTRAST
from playwright.sync_api import Browser, BrowserContext, Page, expect

CHROMIUM = chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "true",
    reason="there is no Chromium on this machine (Debian: apt-get install chromium); with CI=true this must run",
)


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    assert CHROMIUM is not None, "CI=true, and there is no Chromium: .ci/run installs it"
    with browser(CHROMIUM, "--host-resolver-rules=MAP *.example 127.0.0.1") as one:
        yield one


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    """The daemons that stay as they are while they are looked at."""
    with ExitStack() as stack:
        names = ("idle", "others", "failing")
        yield {name: stack.enter_context(SCENES[name](tmp_path_factory.mktemp(name))) for name in names}


class Visitor:
    """A person with a browser who has signed in. `complaints`: what the page said, or asked of anybody else."""

    def __init__(self, opened: Browser, client: Client, **context: Any) -> None:
        self.context: BrowserContext = opened.new_context(**context)
        self.page: Page = self.context.new_page()
        self.client, self.complaints = client, list[str]()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.client.url).netloc:
            self.complaints.append(request.url)

    def sign_in(self) -> Page:
        self.page.goto(self.client.url + "/")
        assert self.page.url.endswith("/login")
        self.page.get_by_label("The daemon's token").fill(self.client.token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_selector("#section-ended")
        return self.page

    def submit(self, name: str) -> None:
        """Press this button of a form, and wait for the page that its answer leads to."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=name).click()

    def leave(self) -> None:
        self.context.close()
        assert self.complaints == []


@pytest.mark.parametrize("name", ["idle", "others", "failing"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_scene_is_shown_without_a_complaint_and_can_be_read(
    opened: Browser, scenes: dict[str, Scene], name: str, scheme: Any
) -> None:
    """The policy would block what is not ours; 4.5 to 1, as WCAG 2 asks of text."""
    one = Visitor(opened, scenes[name][2], color_scheme=scheme)
    page = one.sign_in()
    seen = page.evaluate(CONTRAST)
    assert seen["seen"] > 20
    assert seen["bad"] == []
    assert page.locator("h1").count() == 1
    assert page.get_by_role("list", name="Places").get_by_role("listitem").count() == 10
    assert page.get_by_role("list", name="Processors").get_by_role("listitem").count() == 2
    expected = {"idle": "Idle", "others": "Waiting for others", "failing": "Idle"}
    assert page.get_by_role("status").inner_text() == expected[name]
    one.leave()


def test_the_queue_shows_what_is_ours_and_what_is_others(opened: Browser, scenes: dict[str, Scene]) -> None:
    """Why does it not go on? Because somebody else imports."""
    one = Visitor(opened, scenes["others"][2])
    page = one.sign_in()
    words = page.locator("ol.slots li b").all_inner_texts()
    assert words.count("others'") == 9
    assert "others hold the rest" in page.locator("#section-open").inner_text()
    one.leave()


def test_what_is_wrong_is_said(opened: Browser, scenes: dict[str, Scene]) -> None:
    """Files that are not taken, files that cannot be loaded, rows that fail: each with its reason."""
    one = Visitor(opened, scenes["failing"][2])
    page = one.sign_in()
    assert "symbolic link" in page.locator("#section-not-taken").inner_text()
    assert "list: unknown key" in page.locator("#section-not-taken").inner_text()
    assert "Value for lookup field 'email' not found" in page.locator("#section-reasons").inner_text()
    assert "no column 'email'" in page.locator("#section-ended").inner_text()
    one.leave()


def test_s21_a_name_of_a_file_is_text_and_nothing_else(opened: Browser, scenes: dict[str, Scene]) -> None:
    """Whoever may drop a file may not run a script in the operator's browser."""
    one = Visitor(opened, scenes["failing"][2])
    page = one.sign_in()
    page.get_by_role("link", name="<img src=x onerror=alert(1)>.csv").first.click()
    expect(page.locator("h1")).to_have_text("<img src=x onerror=alert(1)>.csv")
    assert page.locator("img").count() == 0
    one.leave()


def test_the_report_is_opened_from_the_page_and_cannot_act_for_us(opened: Browser, scenes: dict[str, Scene]) -> None:
    """It holds text from strangers: it is shown in a sandbox."""
    one = Visitor(opened, scenes["failing"][2])
    page = one.sign_in()
    page.locator("#section-ended a", has_text="report").first.click()
    expect(page.locator(".verdict")).to_contain_text("rows are not imported")
    assert page.evaluate("self.origin") == "null"
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).borderTopLeftRadius") == "8px"
    assert page.get_by_label("Search the rows").is_visible()
    one.leave()


def test_the_page_follows_what_happens_and_keeps_the_focus(opened: Browser, tmp_path: Path) -> None:
    """Somebody watches a load, with the keyboard."""
    with SCENES["busy"](tmp_path) as (_, daemon, client):
        one = Visitor(opened, client)
        page = one.sign_in()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        link = page.get_by_role("link", name="spring fair.csv").first
        link.focus()
        before = page.locator("#section-open").inner_text()
        page.wait_for_function("(old) => document.querySelector('#section-open').innerText !== old", arg=before)
        assert page.evaluate("document.activeElement.textContent") == "spring fair.csv"
        assert page.locator("#live").inner_text().startswith("Live")
        page.wait_for_function("() => document.querySelector('[role=status]').innerText === 'Idle'", timeout=60_000)
        expect(page.locator("#section-ended tbody tr")).to_have_count(3)
        expect(page).to_have_title(re.compile("^Idle"))
        daemon.end()
        page.wait_for_function("() => document.querySelector('#live').classList.contains('lost')")
        one.complaints = [text for text in one.complaints if "ERR_" not in text]
        one.leave()


def test_a_click_is_not_lost_when_the_page_changes_under_it(opened: Browser, tmp_path: Path) -> None:
    """People press and release a button of the mouse in a tenth of a second or more, and the page is always busy."""
    with SCENES["busy"](tmp_path) as (_, _, client):
        one = Visitor(opened, client)
        page = one.sign_in()
        page.get_by_role("link", name="spring fair.csv").first.hover()
        page.mouse.down()
        for _ in range(3):  # each of them would have put another link in its place
            with page.expect_response(lambda answer: answer.url == client.url + "/"):
                pass
        page.mouse.up()
        page.wait_for_url("**/loads/*")
        one.leave()


def test_without_scripts_the_page_is_whole_and_loads_can_be_changed(opened: Browser, tmp_path: Path) -> None:
    """Forms and links are enough."""
    with SCENES["busy"](tmp_path) as (_, daemon, client):
        id = client.create(upload=client.upload("wrong one.csv", csv(people("z", 9_000))))
        one = Visitor(opened, client, java_script_enabled=False)
        page = one.sign_in()
        assert not page.locator("#live").is_visible()
        page.get_by_role("link", name="wrong one.csv").click()
        page.wait_for_url("**/loads/*")
        one.submit("Pause wrong one.csv")
        daemon.until(lambda: client.load(id)["phase"] == "paused")
        page.reload()
        one.submit("Priority low wrong one.csv")
        daemon.until(lambda: client.load(id)["priority"] == "low")
        one.submit("Resume wrong one.csv")
        daemon.until(lambda: client.load(id)["phase"] == "running")
        page.reload()
        page.get_by_text("Cancel this load").click()
        one.submit("Cancel for good wrong one.csv")
        daemon.until(lambda: client.load(id)["ended_at"] is not None)
        page.reload()
        expect(page.get_by_role("status")).to_have_text("cancelled")
        page.get_by_role("link", name="report.csv").wait_for()
        one.submit("Sign out")
        assert page.url.endswith("/login")
        page.goto(client.url + "/")
        assert page.url.endswith("/login")
        one.leave()


def test_ten_thousand_chunks_make_a_page_of_one_size(opened: Browser, tmp_path: Path) -> None:
    """A page of ten megabytes is not opened twice."""
    with SCENES["long"](tmp_path) as (_, _, client):
        one = Visitor(opened, client)
        page = one.sign_in()
        page.get_by_role("link", name="everybody.csv").click()
        expect(page.locator("#section-chunks tbody tr")).to_have_count(200)
        assert len(page.content()) < 300_000
        page.get_by_role("link", name="the next 200").click()
        expect(page.locator("#section-chunks tbody th").first).to_have_text("201")
        chunks = client.load(client.http.get("/api/v1/loads").json()["loads"][0]["id"])["chunks"]
        assert sum(chunks.values()) >= 7_500
        one.leave()


def test_a_wrong_token_does_not_sign_in(opened: Browser, scenes: dict[str, Scene]) -> None:
    """And it is said, to a screen reader too."""
    one = Visitor(opened, scenes["idle"][2])
    one.page.goto(one.client.url + "/")
    assert one.page.locator("input:visible").count() == 1, "a field without a name is a riddle"
    one.page.get_by_label("The daemon's token").fill("not the token")
    one.page.get_by_role("button", name="Sign in").click()
    expect(one.page.get_by_role("alert")).to_have_text("That is not the token.")
    one.complaints = [text for text in one.complaints if "403" not in text]
    one.leave()


# --- S18 and S19: what a page of another site can do ------------------------------------------------------

EVIL = """<!doctype html><title>evil</title>
<form id="f" method="post" action="{url}/loads/{id}/cancel" target="frame"><input name="key" value="x"></form>
<form id="g" method="post" action="{url}/api/v1/loads/{id}/cancel" enctype="text/plain" target="frame"></form>
<iframe name="frame"></iframe><img src="{url}/loads/{id}/cancel"><script src="{url}/script.js"></script>
<script>
const url = '{url}', change = url + '/api/v1/loads/{id}/cancel', told = [];
const say = (name) => (answer) => told.push(name + ':' + (answer.type || '') + ':' + answer.status);
const no = (name) => () => told.push(name + ':no');
window.done = Promise.all([
  fetch(url + '/api/v1/loads').then(say('read'), no('read')),
  fetch(url + '/api/v1/loads', {{ credentials: 'include', mode: 'no-cors' }}).then(say('opaque'), no('opaque')),
  fetch(change, {{ method: 'POST', mode: 'no-cors', credentials: 'include', body: '{{}}' }})
    .then(say('simple'), no('simple')),
  fetch(change, {{ method: 'POST', credentials: 'include', body: '{{}}',
    headers: {{ 'content-type': 'application/json' }} }}).then(say('json'), no('json')),
  new Promise((end) => {{ const s = new EventSource(url + '/api/v1/events', {{ withCredentials: true }});
    s.onmessage = () => {{ told.push('events:read'); end(); }};
    s.onerror = () => {{ told.push('events:no'); end(); }}; }}),
  new Promise((end) => {{ const s = new WebSocket(url.replace('http', 'ws') + '/api/v1/events');
    s.onopen = () => {{ told.push('socket:open'); end(); }};
    s.onerror = () => {{ told.push('socket:no'); end(); }}; }}),
]).then(() => told);
document.getElementById('f').submit();
document.getElementById('g').submit();
</script>"""


class _Evil(BaseHTTPRequestHandler):
    def __init__(self, page: str, *arguments: Any) -> None:
        self._page = page
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self._page.encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_s18_s19_a_page_of_another_site_can_read_and_change_nothing(opened: Browser, tmp_path: Path) -> None:
    """Forms, images, fetches, event streams, sockets, and a name of its own that points here."""
    with SCENES["busy"](tmp_path) as (_, daemon, client):
        id = client.create(upload=client.upload("target.csv", csv(people("q", 9_000))))
        daemon.until(lambda: client.load(id)["phase"] == "running")
        page_of_evil = EVIL.format(url=client.url, id=id)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Evil, page_of_evil))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = urlsplit(client.url).port
        one = Visitor(opened, client)
        try:
            one.sign_in()  # the victim has a session in this browser
            victim = one.context.new_page()
            victim.goto(f"http://evil.example:{server.server_port}/")
            told = victim.evaluate("window.done")
            assert sorted(told)[:1] == ["events:no"]
            assert "read:no" in told
            assert "json:no" in told
            assert "socket:no" in told
            assert not [text for text in told if text.startswith(("read:basic", "read:cors", "json:c"))]
            rebound = victim.goto(f"http://rebound.example:{port}/")
            assert rebound is not None
            assert rebound.status == 421
            assert "key" not in victim.content()
        finally:
            one.context.close()
            server.shutdown()
            server.server_close()
        load = client.load(id)
        assert not load["cancelled"]
        assert not [line for line in daemon.said("load.changed") if line["change"] == "cancel"]
