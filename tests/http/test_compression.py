"""Responses are compressed as the client accepts, from 1 KB on, and say so."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import brotli  # type: ignore[import-untyped]
import httpx
import pytest
import zstandard

from app.http.compression import CODINGS, Compression, negotiate_coding
from app.request_state import begin_request
from tests.conftest import Stack

PLAIN = "identity"
ROWS = "/rest/v1/register_interval_hh?limit=1000&order=timestamp,register_id"
TARGETS = ("/openapi.json", ROWS, "/docs/assets/swagger-ui-bundle.js", "/metrics")
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    "br": brotli.decompress,
    "gzip": gzip.decompress,
}


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ([], None), (["gzip"], "gzip"), (["gzip, deflate, br, zstd"], "zstd"), (["br, gzip"], "br"),
        (["gzip", "br"], "br"), (["gzip;q=1, br;q=0.5"], "gzip"), (["*"], "zstd"),
        (["*;q=0"], None), (["gzip;q=0"], None), (["identity"], None), (["deflate"], None),
        (["zstd;q=0, *"], "br"), (["GZIP"], "gzip"), (["gzip;q=0.5, identity"], None),
        (["gzip;q=x"], None), (["gzip ; q=0.1"], "gzip"), ([""], None), (["x,,;q=1"], None),
    ],
)  # fmt: skip
def test_the_coding_is_the_one_that_the_client_likes_most(
    accepted: list[str], coding: str | None
) -> None:
    headers = [(b"accept-encoding", value.encode()) for value in accepted]
    assert negotiate_coding([(b"host", b"x"), *headers]) == coding


def respond(
    pieces: list[bytes], *, status: int = 200, asked: str = "gzip", path: str = "/x",
    method: str = "GET", **headers: str,
) -> tuple[dict[str, str], list[bytes]]:  # fmt: skip
    """Return the headers and the pieces that a client gets of an application's response."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        pairs = [(name.replace("_", "-").encode(), value.encode())
                 for name, value in headers.items()]  # fmt: skip
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece,
                        "more_body": number < len(pieces)})  # fmt: skip

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": method, "path": path,
             "headers": [(b"accept-encoding", asked.encode())]}  # fmt: skip
    begin_request(scope, "id")
    asyncio.run(Compression(app)(scope, None, send))  # type: ignore[arg-type]
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return found, [message["body"] for message in sent[1:]]


JSON: dict[str, Any] = {"content_type": "application/json"}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cut", [1, 3, 40])
def test_pieces_arrive_as_they_are_sent_and_make_the_whole(coding: str, cut: int) -> None:
    whole = json.dumps([{"row": number} for number in range(3000)]).encode()
    size = -(-len(whole) // cut)
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    headers, sent = respond(pieces, asked=coding, etag='"a"', **JSON)
    assert headers["content-encoding"] == coding
    assert headers["etag"] == f'"a-{coding}"'
    assert DECODERS[coding](b"".join(sent)) == whole
    assert len(b"".join(sent)) < len(whole) / 3
    assert len(sent) == cut
    if cut == 1:
        assert headers["content-length"] == str(len(sent[0]))
        return
    assert "content-length" not in headers
    if coding == "gzip":  # each piece can be read before the next is sent
        reader = zlib.decompressobj(31)
        for piece, compressed in zip(pieces[:-1], sent[:-1], strict=True):
            assert reader.decompress(compressed) == piece


def test_a_stream_is_compressed_whatever_its_size_and_its_head_says_so() -> None:
    headers, sent = respond([b"x" * 100] * 3, etag='"a"', **JSON)
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(b"".join(sent)) == b"x" * 300
    assert respond([b""], method="HEAD", etag='"a"', **JSON) == (headers, [b""])
    small: dict[str, Any] = {"etag": '"a"', "content_length": "300"}
    assert "content-encoding" not in respond([b""], method="HEAD", **small, **JSON)[0]
    assert "content-encoding" not in respond([b""], method="HEAD", **JSON)[0]


BIG = [b"x" * 5000]


@pytest.mark.parametrize(
    "response",
    [
        {"pieces": [b"x" * 1023], **JSON},
        {"pieces": BIG, "content_type": "image/png"},
        {"pieces": BIG, "content_type": "application/octet-stream"},
        {"pieces": BIG},
        {"pieces": BIG, "content_encoding": "br", **JSON},
        {"pieces": BIG, "cache_control": "private, no-transform", **JSON},
        {"pieces": BIG, "content_range": "bytes 0-9/10", "status": 206, **JSON},
        {"pieces": [b""], "status": 204, **JSON},
        {"pieces": BIG, "path": "/auth/token", **JSON},
        {"pieces": BIG, "path": "/admin/clients", **JSON},
        {"pieces": BIG, "asked": "deflate", **JSON},
    ],
)
def test_what_is_small_secret_or_compressed_already_stays_as_it_is(
    response: dict[str, Any],
) -> None:
    headers, sent = respond(**response)
    assert sent == response["pieces"]
    assert headers.get("content-encoding") == response.get("content_encoding")


def get(client: httpx.Client, target: str, coding: str, **headers: str) -> httpx.Response:
    """Send GET with one accepted coding; the body is left as it came."""
    request = client.build_request("GET", target, headers={"Accept-Encoding": coding} | headers)
    answer = client.send(request, stream=True)
    body = b"".join(answer.iter_raw())
    answer.close()
    return httpx.Response(answer.status_code, headers=[
        pair for pair in answer.headers.multi_items() if pair[0] != "content-encoding"
    ] + [("x-coding", answer.headers.get("content-encoding", ""))], content=body)  # fmt: skip


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    """A client with wlce's read token."""
    with stack.client("wlce") as found:
        yield found


@pytest.mark.parametrize("coding", CODINGS)
def test_every_door_answers_in_every_coding(
    stack: Stack, client: httpx.Client, coding: str
) -> None:
    energy = "/v1/energy?" + str(httpx.QueryParams(stack.period(7, 0) | {"granularity": "PT30M"}))
    for target in ("/openapi.json", "/docs/assets/swagger-ui-bundle.js", "/docs", ROWS, energy):
        plain, packed = get(client, target, PLAIN), get(client, target, coding)
        assert plain.headers["x-coding"] == ""
        for answer in (plain, packed):
            assert "accept-encoding" in answer.headers["vary"].lower(), target
        if target == "/docs":  # 875 bytes
            assert packed.content == plain.content
            continue
        assert packed.headers["x-coding"] == coding, target
        assert DECODERS[coding](packed.content) == plain.content, target
        assert len(packed.content) < len(plain.content) / 3, target
        if tag := plain.headers.get("etag"):
            assert packed.headers["etag"] == f'{tag[:-1]}-{coding}"'
            stored = {"If-None-Match": packed.headers["etag"]}
            again = get(client, target, coding, **stored)
            assert (again.status_code, again.content) == (304, b""), target
            assert again.headers["etag"] == packed.headers["etag"]
            # The other form is another representation.
            assert get(client, target, PLAIN, **stored).status_code == 200
            assert get(client, target, PLAIN, **{"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize("kind", ["read", "write"])
def test_the_document_is_small(stack: Stack, kind: str) -> None:
    with stack.client("wlce", kind) as caller:
        sizes = {coding: len(get(caller, "/openapi.json", coding).content) for coding in CODINGS}
    assert max(sizes.values()) < 60_000, sizes
