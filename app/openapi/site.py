"""`/docs/guide`: the documentation site, where `make docs` has built it."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

SITE = Path(__file__).resolve().parents[2] / "site"
INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Guide(StaticFiles):
    """The site's files; a page may run the scripts that it was built with, and no others."""

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        super().__init__(directory=folder, html=True)
        pages = folder.rglob("*.html")
        scripts = {script for page in pages for script in INLINE.findall(page.read_text())}
        hashes = " ".join(sorted(f"'sha256-{_digest(text)}'" for text in scripts))
        policy = headers["Content-Security-Policy"] + f"; script-src 'self' {hashes}"
        self._headers = headers | {"Content-Security-Policy": policy}

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file; 404 where there is none, as on every other path."""
        response = await super().get_response(path, scope)
        if response.status_code == 404:
            raise HTTPException(404)  # the site's own page for it looks for its styles at the root
        response.headers.update(self._headers)
        return response


def install(app: FastAPI, headers: dict[str, str], folder: Path = SITE) -> None:
    """Add `/docs/guide`, with `headers` on each file; without the site it says how to build it."""

    @app.get("/docs/guide", include_in_schema=False)
    async def guide() -> Response:
        return RedirectResponse("/docs/guide/")

    if folder.is_dir():
        app.router.routes.append(Mount("/docs/guide", app=Guide(folder, headers)))
        return

    @app.get("/docs/guide/", include_in_schema=False)
    async def unbuilt() -> Response:
        text = "The guide is not built here: run `make docs`, then start the gateway again.\n"
        return PlainTextResponse(text, status_code=404)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
