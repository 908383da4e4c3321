"""The most rows of an answer of `/rest/v1`, which PostgREST and PostgreSQL hold whole in memory.

An answer cut to a number of rows would look complete, so one row more is asked for: if it comes,
the request is refused. PostgREST intersects the Range that asks for them with `limit` and `offset`.
A function that is called by POST is asked by `limit`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from urllib.parse import unquote_plus

from app.errors import CostlyFilterError, TooManyRowsError
from app.postgrest.select import Embedded, embedded

# Each row repeats what is embedded in it, which may be long texts. Supabase's default for all.
MOST_EMBEDDING = 1_000
# Series whose rows refer to a meter or a register, so that they can be embedded there.
SERIES = frozenset({
    "meter_3p_voltage", "meter_csq", "meter_event_log", "meter_health_history",
    "meter_prepay_balance", "meter_voltage", "register_export", "register_export_missing",
    "register_import", "register_import_missing", "register_interval_hh",
    "register_interval_hh_missing",
})  # fmt: skip
# Series with a text in each row, which may have 2,000 characters. Of configuration, long rows are
# few (sql/objects/057_bounds.sql).
MOST_OF = {"meter_health_history": 10_000}
# Relation → those that its rows belong to, one each.
PARENTS = {
    "circuit_register": {"circuits", "meter_registers"}, "circuits": {"sites_new"},
    "escos": {"regions"}, "ev_chargers": {"escos"}, "feeder_registry": {"escos"},
    "meter_registers": {"meter_registry"}, "meter_registry": {"escos"},
    "meter_tophat_registry": {"meter_registry"}, "properties": {"sites_new"},
    "properties_service_head": {"properties", "service_head_registry"},
    "service_head_meter": {"meter_registry", "service_head_registry"},
    "service_head_registry": {"feeder_registry"}, "sites_new": {"escos"},
} | {
    series: {"meter_registers" if series.startswith("register_") else "meter_registry"}
    for series in SERIES
}  # fmt: skip
# Relations with a row to which many belong, so that what is embedded in it comes again with each of
# them: all sites of an ESCO with each of its meters. A meter or a service head has few of anything.
WIDE = frozenset({"escos", "feeder_registry", "regions", "sites_new"})
# Functions that return the newest rows of a series (sql/objects/084_newest.sql).
NEWEST = re.compile("newest_(?:own_)?")
PARAMETER_ENDS = re.compile("[&;]")
# No longer numbers, beyond which PostgreSQL refuses an offset.
ROW_RANGE = re.compile("([0-9]{1,18})-([0-9]*)")
BEYOND = re.compile("[0-9]{19,}-[0-9]*")
ROWS_SENT = re.compile(rb"([0-9]+)-([0-9]+)/")


def limit_rows(query: bytes, headers: dict[str, str], most: int, relation: str = "") -> int:
    """Return the most rows that the answer to a GET may have; set a Range for them and one more.

    CostlyFilterError for what is embedded without a limit that it needs.
    """
    parameters = _parameters(query)
    most = _most_rows(parameters, most, relation)
    offset, limit = _number(parameters, "offset") or 0, _number(parameters, "limit")
    if "range" not in headers and limit is not None and limit <= most:
        return most
    first, last = offset, offset + most
    if given := ROW_RANGE.fullmatch(headers.get("range", "")):
        first = max(first, int(given[1]))
        if given[2] and len(given[2]) <= 18:
            last = min(first + most, int(given[2]))
        else:
            last = first + most
    if first <= last and not BEYOND.fullmatch(headers.get("range", "")):
        headers |= {"range-unit": "items", "range": f"{first}-{last}"}
    return most


def limit_call(target: str, query: bytes, most: int, function: str) -> tuple[int, str]:
    """Return the most rows that a function called by POST may return, and the target that asks.

    PostgREST takes a Range of a GET alone, and of several limits the last.
    """
    parameters = _parameters(query)
    most = _most_rows(parameters, most, function)
    limit = _number(parameters, "limit")
    if limit is not None and limit <= most:
        return most, target
    return most, f"{target}{'&' if query else '?'}limit={most + 1}"


def check_returned(query: bytes, relation: str) -> None:
    """Refuse to embed what may be many rows in each of those that a write returns, however many."""
    select = _parameters(query).get("select", "")
    if "(" not in select:
        return
    if relation in SERIES:
        raise CostlyFilterError("What a write of a series returns can embed nothing; read it again")
    for path in embedded(select):
        if path[-1].relation in SERIES or _comes_again(relation, path):
            raise CostlyFilterError(
                f"What a write returns cannot embed {path[-1].relation}; read it again"
            )


def may_multiply(query: bytes) -> bool:
    """Return whether a query embeds relations in embedded ones.

    A meter has few service heads, and they few properties; but a caller may link each to each.
    """
    select = _parameters(query).get("select", "")
    return "(" in select and any(len(path) > 1 for path in embedded(select))


def check_rows(headers: list[tuple[bytes, bytes]], most: int) -> None:
    """Raise TooManyRowsError if the answer with these headers has more rows."""
    for name, value in headers:
        rows = ROWS_SENT.match(value) if name == b"content-range" else None
        if rows and int(rows[2]) - int(rows[1]) >= most:
            raise TooManyRowsError(most)


@lru_cache(maxsize=256)  # of clients that ask the same again and again
def _parameters(query: bytes) -> Mapping[str, str]:
    """Return the parameters of a query; of what comes twice, the most that it may mean."""
    found: dict[str, str] = {}
    for pair in PARAMETER_ENDS.split(query.decode("latin-1")):
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair:
            name, value = unquote_plus(name), unquote_plus(value)
        if name in found and name.endswith("limit"):
            value = max(found[name], value, key=lambda number: (len(number), number))
        elif name in found and name == "offset":
            value = "0"
        elif name in found and name == "select":
            value = f"{found[name]},{value}"
        found[name] = value
    return found


def _number(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= 30 else None


def _names_one(parameters: Mapping[str, str]) -> bool:
    """Return whether the rows are one meter's, with no more of series than it has."""
    return any(parameters.get(key, "").startswith("eq.") for key in ("meter_id", "register_id"))


def _most_rows(parameters: Mapping[str, str], most: int, relation: str) -> int:
    """Return how many of `most` rows an answer may have, by what each of them may hold."""
    relation = NEWEST.sub("", relation, count=1)
    most = min(most, MOST_OF.get(relation, most))
    select = parameters.get("select", "")
    if "(" in select:
        rows = _rows_of_each(select, parameters, relation)
        most = min(most, MOST_EMBEDDING, most // rows)
        if most == 0:
            raise CostlyFilterError("More rows may be embedded than an answer may have")
    return most


def _comes_again(relation: str, path: Sequence[Embedded]) -> bool:
    """Return whether an embedded relation's rows come again with many of a selected one's.

    They do in what many of those belong to, and where the path leads back to a relation; of
    shadows, a meter has one.
    """
    held = [relation, *(step.relation for step in path)]
    if held[-1] == "meter_shadows" or held[-1] in PARENTS.get(held[-2], ()):
        return False
    return held[-1] in held[:-1] or any(
        inner in WIDE and inner in PARENTS.get(outer, ()) for outer, inner in pairwise(held[:-1])
    )


def _rows_of_each(select: str, parameters: Mapping[str, str], relation: str) -> int:
    """Return the most rows that a selected row may hold of series and of what comes again.

    Itself is counted among them, so it is at least 1.
    """
    rows = 0
    paths = list(embedded(select))
    called = Counter(
        (path[:-1], name) for path in paths for name in {path[-1].relation, path[-1].name}
    )
    for path in paths:
        if path[-1].relation not in SERIES and not _comes_again(relation, path):
            continue
        if len(path) == 1 and _names_one(parameters):
            continue
        names = [".".join(step.name for step in path[: depth + 1]) for depth in range(len(path))]
        for depth, step in enumerate(path):
            # PostgREST would limit only one of them.
            if called[path[:depth], step.name] > 1:
                raise CostlyFilterError(f"Two embedded relations are called {step.name}")
        product = 1
        for name in names:
            limit = _number(parameters, f"{name}.limit")
            if limit is None:
                raise CostlyFilterError(
                    f"{path[-1].relation} would come whole with each row: limit it,"
                    f" {names[-1]}.limit=48, and each relation that is embedded around it"
                )
            product *= limit
        rows += product
    return max(1, rows)
