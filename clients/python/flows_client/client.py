"""The client: reports of /v1, tables of /rest/v1."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import httpx

from flows_client.auth import ClientCredentials
from flows_client.errors import checked
from flows_client.types import Balance, Completeness, EnergyRow, Latest, Peak, Profile

RETRIED = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})
MOST_RETRIES = 4
LONGEST_WAIT = 60.0
READ = frozenset({"GET", "HEAD"})


class Flows:
    """The API at `url`, as the client `client_id`; a context manager that closes its connections.

    Times are ISO 8601 texts with an offset, or dates; energy is in kWh.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        *,
        scope: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        auth = ClientCredentials(url, client_id, client_secret, scope=scope)
        self.http = httpx.Client(base_url=url, auth=auth, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def energy(self, of: str | None = None, **asked: Any) -> Iterator[EnergyRow]:
        """Yield energy by interval and group, page after page.

        `of` names a part of the ESCO: "meters/SERIAL", "circuits/ID", "properties/ID" or
        "sites/CODE".
        """
        cursor: str | None = None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = self._report("energy", of, asked | more)
            yield from cast("list[EnergyRow]", page["rows"])
            cursor = page.get("next")
            if cursor is None:
                return

    def balance(self, of: str | None = None, **asked: Any) -> Balance:
        """Return generation, consumption and what of it was used on site."""
        return cast("Balance", self._report("balance", of, asked))

    def profile(self, of: str | None = None, **asked: Any) -> Profile:
        """Return the average day."""
        return cast("Profile", self._report("profile", of, asked))

    def peak(self, of: str | None = None, **asked: Any) -> Peak:
        """Return the highest half-hours."""
        return cast("Peak", self._report("peak", of, asked))

    def completeness(self, of: str | None = None, **asked: Any) -> Completeness:
        """Return which half-hours are there, and which are missing."""
        return cast("Completeness", self._report("completeness", of, asked))

    def latest(self, of: str | None = None, **asked: Any) -> Latest:
        """Return the newest that is known of each meter."""
        return cast("Latest", self._report("latest", of, asked))

    def rows(
        self, relation: str, *, order: str, page: int = 1000, **filters: str
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table or view, page after page.

        `order` names columns that tell rows apart, or pages would overlap; filters are PostgREST's,
        such as serial="eq.WLCE0001". The shape of a row has the relation's name in
        `flows_client.types`.
        """
        begin = 0
        while True:
            asked = filters | {"order": order, "limit": str(page), "offset": str(begin)}
            found = self._ask("GET", f"/rest/v1/{relation}", params=asked).json()
            yield from found
            if len(found) < page:
                return
            begin += page

    def insert(
        self,
        relation: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        on_conflict: str | None = None,
    ) -> None:
        """Insert rows, all or none; with `on_conflict` those that are there take the new values."""
        headers = {"Prefer": "return=minimal"}
        params = {}
        if on_conflict is not None:
            headers["Prefer"] += ",resolution=merge-duplicates"
            params["on_conflict"] = on_conflict
        self._ask("POST", f"/rest/v1/{relation}", json=list(rows), headers=headers, params=params)

    def _report(self, name: str, of: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/v1/{of}/{name}" if of else f"/v1/{name}"
        answer: dict[str, Any] = self._ask("GET", path, params=dict(asked)).json()
        return answer

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        for attempt in range(MOST_RETRIES + 1):
            answer = self.http.request(method, path, **more)
            # A write that was refused before it began may be sent again as well: 429 is never late.
            again = answer.status_code in RETRIED and (
                method in READ or answer.status_code == httpx.codes.TOO_MANY_REQUESTS
            )
            if not again or attempt == MOST_RETRIES:
                return checked(answer)
            time.sleep(min(float(answer.headers.get("retry-after", 2**attempt)), LONGEST_WAIT))
        raise AssertionError("unreachable")
