"""People sign in, in a real browser and at a real OpenID provider: on /docs and in the examples."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    Response,
    Route,
    expect,
)

from app.embedded.ports import free_port
from app.embedded.postgrest import NPM_OPTIONS
from tests.browser import execute, open_operation, running_browser
from tests.conftest import Stack, answers, flows, running_stack, wait_until

pytestmark = pytest.mark.stack

PATIENCE_MS = 120_000  # a busy machine renders slowly
EXAMPLES = Path(__file__).parents[1] / "examples"
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def page_port() -> int:
    """The port of the single-page app, from which the gateway takes requests."""
    return free_port()


@pytest.fixture(scope="module")
def site(browser: Browser, page_port: int) -> Iterator[Stack]:
    """A demo with its OpenID provider; none is started without a browser."""
    origin = f"http://127.0.0.1:{page_port}"
    with running_stack(FLOWS_DEMO_IDENTITY="on", FLOWS_CORS_ORIGINS=origin) as running:
        assert "identity" in running.contract, "the provider did not start"
        yield running


@pytest.fixture(scope="module")
def single_page(
    site: Stack,
    page_port: int,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of the single-page app, built for the demo as `npm run build` does."""
    source = tmp_path_factory.mktemp("page") / "page"
    without = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(EXAMPLES / "single-page-app", source, ignore=without)
    installed = installed_packages(source, pytestconfig.cache.mkdir("npm"))
    (source / "node_modules").symlink_to(installed / "node_modules")
    environment = os.environ | {"FLOWS_DEMO": str(site.home / "demo.json")}
    built = subprocess.run(
        ["npm", "run", "build"],
        cwd=source, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    handler = partial(QuietHandler, directory=str(source / "dist"))
    with ThreadingHTTPServer(("127.0.0.1", page_port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{page_port}/"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def installed_packages(source: Path, cache: Path) -> Path:
    """Return a folder with the locked packages of `source`, installed once for all runs."""
    lock = (source / "package-lock.json").read_bytes()
    folder = cache / f"page-{hashlib.sha256(lock).hexdigest()[:16]}"
    with folder.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = folder.with_suffix(".partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(source / name, unfinished)
            subprocess.run(["npm", "ci", *NPM_OPTIONS], cwd=unfinished, check=True)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="module")
def backend(site: Stack) -> Iterator[str]:
    """The URL of the backend for frontends, which is Water Lilies' own."""
    identity, client = site.contract["identity"], site.contract["escos"]["wlce"]
    url = f"http://127.0.0.1:{free_port()}"
    settings = {
        "BFF_FLOWS_URL": site.contract["base_url"],
        "BFF_FLOWS_CLIENT_ID": client["client_id"],
        "BFF_FLOWS_CLIENT_SECRET": client["client_secret"],
        "BFF_ISSUER": identity["issuer"],
        "BFF_CLIENT_ID": identity["server_client_id"],
        "BFF_CLIENT_SECRET": identity["server_client_secret"],
        "BFF_PUBLIC_URL": url,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "server:app", "--log-level", "warning",
         "--port", url.rpartition(":")[2]],
        cwd=EXAMPLES / "backend-for-frontend", env=os.environ | settings,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or answers(f"{url}/me", 401))
            assert process.poll() is None
            yield url
        finally:
            process.terminate()


@pytest.fixture
def context(site: Stack, browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile; checks at the end that nobody else was asked."""
    context = browser.new_context(base_url=site.contract["base_url"])
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    asked: list[Request] = []
    errors: list[str] = []
    context.on("request", lambda request: asked.append(request))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    # One tag is enough here: a page of 150 operations takes long to render.
    context.route(
        "**/openapi.json",
        lambda route: route.continue_(url=f"{route.request.url}?tags=meters"),
    )
    yield context
    context.close()
    known = ("http://127.0.0.1:", "data:")
    away = [request.url for request in asked if not request.url.startswith(known)]
    assert (away, errors) == ([], [])


def sign_in(page: Page, person: str) -> None:
    """Press Sign in, and choose a person at the provider."""
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.locator(f"button[value={person}]").click()


def docs_of(context: BrowserContext, person: str) -> Page:
    """Sign in on /docs, at an operation that is opened when the page is loaded."""
    page = context.new_page()
    page.goto("/docs#/meters/listMeterRegistry")
    sign_in(page, person)
    page.wait_for_url("**/docs#/meters/listMeterRegistry")
    return page


def exchanged(page: Page, esco: str) -> dict[str, Any]:
    """Choose an ESCO on /docs; return the token's claims, and the token as `token`."""
    choice = page.get_by_label("ESCO", exact=True)
    expect(choice).to_be_visible()
    with page.expect_response("**/auth/token") as answer, page.expect_response("**/openapi.json*"):
        choice.select_option(esco)
    token = answer.value.json()["access_token"]
    return jwt.decode(token, options={"verify_signature": False}) | {"token": token}


def works(site: Stack, token: str) -> set[int]:
    """Return the statuses of a token at both doors."""
    headers = {"Authorization": f"Bearer {token}"}
    return {
        httpx.get(f"{site.contract[door]}/escos", headers=headers).status_code
        for door in ("rest_url", "postgrest_url")
    }


def test_the_admin_signs_in_on_docs_and_tries_requests(
    site: Stack, context: BrowserContext
) -> None:
    page = context.new_page()
    page.goto("/docs#/meters/listMeterRegistry")
    sign_in(page, "ann")
    expect(page.locator("#sign-in output")).to_have_text("wlce")
    assert page.url == f"{site.contract['base_url']}/docs#/meters/listMeterRegistry"
    listing = open_operation(page, "meters", "listMeterRegistry")
    status, _, body = execute(page, listing, "/rest/v1/meter_registry")
    assert (status, '"WLCE0001"' in body, "HMCE" in body) == (200, True, False)
    # The page shows what this token may do, which has the scope write.
    expect(page.locator("#operations-meters-createMeterRegistry")).to_be_visible()


def test_a_resident_signs_in_on_docs_and_reads_its_own(
    site: Stack, context: BrowserContext
) -> None:
    page = docs_of(context, "rae")
    expect(page.locator("#sign-in output")).to_have_text("wlce")
    listing = open_operation(page, "meters", "listMeterRegistry")
    status, _, body = execute(page, listing, "/rest/v1/meter_registry")
    assert (status, set(re.findall("WLCE[0-9A-Z]+", body))) == (200, {"WLCE0003"})
    # Its document has nothing to write, and nothing to administer.
    expect(page.locator("#operations-meters-createMeterRegistry")).to_have_count(0)
    expect(page.locator("[id^=operations-administration]")).to_have_count(0)


def test_a_member_of_two_escos_chooses_and_signs_out(site: Stack, context: BrowserContext) -> None:
    page = docs_of(context, "ben")
    reading = exchanged(page, "wlce")
    assert (reading["esco_code"], reading["scope"]) == ("wlce", "read")
    assert works(site, reading["token"]) == {200}
    writing = exchanged(page, "hmce")
    assert (writing["esco_code"], writing["scope"]) == ("hmce", "read write")
    # The token that another replaces is over.
    wait_until(lambda: works(site, reading["token"]) == {401}, seconds=6)
    listing = open_operation(page, "meters", "listMeterRegistry")
    assert "HMCE0001" in execute(page, listing, "/rest/v1/meter_registry")[2]
    with page.expect_response("**/auth/revoke") as answer:
        page.get_by_role("button", name="Sign out").click()
    assert answer.value.status == 200
    wait_until(lambda: works(site, writing["token"]) == {401}, seconds=6)
    assert execute(page, listing, "/rest/v1/meter_registry")[0] == 401
    # The next one is asked who it is, although the provider knows the one before.
    sign_in(page, "ann")
    expect(page.locator("#sign-in output")).to_have_text("wlce")


def test_no_token_is_in_a_url_a_log_or_a_store(site: Stack, context: BrowserContext) -> None:
    sent: list[Request] = []
    context.on("request", lambda request: sent.append(request))
    page = docs_of(context, "ben")
    token = exchanged(page, "wlce")["token"]
    listing = open_operation(page, "meters", "listMeterRegistry")
    assert execute(page, listing, "/rest/v1/meter_registry")[0] == 200
    (form,) = (parse_qs(one.post_data or "") for one in sent if one.url.endswith("/auth/token")
               and "esco=" in (one.post_data or ""))  # fmt: skip
    (returned,) = (one.url for one in sent if "code=" in one.url)
    secrets = [token, form["subject_token"][0], parse_qs(urlsplit(returned).query)["code"][0]]
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    logs = "".join(log.read_text() for log in (site.home / "logs").iterdir() if log.is_file())
    assert "/auth/token" in logs
    for secret in secrets:
        urls = [one.url for one in sent if secret in one.url]
        assert urls == ([returned] if secret == secrets[2] else [])
        assert not [one.url for one in sent if secret in one.headers.get("referer", "")]
        assert secret not in kept
        assert secret not in logs
    assert "code=" not in page.url


@pytest.mark.parametrize("query", ["code=stolen&state=forged", "error=x&state=", "state=%22"])
def test_a_sign_in_that_was_not_begun_here_is_refused(context: BrowserContext, query: str) -> None:
    """A link of somebody else signs nobody in, as that somebody (login CSRF)."""
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"/docs?{query}")
    expect(page.locator("#sign-in")).to_contain_text("not begun here")
    assert not [url for url in asked if "/token" in url]
    # Nor does it in a tab that waits for another answer.
    page.evaluate(
        "sessionStorage.setItem('flows-sign-in', JSON.stringify({state: 'own', hash: '#x'}))"
    )
    page.goto(f"/docs?{query}&again")
    expect(page.locator("#sign-in")).to_contain_text("not begun here")
    assert not [url for url in asked if "/token" in url]


def test_an_id_token_of_another_sign_in_is_refused(site: Stack, context: BrowserContext) -> None:
    """Its nonce is not that of this tab: somebody else's code was put in place of its own."""
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def replace_nonce(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        claims = jwt.decode(body["id_token"], options={"verify_signature": False})
        body["id_token"] = jwt.encode(claims | {"nonce": "another"}, "x" * 32)
        route.fulfill(response=answer, json=body)

    page.route(f"{site.contract['identity']['issuer']}/token", replace_nonce)
    page.goto("/docs")
    sign_in(page, "ann")
    expect(page.locator("#sign-in")).to_contain_text("not begun here")
    assert not [url for url in asked if url.endswith("/auth/token")]


@pytest.mark.parametrize(
    "where", [EVIL, "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_nothing_leads_away(site: Stack, context: BrowserContext, where: str) -> None:
    """No parameter of a page, and nothing kept for the return, is a place to go to."""
    base_url = site.contract["base_url"]
    page = context.new_page()
    page.goto("/docs")
    page.evaluate(
        "hash => sessionStorage.setItem('flows-sign-in', JSON.stringify({state: 'own', hash}))",
        where,
    )
    page.goto(f"/docs?state=x&error=y&next={where}&return_to={where}&redirect_uri={where}")
    expect(page.locator("#sign-in")).to_contain_text("not begun here")
    assert urlsplit(page.url).netloc == urlsplit(base_url).netloc
    for path in ("/", "/docs", "/redoc", "/docs/guide"):
        for name in ("next", "url", "redirect_uri", "configUrl"):
            answer = httpx.get(f"{base_url}{path}", params={name: where})
            assert answer.headers.get("location", "/docs") in ("/docs", "/docs/guide/")
    # The provider returns to the registered pages alone.
    identity = site.contract["identity"]
    asked = {
        "client_id": identity["client_id"],
        "redirect_uri": where,
        "response_type": "code",
        "scope": "openid",
        "code_challenge": "x" * 43,
        "code_challenge_method": "S256",
    }
    refused = httpx.get(f"{identity['issuer']}/auth", params=asked)
    assert (refused.status_code, refused.headers.get("location")) == (400, None)


def test_the_policy_of_docs_lets_it_ask_the_issuer_and_nobody_else(
    site: Stack, context: BrowserContext
) -> None:
    issuer = site.contract["identity"]["issuer"]
    policy = httpx.get(f"{site.contract['base_url']}/docs").headers["content-security-policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'self'"
    assert parts["connect-src"] == f"'self' {issuer}"
    assert "script-src" not in parts
    assert "unsafe-eval" not in policy
    assert parts["frame-ancestors"] == "'none'"
    for path in ("/redoc", "/docs/guide/"):
        headers = httpx.get(f"{site.contract['base_url']}{path}").headers
        assert issuer not in headers.get("content-security-policy", "")
    page = context.new_page()
    page.goto("/docs")
    tried = "url => fetch(url).then(() => 'asked', () => 'blocked')"
    assert page.evaluate(tried, f"{issuer}/.well-known/openid-configuration") == "asked"
    assert page.evaluate(tried, site.contract["postgrest_url"]) == "blocked"
    # Script that finds its way into the page does not run.
    page.evaluate(
        "() => { const script = document.createElement('script');"
        " script.textContent = 'window.ran = true'; document.body.append(script);"
        " document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"ran = true\">') }"
    )
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1:5173.evil.example"])
def test_no_other_origin_may_read_anything(site: Stack, page_port: int, origin: str) -> None:
    base_url = site.contract["base_url"]
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    form = {"client_id": site.contract["identity"]["app"], "token": "x"}
    for path in ("/auth/token", "/auth/revoke", "/rest/v1/escos", "/v1/latest", "/docs",
                 "/openapi.json", "/admin/members"):  # fmt: skip
        for answer in (
            httpx.options(base_url + path, headers=headers),
            httpx.get(base_url + path, headers=headers),
            httpx.post(base_url + path, headers=headers, data=form),
        ):
            assert "access-control-allow-origin" not in answer.headers
    own = f"http://127.0.0.1:{page_port}"
    allowed = httpx.get(f"{base_url}/openapi.json", headers={"Origin": own})
    assert allowed.headers["access-control-allow-origin"] == own
    assert "access-control-allow-credentials" not in allowed.headers


def test_the_document_names_the_provider(site: Stack) -> None:
    identity = site.contract["identity"]
    document = httpx.get(f"{site.contract['base_url']}/openapi.json").json()
    scheme = document["components"]["securitySchemes"]["openIdConnect"]
    assert scheme["type"] == "openIdConnect"
    assert httpx.get(scheme["openIdConnectUrl"]).json()["issuer"] == identity["issuer"]
    assert (scheme["x-flows-client-id"], scheme["x-flows-app"]) == (
        identity["client_id"], identity["app"],
    )  # fmt: skip


def test_a_provider_that_is_gone_is_told(site: Stack, context: BrowserContext) -> None:
    page = context.new_page()
    # Answered by the browser: the provider has no such fault to show.
    page.route(f"{site.contract['identity']['issuer']}/**", lambda route: route.abort())
    page.goto("/docs")
    begun = time.monotonic()
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.locator("#sign-in")).to_contain_text("cannot be reached")
    assert re.search("Sign in", page.locator("#sign-in button").inner_text())
    assert time.monotonic() - begun < PATIENCE_MS / 1000


def shot(page: Page, name: str) -> None:
    """Keep a screenshot in the folder FLOWS_SCREENSHOTS, if it is set."""
    if folder := os.environ.get("FLOWS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, timeout=20_000)


def test_the_single_page_app_shows_energy_balances_and_circuits(
    site: Stack, context: BrowserContext, single_page: str
) -> None:
    sent: list[Request] = []
    context.on("request", lambda request: sent.append(request))
    page = context.new_page()
    page.goto(single_page)
    with page.expect_response("**/auth/token") as answer:
        sign_in(page, "ann")
    token = answer.value.json()["access_token"]
    with site.client("wlce") as client:
        circuits = client.get("/rest/v1/circuits", params={"select": "name"}).json()
        meters = client.get("/v1/latest").json()["rows"]
    expect(page.locator("tbody tr")).to_have_count(len(circuits))
    with_balance = [row for row in meters if row["balance"] is not None]
    expect(page.locator(".card")).to_have_count(len(with_balance))
    # The month before is whole.
    with page.expect_response("**/v1/energy?*"):
        page.get_by_label("Month before").click()
    expect(page.locator("rect.bar title").first).to_contain_text("kWh taken")
    expect(page.locator("figcaption")).to_contain_text("solar")
    expect(page.locator("rect.bar").nth(28 * 3 - 1)).to_be_attached()
    shot(page, "page")
    assert page.url == single_page
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert token not in kept
    assert "id_token" not in kept
    assert not [one.url for one in sent if token in one.url]
    page.get_by_role("button", name="Sign out").click()
    shot(page, "provider-sign-out")
    page.locator("button[name=logout]").click()
    page.wait_for_url(f"{single_page}*")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    shot(page, "page-welcome")
    wait_until(lambda: works(site, token) == {401}, seconds=6)


def test_the_single_page_app_renews_an_id_token_that_ends(
    context: BrowserContext, single_page: str
) -> None:
    page = context.new_page()
    page.goto(single_page)
    sign_in(page, "ann")
    expect(page.locator(".card").first).to_be_visible()
    # An hour later both the gateway's token and the provider's have ended.
    page.clock.set_fixed_time(datetime.now(UTC) + timedelta(minutes=61))
    with (
        page.expect_request("**/auth?*prompt=none*"),
        page.expect_response("**/auth/token") as exchanged,
        page.expect_response("**/v1/energy?*") as energy,
    ):
        page.get_by_label("Month before").click()
    assert (exchanged.value.status, energy.value.status) == (200, 200)
    expect(page.locator("rect.bar").nth(27)).to_be_attached()
    assert page.url == single_page


def test_a_member_of_two_escos_chooses_in_the_single_page_app(
    context: BrowserContext, single_page: str
) -> None:
    page = context.new_page()
    page.goto(single_page)
    sign_in(page, "ben")
    expect(page.get_by_text("belong to several communities")).to_be_visible()
    for esco, serial in (("hmce", "HMCE0001"), ("wlce", "WLCE0001")):
        page.get_by_label("ESCO", exact=True).select_option(esco)
        expect(page.locator(".card small").first).to_have_text(serial)


def test_an_invitation_is_accepted_in_the_single_page_app(
    site: Stack, context: BrowserContext, single_page: str
) -> None:
    issuer = site.contract["identity"]["issuer"]
    who = ("--issuer", issuer, "--esco", "bfce", "--email", "ben@example.org")
    (invited,) = json.loads(flows(site, "member", "add", "Ben", *who, "--json").stdout)
    code = invited["invitation"]
    sent: list[Request] = []
    context.on("request", lambda request: sent.append(request))
    page = context.new_page()
    page.goto(f"{single_page}#invitation={code}")
    expect(page.locator("output")).to_have_text("You are invited: sign in to accept.")
    # The code is neither left in the address nor sent to anybody but the gateway.
    assert page.url == single_page
    sign_in(page, "ben")
    expect(page.locator(".card small").first).to_have_text("BFCE0001")
    told = [one.url for one in sent if code in one.url + (one.post_data or "")]
    assert told == [f"{site.contract['base_url']}/auth/token"]
    assert code not in page.evaluate("JSON.stringify({...sessionStorage})")
    # It is good once, and the person a member without it.
    page.goto(f"{single_page}#invitation={code}")
    page.reload()
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.locator("output")).to_contain_text("The invitation is not valid")
    flows(site, "member", "disable", invited["id"])


def test_a_resident_sees_its_home_and_nothing_else_in_the_single_page_app(
    context: BrowserContext, single_page: str
) -> None:
    page = context.new_page()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(single_page)
    sign_in(page, "rae")
    expect(page.locator("tbody tr td:first-child")).to_have_text(["Plot 3 heat", "Plot 3 power"])
    expect(page.locator(".card small")).to_have_text(["WLCE0003"])
    expect(page.get_by_role("heading", name="Your balance")).to_be_visible()
    with page.expect_response("**/v1/energy?*"):
        page.get_by_label("Month before").click()
    # A bar for each day at least: it lives there since the month before began.
    expect(page.locator("rect.bar").nth(27)).to_be_attached()
    expect(page.locator("figcaption")).not_to_contain_text("solar")
    shot(page, "page-resident")
    with page.expect_response("**/v1/energy?*"):
        page.get_by_label("Month before").click()
    expect(page.get_by_text("Nothing was measured in this month.")).to_be_visible()
    # Nothing of others is on the page, nor was any of it sent.
    data = [
        answer
        for answer in answers
        if answer.request.method == "GET" and re.search("/(rest/)?v1/", answer.url)
    ]
    assert {answer.status for answer in data} == {200}
    sent = "".join(answer.text() for answer in data)
    for text in (sent, page.content()):
        assert "WLCE0003" in text
        assert not re.search(r"WLCE(?!0003)\d|WLCEPV|Plot (?!3\b)\d|Solar", text)


@pytest.mark.parametrize("query", ["code=stolen&state=forged", "error=x&state=forged"])
def test_the_single_page_app_takes_no_sign_in_that_it_did_not_begin(
    context: BrowserContext, single_page: str, query: str
) -> None:
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{single_page}?{query}&redirect_uri={EVIL}")
    expect(page.locator("output")).to_contain_text("No matching state")
    assert page.url == single_page
    assert not [url for url in asked if "/token" in url]


def test_the_backend_keeps_tokens_and_gives_a_cookie(context: BrowserContext, backend: str) -> None:
    page = context.new_page()
    received: list[str] = []
    page.on("response", lambda answer: received.append(str(answer.all_headers())))
    page.goto(backend)
    page.get_by_role("link", name="Sign in").click()
    before = cookie_of(context, backend)
    page.locator("button[value=ann]").click()
    expect(page.locator("tr")).to_have_count(13)
    shot(page, "backend")
    cookie = cookie_of(context, backend)
    assert cookie["value"] != before["value"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert page.evaluate("document.cookie") == ""
    assert page.url == f"{backend}/"
    assert "eyJ" not in page.evaluate("fetch('/me').then((answer) => answer.text())")
    with httpx.Client(base_url=backend, cookies={"session": cookie["value"]}) as http:
        assert http.get("/api/v1/latest").status_code == 200
        for path in ("/api/admin/members", "/api/v1/../admin/members", "/api/v1/%2e%2e/admin",
                     "/api/https://evil.example", "/api//evil.example"):  # fmt: skip
            assert http.get(path).status_code == 404
        csrf = http.get("/me").json()["csrf"]
        # When the provider's token has ended, the page asks to sign in again.
        again = {"detail": "Sign in again."}
        page.route("**/api/v1/latest", lambda route: route.fulfill(status=401, json=again))
        page.reload()
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        page.unroute_all()
        # A request that another site has the browser send ends no session.
        for headers in ({}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": csrf, "Origin": EVIL}):
            assert http.post("/logout", headers=headers).status_code == 403
        assert http.get("/me").status_code == 200
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        assert http.get("/me").status_code == 401
        assert http.get("/api/v1/latest").status_code == 401
        # The cookie of a sign-in that is over opens nothing either.
        http.cookies.set("session", before["value"])
        assert http.get("/me").status_code == 401
    assert "eyJ" not in "".join(received)


def cookie_of(context: BrowserContext, url: str) -> dict[str, Any]:
    """Return the backend's cookie."""
    (cookie,) = (dict(one) for one in context.cookies(url) if one["name"] == "session")
    return cookie


def test_the_backend_signs_in_those_who_began_it_and_leads_nowhere_else(
    site: Stack, backend: str
) -> None:
    issuer = site.contract["identity"]["issuer"]
    with httpx.Client(base_url=backend) as http:
        forged = http.get("/callback", params={"code": "stolen", "state": "forged"})
        assert forged.status_code == 400
        begun = http.get("/login", params={"next": EVIL, "redirect_uri": EVIL})
        assert begun.status_code == 303
        location = begun.headers["location"]
        assert location.startswith(f"{issuer}/auth?")
        asked = parse_qs(urlsplit(location).query)
        assert (asked["redirect_uri"], asked["code_challenge_method"]) == (
            [f"{backend}/callback"], ["S256"],
        )  # fmt: skip
        forged = http.get("/callback", params={"code": "stolen", "state": "forged"})
        assert forged.status_code == 400
        # The sign-in that was begun is over with that.
        again = http.get("/callback", params={"code": "stolen", "state": asked["state"][0]})
        assert again.status_code == 400
        policy = http.get("/").headers["content-security-policy"]
        assert "unsafe" not in policy
