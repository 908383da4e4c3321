"""Static files, each compressed once for every coding that a client accepts."""

import asyncio
import os
from typing import Any

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.http.compression import BEST, SMALLEST_BYTES, compressible, negotiate_coding, tagged


class CompressedFiles(StaticFiles):
    """Files of a folder or of packages; compressed forms stay in memory."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compressed: dict[tuple[str, float, str], bytes] = {}

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return a file; one that can be compressed says that it depends on Accept-Encoding."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        kind = response.headers.get("content-type", "").encode()
        if compressible(kind) or response.status_code == 304:
            response.headers.add_vary_header("Accept-Encoding")
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, compressed if the client accepts it and the file is worth it."""
        response = await super().get_response(path, scope)
        coding = negotiate_coding(scope["headers"])
        if coding is None or not isinstance(response, FileResponse) or response.status_code != 200:
            return response
        kind = response.headers.get("content-type", "")
        status = await asyncio.to_thread(os.stat, response.path)
        if status.st_size < SMALLEST_BYTES or not compressible(kind.encode()):
            return response
        key = (str(response.path), status.st_mtime, coding)
        if key not in self._compressed:
            self._compressed[key] = await asyncio.to_thread(_compress, response.path, coding)
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "content-type", "etag", "accept-ranges")
        }
        headers["content-encoding"] = coding
        headers["etag"] = tagged(response.headers["etag"].encode(), coding).decode()
        return Response(self._compressed[key], headers=headers, media_type=kind)


def _compress(path: str | os.PathLike[str], coding: str) -> bytes:
    with open(path, "rb") as file:
        return BEST[coding](file.read())
