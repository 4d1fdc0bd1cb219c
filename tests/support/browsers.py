"""A real browser for tests of pages: Chromium or Chrome, driven by Playwright."""

import contextlib
import shutil
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
MOST_STOPS = 200  # of the Tab key
MOST_OPTIONS = 30  # of a list that a test goes through
# Of axe: what hinders people, not what could be done better.
HINDERS = ("serious", "critical")


def needed():
    """Skips the tests of a module where Gradio, the browser or its driver is missing."""
    for package in ("gradio", "playwright", "axe_playwright_python"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium", allow_module_level=True)


@contextlib.contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def page_of(**settings):
    """The page that `sgdmix studio` would open; a setting may be a path."""
    import torch

    from sgdmix_hub.open_studio import page_of
    from sgdmix_hub.settings.studio import StudioSettings

    settings = {name: v if isinstance(v, (int, list)) else str(v) for name, v in settings.items()}
    return page_of(StudioSettings(**settings), torch.device("cpu"))


@contextlib.contextmanager
def serving(page):
    """The address of a page while it is served."""
    from sgdmix_hub.studio.serving import serve

    address = serve(page, "127.0.0.1", None, False, wait=False)
    yield address
    page.close(verbose=False)


class Visit:
    """One opened page: its `requests`, `dialogs`, and `errors` of its scripts. Closed before the
    server, which would wait five seconds for it.
    """

    def __init__(self, browser, address, width=1280):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(120_000)
        self.requests, self.dialogs, self.errors = [], [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss())
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.address = address
        self.page.goto(address)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.page.close()

    def elsewhere(self):
        """Requests to other places than the page's own."""
        own = (self.address, "data:", "blob:")
        return [url for url in self.requests if not url.startswith(own)]

    def tab_to(self, label, backwards=False):
        """Goes to a control by the Tab key alone; the label may go on after the given words."""
        for _ in range(MOST_STOPS):
            names = self.page.evaluate(
                """() => {
                    const one = document.activeElement
                    const labels = [...(one.labels ?? [])].map(label => label.innerText)
                    return [one.ariaLabel, ...labels, one.matches('button') ? one.innerText : '']
                }"""
            )
            if any((name or "").strip().startswith(label) for name in names):
                return
            self.page.keyboard.press("Shift+Tab" if backwards else "Tab")
        raise AssertionError(f"the Tab key does not lead to {label}")

    def choose(self, label, option):
        """Chooses an option of a drop-down list with the keyboard alone."""
        from playwright.sync_api import expect

        field = self.page.get_by_label(label, exact=True)
        field.focus()
        self.page.locator("[role=option]").first.wait_for()
        for _ in range(MOST_OPTIONS):
            active = self.page.locator("[role=option].active").first.inner_text()
            if active.removeprefix("✓").strip() == option:
                break
            self.page.keyboard.press("ArrowDown")
            self.page.wait_for_timeout(50)
        self.page.keyboard.press("Enter")
        expect(field).to_have_value(option)
        expect(self.page.locator("[role=option]")).to_have_count(0)  # the list fades out

    def pictures(self, caption):
        """The addresses of the pictures with a caption, from top to bottom, at one moment."""
        return self.page.evaluate(
            """caption => [...document.querySelectorAll('figure')]
                .filter(one => one.querySelector('figcaption').innerText === caption)
                .flatMap(one => [...one.querySelectorAll('img')].map(image => image.src))""",
            caption,
        )

    def titles(self):
        """The headings of the rows, at one moment."""
        return self.page.locator(".sgdmix-row h2").all_inner_texts()

    def boxes(self):
        """Label and tick of the boxes under the rows, at one moment."""
        found = self.page.evaluate(
            """() => [...document.querySelectorAll('label')]
                .filter(one => one.offsetParent !== null)
                .filter(one => /^(Leave row|Mark source)/.test(one.innerText.trim()))
                .map(one => [one.innerText.trim(), one.querySelector('input').checked])"""
        )
        return [(label, is_ticked) for label, is_ticked in found]

    def status(self):
        """The line above the rows, at one moment."""
        return self.page.locator(".sgdmix-status, .sgdmix-error").last.inner_text()

    def until(self, is_so, seconds=120):
        """Waits until a function of this visit returns something true."""
        ends = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < ends, self.status()
            self.page.wait_for_timeout(50)

    def hindrances(self):
        """What axe finds that hinders people, in short."""
        from axe_playwright_python.sync_playwright import Axe

        return [
            (found["id"], found["impact"], found["nodes"][0]["html"][:200])
            for found in Axe().run(self.page).response["violations"]
            if found["impact"] in HINDERS
        ]
