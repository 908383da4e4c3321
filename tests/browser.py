"""Chromium, driven by Playwright, and what tests do on /docs in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.conftest import wait_until

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run the system's Chromium without a window; skips if it is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    program = program or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


def open_operation(page: Page, tag: str, operation: str) -> Locator:
    """Open an operation by its deep link."""
    page.goto(f"/docs#/{tag}/{operation}")
    opened = page.locator(f"#operations-{tag}-{operation}")
    expect(opened.locator("button.execute")).to_be_visible()
    # Nothing may cover the operation's path.
    opened.locator(".opblock-summary-path").first.click(trial=True)
    return opened


def execute(page: Page, operation: Locator, path: str) -> tuple[int, str, str]:
    """Press Execute; return the status, the URL requested and the body shown."""
    # A click while the document is loaded anew, or shown anew after that, meets a button that is
    # about to be replaced.
    wait_until(lambda: page.evaluate("ui.specSelectors.loadingStatus()") == "success")

    def press() -> bool:
        try:
            with page.expect_request(lambda sent: urlsplit(sent.url).path == path, timeout=20_000):
                operation.locator("button.execute").click()
        except PlaywrightTimeoutError:
            return False
        return True

    with page.expect_response(lambda answer: urlsplit(answer.url).path == path) as answer:
        wait_until(press)
    shown = operation.locator(".live-responses-table tr.response .response-col_description")
    expect(shown.first).to_be_visible()
    return answer.value.status, answer.value.url, shown.first.inner_text()


def fill(operation: Locator, parameter: str, value: str) -> None:
    """Type into a parameter's field."""
    operation.locator(f"tr[data-param-name='{parameter}'] input").fill(value)
