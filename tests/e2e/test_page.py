"""The report's page in a real browser: with a mouse, a keyboard, a phone, a printer, a screen reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from e2e.pages import EXAMPLES, browser, chromium, example
from playwright.sync_api import Browser, Page

CHROMIUM = chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "true",
    reason="there is no Chromium on this machine (Debian: apt-get install chromium); with CI=true this must run",
)

CONTRAST = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  let seen = 0;
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || ['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
    seen += 1;
    const [one, other] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) bad.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return { seen, bad };
}
"""


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    assert CHROMIUM is not None, "CI=true, and there is no Chromium: .ci/run installs it"
    with browser(CHROMIUM) as one:
        yield one


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of every example."""
    folder = tmp_path_factory.mktemp("pages")
    return {name: example(name, folder / name) for name in EXAMPLES}


def shown(page: Page) -> list[str]:
    """Rows of the table as they stand, by their number."""
    texts: list[str] = page.evaluate(
        "() => [...document.querySelectorAll('table.rows tbody tr:not([hidden])')].map((row) => row.cells[0].innerText)"
    )
    return texts


@pytest.fixture
def page(opened: Browser, files: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Page]:
    """The mixed example; fails when the page complains of anything or asks for anything."""
    complaints: list[str] = []
    one = opened.new_page(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    one.on("console", lambda message: complaints.append(message.text))
    one.on("pageerror", lambda error: complaints.append(str(error)))
    one.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith("file:") else None)
    one.goto(files["mixed"].as_uri())
    yield one
    one.close()
    assert complaints == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_of_report_opens_without_a_complaint(opened: Browser, files: dict[str, Path], name: str) -> None:
    """The page's own policy would block a style or a script that is not exactly ours."""
    complaints: list[str] = []
    one = opened.new_page()
    one.on("console", lambda message: complaints.append(message.text))
    one.on("pageerror", lambda error: complaints.append(str(error)))
    requests: list[str] = []
    one.on("request", lambda asked: requests.append(asked.url))
    one.goto(files[name].as_uri())
    assert complaints == []
    assert requests == [files[name].as_uri()]
    assert one.evaluate("getComputedStyle(document.querySelector('.bar')).borderTopLeftRadius") == "8px"
    assert one.locator("h1").count() == 1
    one.close()


def test_a_word_finds_its_rows_and_nothing_else(page: Page) -> None:
    """Somebody asks about one lead, and the answer is wanted now."""
    everything = shown(page)
    page.get_by_label("Search the rows").fill("lead00017")
    assert shown(page) == ["17"]
    assert page.locator("#search output").inner_text() == f"1 of {len(everything)} rows"
    page.get_by_label("Search the rows").fill("LEAD SCORE hall")
    assert 1 < len(shown(page)) < len(everything)
    page.get_by_label("Search the rows").fill("no such lead")
    assert shown(page) == []
    page.get_by_label("Search the rows").press("Escape")
    assert shown(page) == everything


def test_columns_sort_by_number_and_by_text_both_ways(page: Page) -> None:
    """`1,503` is after `12`, whatever text may say."""
    in_order = shown(page)
    numbers = [int(text.replace(",", "")) for text in in_order]
    head = page.locator("table.rows thead th", has_text="Row").first
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown(page) == [f"{number:,}" for number in sorted(numbers)]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert shown(page) == [f"{number:,}" for number in sorted(numbers, reverse=True)]
    reason = page.locator("table.rows thead th", has_text="Reason")
    reason.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    reasons = page.locator("table.rows tbody tr td:nth-child(4)").all_inner_texts()
    assert reasons == sorted(reasons, key=str.casefold)
    assert len(reasons) == len(numbers)


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    """Not everybody has a mouse."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
    page.get_by_label("Search the rows").focus()
    page.keyboard.type("lead00034")
    assert shown(page) == ["34"]
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "BUTTON":
            break
    assert page.evaluate("document.activeElement.closest('th').innerText").startswith("Row")
    page.keyboard.press("Enter")
    assert page.locator("table.rows thead th").first.get_attribute("aria-sort") == "ascending"
    page.locator("table.rows tbody tr:not([hidden]) summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("table.rows tbody tr:not([hidden]) dd").first.is_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_its_script_the_page_is_whole(opened: Browser, files: dict[str, Path], page: Page) -> None:
    """Mail gateways and strict browsers strip scripts."""
    assert page.locator("table.rows tbody tr").count() > 300
    assert not page.locator("#search").is_visible()
    assert page.locator("th button").count() == 0
    page.locator("table.rows summary").first.click()
    assert page.locator("table.rows dd").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_against_what_is_behind_it(page: Page, scheme: Any) -> None:
    """4.5 to 1, as WCAG 2 asks of text, in both colour schemes."""
    page.emulate_media(color_scheme=scheme)
    found = page.evaluate(CONTRAST)
    assert found["seen"] > 500
    assert found["bad"] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_a_screen_reader_finds_landmarks_headings_names_and_tables(page: Page) -> None:
    """What is drawn is also said."""
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    levels: list[int] = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    bar = page.locator(".bar svg")
    assert "Failed 215" in (bar.get_attribute("aria-label") or "")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('svg')].filter((svg) => svg.getAttribute('aria-hidden') !== 'true'"
        " && !(svg.getAttribute('role') === 'img' && (svg.getAttribute('aria-label')"
        " || svg.getAttribute('aria-labelledby')))).length"
    )
    assert unnamed == 0
    dangling = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby],[aria-describedby],label[for]')].flatMap((one) =>"
        " [one.getAttribute('aria-labelledby'), one.getAttribute('aria-describedby'), one.htmlFor].join(' ')"
        ".split(' ').filter(Boolean)).filter((id) => !document.getElementById(id))"
    )
    assert dangling == []
    assert page.evaluate("[...document.querySelectorAll('thead th')].every((th) => th.scope === 'col')")
    assert page.evaluate(
        "[...document.querySelectorAll('table')].every((table) => table.tHead && table.tBodies.length)"
    )
    ids: list[str] = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 740}}], indirect=True)
def test_a_phone_shows_everything_without_scrolling_sideways(page: Page) -> None:
    """Somebody is asked about the load on the train."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
    )
    assert wide == 0
    page.get_by_label("Search the rows").fill("lead00017")
    assert page.locator("table.rows tbody tr:visible").count() == 1


def test_on_paper_there_is_no_search_and_no_thousand_rows(page: Page) -> None:
    """It is printed for a meeting: the numbers, the reasons, the first rows, black on white."""
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("#search").is_visible()
    assert page.locator("table.rows tbody tr:visible").count() == 50
    assert page.locator(".paper").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).printColorAdjust") == "exact"
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    assert 2 <= pages <= 6


def test_the_time_line_shows_batches_that_wait_and_batches_that_are_imported(page: Page) -> None:
    """Whether the queue was kept full is seen here, or nowhere."""
    lanes = page.locator("table.batches td.lane svg")
    assert lanes.count() == 12
    assert page.locator("table.batches rect.queued").count() >= 8
    assert page.locator("table.batches rect.importing").count() >= 11
    assert "Both were busy" in page.locator("#queue-about").inner_text()


def test_ten_thousand_batches_make_a_page_of_one_size(files: dict[str, Path]) -> None:
    """A page of ten megabytes is not opened twice."""
    assert files["long"].stat().st_size < 1_500_000
    text = files["long"].read_text(encoding="utf-8")
    assert "10,000" in text
    assert text.count('class="lane plain"') == 500
