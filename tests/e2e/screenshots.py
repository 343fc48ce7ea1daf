"""What do the report and the daemon's page look like? Pictures, to be looked at: `make screenshots`.

python tests/e2e/screenshots.py FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from e2e.pages import EXAMPLES, browser, chromium, example
from e2e.scenes import SCENES

DESKTOP, PHONE, PAPER = (1280, 900), (390, 844), (794, 1123)
HEIGHT_MAX = 4_000
"""Pixels of a picture: tables of a thousand rows look the same further down."""


def main(folder: Path) -> int:
    path = chromium()
    if path is None:
        print("there is no Chromium on this machine (Debian: apt-get install chromium)", file=sys.stderr)
        return 69
    folder.mkdir(parents=True, exist_ok=True)
    looks: list[tuple[str, tuple[int, int], Literal["light", "dark"], Literal["screen", "print"]]] = [
        ("desktop-light", DESKTOP, "light", "screen"),
        ("desktop-dark", DESKTOP, "dark", "screen"),
        ("phone-light", PHONE, "light", "screen"),
        ("paper", PAPER, "light", "print"),
    ]
    with tempfile.TemporaryDirectory() as made, browser(path) as opened:
        for name in EXAMPLES:
            page_file = example(name, Path(made, name))
            for look, (width, height), scheme, media in looks if name == "mixed" else looks[:1]:
                page = opened.new_page(viewport={"width": width, "height": height})
                page.emulate_media(color_scheme=scheme, media=media)
                page.goto(page_file.as_uri())
                whole = min(HEIGHT_MAX, int(page.evaluate("document.documentElement.scrollHeight")))
                page.set_viewport_size({"width": width, "height": whole})
                picture = folder / f"{name}-{look}.png"
                page.screenshot(path=picture)
                print(picture)
                if media == "print":
                    page.pdf(path=folder / f"{name}.pdf", format="A4", prefer_css_page_size=True)
                    print(folder / f"{name}.pdf")
                page.close()
        for name, scene in SCENES.items():
            with tempfile.TemporaryDirectory() as place, scene(Path(place)) as (_, _, client):
                for look, (width, height), scheme, _ in looks[:3] if name == "busy" else looks[:1]:
                    context = opened.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                    page = context.new_page()
                    page.goto(client.url + "/login")
                    page.get_by_label("The daemon's token").fill(client.token)
                    page.get_by_role("button", name="Sign in").click()
                    page.wait_for_selector("#section-ended")
                    for part in ("daemon", "load"):
                        picture = folder / f"daemon-{name}-{look}{'-load' if part == 'load' else ''}.png"
                        page.screenshot(path=picture, full_page=part == "daemon")
                        print(picture)
                        links = page.locator('table a[href^="/loads/"]')
                        if part == "load" or not links.count():
                            break
                        links.first.click()
                        page.wait_for_selector("#chunks")
                    context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
