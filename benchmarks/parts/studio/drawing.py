"""A browser in front of the studio, with a clock."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from sgdmix_hub.figures.panels import in_few_colours
from sgdmix_hub.studio.serving import serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VIEW = {"width": 1280, "height": 1000}
PATIENCE = 900_000  # milliseconds
# A row's last picture: of a mixture, or of what was made of it.
FINISHED = "/mixed|refined/.test(document.querySelector('.sgdmix-pictures')?.innerText)"
FILLED = "document.querySelector('.sgdmix-pictures')?.innerHTML ?? ''"


class Visit:
    """One opened page."""

    def __init__(self, browser: Any, address: str):
        self.page = browser.new_page(viewport=VIEW)
        self.page.set_default_timeout(PATIENCE)
        self.started = time.monotonic()
        self.page.goto(address)

    def until(self, selector: str) -> float:
        """Seconds from the first request until something is shown."""
        self.page.locator(selector).first.wait_for()
        return time.monotonic() - self.started

    def choose(self, label: str, option: str) -> float:
        """Seconds from a choice until the first row shows what it changes."""
        self.page.wait_for_function("document.querySelector('[role=option]') === null")
        self.page.get_by_label(label, exact=True).focus()
        for _ in range(20):
            active = self.page.locator("[role=option].active").first.inner_text()
            if active.removeprefix("✓").strip() == option:
                break
            self.page.keyboard.press("ArrowDown")
            self.page.wait_for_timeout(50)
        return self._changed(lambda: self.page.keyboard.press("Enter"))

    def press(self, name: str) -> float:
        """Seconds from a button until the first row shows what it changes."""
        return self._changed(self.page.get_by_role("button", name=name).click)

    def _changed(self, act: Any) -> float:
        before = self.page.evaluate(FILLED)
        started = time.monotonic()
        act()
        self.page.wait_for_function(f"before => ({FILLED}) !== before", arg=before)
        self.page.wait_for_function(FINISHED)
        return time.monotonic() - started

    def picture(self, path: Path) -> None:
        """Writes what the window shows."""
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)
        with Image.open(path) as shot:
            in_few_colours(shot.convert("RGB")).save(path, "PNG", optimize=True)


@contextlib.contextmanager
def visiting(page: Any) -> Iterator[Visit]:
    """The page while it is served and open in a browser."""
    from playwright.sync_api import sync_playwright

    address = serve(page, "127.0.0.1", None, False, wait=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--force-prefers-reduced-motion"]
        )
        yield Visit(browser, address)
        browser.close()
    page.close(verbose=False)
