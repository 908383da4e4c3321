"""The documentation site builds without warnings or dead links, and the gateway serves it."""

import asyncio
import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from app.openapi import site as guide
from app.openapi.routes import PAGE_HEADERS

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The links, loaded resources and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the links, resources and anchors of a tag."""
        values = dict(attrs)
        self.anchors |= {value for key, value in attrs if key in ("id", "name") and value}
        if tag == "a" and (href := values.get("href")):
            self.links.append(href)
        if tag in ("script", "img", "iframe", "source") and (source := values.get("src")):
            self.loads.append(source)
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(values.get("href") or "")


def get(app: FastAPI, path: str) -> httpx.Response:
    """Return the application's response to a GET."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built like `make docs`: a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Return file → parsed page, for all pages of the site."""
    return {file: Page(file.read_text()) for file in site.rglob("*.html")}


def test_no_link_and_no_anchor_is_dead(site: Path, pages: dict[Path, Page]) -> None:
    dead = []
    for file, page in pages.items():
        if file.name == "404.html":
            continue  # its links begin at the root of a host
        for link in page.links:
            address, anchor = urldefrag(link)
            if urlsplit(link).scheme:
                continue
            target = (file.parent / unquote(address)).resolve() if address else file
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (anchor and unquote(anchor) not in known):
                dead.append(f"{file.relative_to(site)}: {link}")
    assert len(pages) > 20
    assert dead == []


def test_a_page_loads_nothing_from_another_origin(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {address for page in pages.values() for address in page.loads}
    assert loaded
    assert not [address for address in loaded if urlsplit(address).netloc]
    styles = [file.read_text() for file in site.rglob("*.css")]
    assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", "".join(styles))


def test_diagrams_are_drawn_while_the_site_is_built(site: Path) -> None:
    page = (site / "reference" / "schema" / "index.html").read_text()
    assert page.count('<div class="diagram"><svg') == 2


def test_the_gateway_serves_the_site_and_lets_only_its_own_scripts_run(site: Path) -> None:
    app = FastAPI()
    guide.install(app, PAGE_HEADERS, site)
    assert get(app, "/docs/guide").headers["location"] == "/docs/guide/"
    page = get(app, "/docs/guide/how-to/tokens/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    for script in re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "script-src 'self' 'sha256-" in policy
    assert get(app, "/docs/guide/nowhere/").status_code == 404
    assert get(app, "/docs/guide/%2e%2e/pyproject.toml").status_code == 404


def test_without_a_site_the_gateway_says_how_to_build_it(tmp_path: Path) -> None:
    app = FastAPI()
    guide.install(app, PAGE_HEADERS, tmp_path / "nothing")
    answer = get(app, "/docs/guide/")
    assert answer.status_code == 404
    assert "make docs" in answer.text
