"""`/docs` and `/redoc` in a real browser: they work, and send nothing to other origins."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import execute, fill, open_operation, running_browser
from tests.conftest import Stack, wait_until

# Texts of which ReDoc shows a part, with an ellipsis or a scrollbar.
CUT_TEXTS = """() => [...document.querySelectorAll("#redoc .api-content *")]
    .filter((one) => one.offsetWidth && one.scrollWidth > one.clientWidth + 1)
    .filter((one) => getComputedStyle(one).overflowX !== "visible")
    .map((one) => one.textContent.slice(0, 80))"""
PATIENCE_MS = 60_000  # rendering 150 operations can take that long on a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with running_browser() as running:
        yield running


@contextmanager
def watched_page(stack: Stack, browser: Browser) -> Iterator[Page]:
    """Open a page with a fresh profile; check at the end that it asked no other origin."""
    page = browser.new_page(base_url=stack.contract["base_url"])
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield page
    page.close()
    origin = stack.contract["base_url"]
    away = [url for url in asked if not url.startswith((f"{origin}/", "data:", f"blob:{origin}"))]
    assert asked
    assert away == []
    assert [error for error in errors if not re.search("status of (401|503)", error)] == []


@pytest.fixture
def page(stack: Stack, browser: Browser) -> Iterator[Page]:
    """A page of its own."""
    with watched_page(stack, browser) as page:
        yield page


@pytest.fixture(scope="module")
def signed_in(stack: Stack, browser: Browser) -> Iterator[Page]:
    """A page of /docs with a token of wlce; rendering it again would take ten seconds."""
    with watched_page(stack, browser) as page:
        page.goto("/docs")
        authorize(page, stack)
        # Operations that need the scope write are shown when a token has it.
        expect(page.locator("#operations-imports-createImports")).to_be_visible()
        yield page


def unfold(page: Page, tag: str, operation: str) -> Locator:
    """Open an operation that is listed on the page."""
    opened = page.locator(f"#operations-{tag}-{operation}")
    opened.locator(".opblock-summary-path").first.click()
    expect(opened.locator("button.execute")).to_be_visible()
    return opened


def authorize(page: Page, stack: Stack) -> None:
    """Get a token in the Authorize dialog with client id and secret."""
    client = stack.contract["escos"]["wlce"]
    page.locator("button.btn.authorize").click()
    dialog = page.locator(".dialog-ux")
    dialog.locator("#client_id_clientCredentials").fill(client["client_id"])
    dialog.locator("#client_secret_clientCredentials").fill(client["client_secret"])
    with page.expect_response("**/auth/token") as answer:
        dialog.locator("button.authorize").first.click()
    assert answer.value.status == 200
    expect(dialog.get_by_text("Authorized").first).to_be_visible()
    dialog.locator(".close-modal").click()


def test_a_document_that_cannot_be_had_leaves_the_page_as_it_is(stack: Stack, page: Page) -> None:
    open_operation(page, "meters", "listMeterRegistry")
    # Answered by the browser: the server has no such fault to show.
    page.route("**/openapi.json", lambda route: route.fulfill(status=503, body="{}"))
    with page.expect_response("**/openapi.json"):
        authorize(page, stack)
    page.wait_for_timeout(500)  # the page would be emptied now
    expect(page.locator("#operations-meters-listMeterRegistry")).to_be_visible()


def test_a_filter_typed_without_operator_finds_the_meter(stack: Stack, page: Page) -> None:
    listing = open_operation(page, "meters", "listMeterRegistry")
    status, _, body = execute(page, listing, "/rest/v1/meter_registry")
    assert status == 401, "no token yet"
    assert "token" in body
    authorize(page, stack)
    # Once authorized, the page shows what the token may do: this one may write.
    expect(page.locator("#operations-meters-createMeterRegistry")).to_be_visible()
    fill(listing, "serial", "WLCE0001")
    status, url, body = execute(page, listing, "/rest/v1/meter_registry")
    assert status == 200
    assert parse_qs(urlsplit(url).query) == {"serial": ["eq.WLCE0001"]}
    assert '"serial": "WLCE0001"' in body
    assert "WLCE0002" not in body
    fill(listing, "serial", "like.*PV01")
    status, url, body = execute(page, listing, "/rest/v1/meter_registry")
    assert (status, '"WLCEPV01"' in body) == (200, True)
    listing.locator("tr[data-param-name='select'] select").select_option(["serial", "mode"])
    listing.locator("tr[data-param-name='order'] select").select_option(["serial.desc"])
    fill(listing, "serial", "")
    fill(listing, "limit", "2")
    status, url, body = execute(page, listing, "/rest/v1/meter_registry")
    assert parse_qs(urlsplit(url).query) == {
        "select": ["serial,mode"],
        "order": ["serial.desc"],
        "limit": ["2"],
    }
    assert (status, "WLCEPV01" in body, "hardware" in body) == (200, True, False)


def test_the_example_of_an_import_works(stack: Stack, signed_in: Page, tmp_path: Path) -> None:
    posting = unfold(signed_in, "imports", "createImports")
    # The file is the one that the form describes.
    described = posting.locator("tr[data-property-name='file'] code, [data-name='file'] code")
    file = tmp_path / "readings.csv"
    file.write_text(described.first.inner_text())
    posting.locator("input[type=file]").set_input_files(file)
    status, _, body = execute(signed_in, posting, "/v1/imports")
    assert status == 202, body
    (number,) = re.findall(r'"id": "([0-9a-f-]{36})"', body)
    with stack.client("wlce") as client:
        found = wait_until(
            lambda: (
                answer
                if (answer := client.get(f"/v1/imports/{number}").json())["finished_at"]
                else None
            )
        )
    assert (found["state"], found["error"]) == ("done", None)
    preview = found["report"]["preview"]
    assert [row["import_kwh"] for row in preview["edges"]] == ["0.1", "0.2"]


def test_a_wrong_secret_is_reported_and_can_be_retyped(stack: Stack, page: Page) -> None:
    page.goto("/docs")
    client = stack.contract["escos"]["hmce"]
    page.locator("button.btn.authorize").click()
    dialog = page.locator(".dialog-ux")
    dialog.locator("#client_id_clientCredentials").fill(client["client_id"])
    for secret, shown in (("wrong", "invalid_client"), (client["client_secret"], "Authorized")):
        dialog.locator("#client_secret_clientCredentials").fill(secret)
        dialog.locator("button.authorize").first.click()
        expect(dialog.get_by_text(shown).first).to_be_visible()


def test_execute_works_at_once_and_with_what_is_typed(stack: Stack, signed_in: Page) -> None:
    """The last whole week is filled in: from a Monday to the next, before today."""
    energy = unfold(signed_in, "energy", "getEnergy")
    status, url, body = execute(signed_in, energy, "/v1/energy")
    assert status == 200, body
    asked = parse_qs(urlsplit(url).query)
    start, end = (datetime.fromisoformat(asked[f"period_{one}"][0]) for one in ("from", "to"))
    assert (start.weekday(), end - start) == (0, timedelta(days=7))
    assert timedelta(0) <= datetime.now(UTC) - end < timedelta(days=8)
    day = stack.period(2, 1, "UTC")
    for name, value in day.items():
        fill(energy, name, value)
    status, url, body = execute(signed_in, energy, "/v1/energy")
    assert status == 200
    assert {name: parse_qs(urlsplit(url).query)[name] for name in day} == {
        name: [value] for name, value in day.items()
    }
    assert '"import_kwh"' in body


TYPED = {
    "serial=EML1": "serial=eq.EML1",
    "serial=eq.EML1": "serial=eq.EML1",
    "serial=not.in.(a,b)": "serial=not.in.(a,b)",
    "serial=like(any).{A*,B*}": "serial=like(any).{A*,B*}",
    "notes=is.null": "notes=is.null",
    "notes=fts(english).meter": "notes=fts(english).meter",
    "notes=equal.parts": "notes=eq.equal.parts",
    "timestamp=gte.2026-01-01T00:00:00+01:00": "timestamp=gte.2026-01-01T00:00:00+01:00",
    "balance=12.5": "balance=eq.12.5",
    "select=serial,name&order=serial.asc&limit=3": "select=serial,name&order=serial.asc&limit=3",
    "or=(a.eq.1,b.eq.2)": "or=(a.eq.1,b.eq.2)",
}


def test_typed_filters_are_completed_and_never_sent_elsewhere(
    stack: Stack, signed_in: Page
) -> None:
    origin = stack.contract["base_url"]
    for typed, sent in TYPED.items():
        query = typed.replace("+", "%2B")
        url = signed_in.evaluate(f"withOperators('http://elsewhere.test/rest/v1/x?{query}')")
        assert url.startswith(f"{origin}/rest/v1/x?")
        wanted = parse_qs(sent.replace("+", "%2B"))
        assert parse_qs(urlsplit(url).query) == wanted
    for untouched in ("/v1/energy?circuit=1", "/rest/v1/rpc/f?name=x"):
        assert signed_in.evaluate(f"withOperators('{untouched}')") == origin + untouched


def test_the_guide_stands_on_top(stack: Stack, signed_in: Page) -> None:
    guide = signed_in.locator(".info")
    for words in ("Get a token", "First call", "Filters", f"{stack.contract['base_url']}/rest/v1"):
        expect(guide).to_contain_text(words)


def test_the_reading_view_shows_the_same_document(page: Page) -> None:
    page.goto("/redoc")
    shown = page.locator("#redoc .api-content")
    for words in ("Get a token", "List meter registry", "/rest/v1/meter_registry"):
        expect(shown).to_contain_text(words)
    assert page.evaluate(CUT_TEXTS) == []


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_pages_forbid_other_origins(stack: Stack, path: str) -> None:
    with stack.client(None) as client:
        policy = client.get(path).headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
