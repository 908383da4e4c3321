"""Cache of one document per kind of caller, rebuilt when its sources change.

The sources are PostgREST's Swagger and the role's rights in the catalogue. Both are read as the
role, on request and at most every `REFRESH_SECONDS`. If they cannot be read, the last document is
served.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import orjson
import psycopg
from psycopg_pool import PoolTimeout

from app.app_state import Services
from app.auth.tokens import OPERATOR, issue_own
from app.db.principal import RESIDENT, Principal
from app.errors import Unavailable
from app.http.compression import BEST
from app.openapi.document import Frame, build, only_tags
from app.openapi.facts import Facts, parse
from app.openapi.samples import Samples, read_samples, with_samples
from app.openapi.sharing import with_shared_parts

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
ASK_SECONDS = 3.0
# The documents kept that are made of another: of some tags, or with a caller's samples.
DERIVED_DOCUMENTS = 32
SAMPLES_SECONDS = 60.0
SAMPLES_KEPT = 1000
PUBLIC_ROLE = "public_backend"
# Operators have no role in the database, so their document contains the gateway's routes alone.
NO_SWAGGER = b'{"definitions": {}, "paths": {}}'
NO_CATALOGUE: Mapping[str, Any] = {"relations": {}, "functions": {}}


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is sent, and its ETag; `stale` if its sources could not be read again."""

    body: bytes
    etag: str
    stale: bool = False
    _encoded: dict[str, bytes] = field(default_factory=dict)

    async def encoded(self, coding: str | None) -> bytes:
        """Return the body in a content coding; each is made once, when it is first asked for."""
        if coding is None:
            return self.body
        if coding not in self._encoded:
            self._encoded[coding] = await asyncio.to_thread(BEST[coding], self.body)
        return self._encoded[coding]


@dataclass(slots=True)
class _Slot:
    """The document of one kind of caller, its sources, and the time they were last read."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: float = float("-inf")
    sources: str = ""
    document: Document | None = None


class Documents:
    """The documents of one gateway process, by role and scopes."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._slots: dict[tuple[str, frozenset[str]], _Slot] = {}
        # The documents made of another one, by its ETag and how they differ; the oldest first.
        self._derived: dict[tuple[str, frozenset[str] | Samples], Document] = {}
        self._deriving = asyncio.Lock()
        # By ESCO or resident, with the time until which they are kept; the oldest first.
        self._samples: dict[str, tuple[float, Samples]] = {}

    async def get(self, services: Services, role: str, scopes: frozenset[str]) -> Document:
        """Return the document; Unavailable if there is none yet and it cannot be built now.

        One request at a time reads the sources again; others get the present document meanwhile.
        """
        slot = self._slots.setdefault((role, scopes), _Slot())
        if slot.document is None or not slot.lock.locked():
            async with slot.lock:
                if time.monotonic() - slot.asked >= REFRESH_SECONDS:
                    await self._refresh(services, slot, role, scopes)
                    slot.asked = time.monotonic()
        if slot.document is None:
            raise Unavailable("The description of the API is not available right now.")
        return slot.document

    async def get_small(self, whole: Document, tags: frozenset[str]) -> Document:
        """Return the document with the operations of some tags alone."""
        return await self._derive(whole, tags, lambda content: only_tags(content, tags))

    async def get_sampled(
        self, services: Services, document: Document, caller: Principal | None
    ) -> Document:
        """Return the document as it is sent, with samples of what exists for the caller."""
        owner = ""
        if caller:
            owner = caller.subject if caller.role == RESIDENT else caller.tenant
        until, samples = self._samples.get(owner, (float("-inf"), None))
        if samples is None or time.monotonic() >= until:
            samples = await read_samples(services.pool, caller)
            self._samples.pop(owner, None)
            self._samples[owner] = (time.monotonic() + SAMPLES_SECONDS, samples)
            if len(self._samples) > SAMPLES_KEPT:
                del self._samples[next(iter(self._samples))]
        return await self._derive(
            document, samples, lambda content: with_shared_parts(with_samples(content, samples))
        )

    async def _derive(
        self,
        document: Document,
        difference: frozenset[str] | Samples,
        change: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Document:
        key = (document.etag, difference)
        if (derived := self._derived.get(key)) is None:
            # One at a time: many threads together would keep the event loop from its own work.
            async with self._deriving:
                if (derived := self._derived.get(key)) is None:
                    derived = await asyncio.to_thread(
                        lambda: _document(change(orjson.loads(document.body)))
                    )
                    self._derived[key] = derived
                    if len(self._derived) > DERIVED_DOCUMENTS:
                        del self._derived[next(iter(self._derived))]
        return replace(derived, stale=document.stale)

    async def _refresh(
        self, services: Services, slot: _Slot, role: str, scopes: frozenset[str]
    ) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                described, swagger = (
                    (NO_CATALOGUE, NO_SWAGGER)
                    if role == OPERATOR
                    else await asyncio.gather(
                        _read_catalogue(services, role), _read_swagger(services, role)
                    )
                )
        except (psycopg.Error, PoolTimeout, httpx.HTTPError, TimeoutError) as error:
            logger.warning("the API's description is stale: %r", error)
            if slot.document:
                slot.document = replace(slot.document, stale=True)
            return
        digest = hashlib.sha256(swagger + orjson.dumps(described, option=orjson.OPT_SORT_KEYS))
        if slot.document and slot.sources == digest.hexdigest():
            slot.document = replace(slot.document, stale=False)
            return
        facts = parse(described)
        slot.document = await asyncio.to_thread(_render, self.frame, swagger, facts, scopes)
        slot.sources = digest.hexdigest()


def _document(content: dict[str, Any]) -> Document:
    body = orjson.dumps(content)
    return Document(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _render(frame: Frame, swagger: bytes, facts: Facts, scopes: frozenset[str]) -> Document:
    return _document(build(frame, orjson.loads(swagger), facts, scopes))


async def _read_catalogue(services: Services, role: str) -> Mapping[str, Any]:
    async with services.pool.connection() as connection, connection.transaction():
        await connection.execute("set transaction read only")
        await connection.execute("select set_config('role', %s, true)", (role,))
        cursor = await connection.execute("select gateway.describe_api() as api")
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (the query returns exactly one row)
    described: Mapping[str, Any] = row["api"]
    return described


async def _read_swagger(services: Services, role: str) -> bytes:
    """Fetch PostgREST's Swagger as the role, with a token that is used for nothing else."""
    token = issue_own(services.keys.current(), services.settings.base_url, role)
    *others, last = services.postgrests
    for client in others:
        with suppress(httpx.HTTPError):
            return await _get_swagger(client, token)
    return await _get_swagger(last, token)


async def _get_swagger(client: httpx.AsyncClient, token: str) -> bytes:
    answer = await client.get("/", headers={"Authorization": f"Bearer {token}"})
    return answer.raise_for_status().content
