"""`/docs/guide`: the documentation site, if `make docs` has built it."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount
from starlette.types import Scope

from app.http.files import CompressedFiles

SITE = Path(__file__).resolve().parents[2] / "site"
INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Guide(CompressedFiles):
    """The site's files; a page may run only the scripts that it was built with."""

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        super().__init__(directory=folder, html=True)
        pages = folder.rglob("*.html")
        scripts = {script for page in pages for script in INLINE.findall(page.read_text())}
        hashes = " ".join(sorted(f"'sha256-{_digest(text)}'" for text in scripts))
        policy = headers["Content-Security-Policy"] + f"; script-src 'self' {hashes}"
        self._headers = headers | {"Content-Security-Policy": policy}

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file with the security headers added; 404 as on every other path."""
        response = await super().get_response(path, scope)
        if response.status_code == 404:
            # The site's own 404 page loads its styles from the root, where they are not.
            raise HTTPException(404)
        response.headers.update(self._headers)
        return response


def install(app: FastAPI, headers: dict[str, str], folder: Path = SITE) -> None:
    """Add `/docs/guide`, with `headers` on each file, or a page that says how to build it."""

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
