"""Conversion of a caller's request for PostgREST: raw path, allowed headers and preferences."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote, unquote_plus, unquote_to_bytes

from starlette.types import Scope

from app.errors import (
    BadRequest,
    EstimateError,
    LimitedWriteError,
    MethodNotAllowed,
    PlanError,
    PreferenceError,
    SchemaError,
)
from app.postgrest.costly import check_cost
from app.postgrest.row_limit import check_returned

PREFIX = b"/rest/v1"
ALLOWED_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
FORWARDED_HEADERS = frozenset(
    b"accept content-length content-type range range-unit if-none-match".split()
)
# Supabase's clients name the schema `public` unless they are told another.
PROFILES: Mapping[bytes, str] = {b"flows": "api", b"public": "api", b"api": "api"}
# Dot and empty segments, encoded slashes and dots, parameters, backslashes, control characters.
HOSTILE_PATH = re.compile(rb"//|/\.\.?(/|$)|%2e|%2f|%5c|%25|%00|[;\\\x00-\x20]", re.IGNORECASE)
BEYOND_ASCII = re.compile(rb"%[89a-f]", re.IGNORECASE)
# The preferences of PostgREST 12 to 16, which pass as they are written: a version that does not
# know one refuses the request before it writes if `handling=strict` is set, and else ignores it.
PREFERENCE = re.compile(
    r"return=(representation|minimal|headers-only)|count=(exact|none)"
    r"|resolution=(merge-duplicates|ignore-duplicates)|missing=(default|null)|params=single-object"
    r"|handling=(strict|lenient)|timezone=[A-Za-z0-9_+/:.-]+|max-affected=-?[0-9]+"
    r"|tx=(commit|rollback)"
)
READS = frozenset({"GET", "HEAD", "OPTIONS"})
LIMITED_WRITES = frozenset({"PATCH", "DELETE"})
# PostgREST splits a query at both.
SEPARATORS = re.compile(rb"[&;]")
ESTIMATE = re.compile(r"count\s*=\s*(planned|estimated)", re.IGNORECASE)


def build_upstream_request(
    scope: Scope, profiles: Mapping[bytes, str] = PROFILES
) -> tuple[str, dict[str, str]]:
    """Return the path with query, and the headers to send.

    `profiles` are the names that a caller may give a schema, and the schemas. RestError or
    BadRequest if the request is not allowed.
    """
    if scope["method"] not in ALLOWED_METHODS:
        raise MethodNotAllowed(allowed=", ".join(sorted(ALLOWED_METHODS)))
    path: bytes = scope["raw_path"].split(b"?", 1)[0].removeprefix(PREFIX)
    if not path.startswith(b"/") or HOSTILE_PATH.search(path):
        raise BadRequest("The path contains characters that no relation or function has.")
    headers: dict[str, str] = {}
    preferences: list[str] = []
    for name, value in scope["headers"]:
        if name in FORWARDED_HEADERS:
            # Repeated headers are joined into one list (RFC 9110 §5.3).
            known = headers.get(name.decode())
            text = value.decode("latin-1")
            headers[name.decode()] = f"{known}, {text}" if known else text
        elif name == b"prefer":
            preferences.append(value.decode("latin-1"))
        elif name in (b"accept-profile", b"content-profile"):
            if value not in profiles:
                raise SchemaError()
            headers[name.decode()] = profiles[value]
    if preferences:
        headers["prefer"] = allowed_preferences(", ".join(preferences))
    if "vnd.pgrst.plan" in headers.get("accept", "").lower():
        raise PlanError()
    target = path.decode("latin-1")
    if query := scope["query_string"]:
        if BEYOND_ASCII.search(query):
            _require_utf8(query)
        relation = name_of(target)
        check_cost(query, relation)
        if scope["method"] not in READS and not is_call(target):
            check_returned(query, relation)
        if scope["method"] in LIMITED_WRITES:
            _require_no_limit(query)
        target += "?" + query.decode("latin-1")
    return target, headers


def name_of(target: str) -> str:
    """Return the name of the relation or function of a target."""
    return unquote(target.partition("?")[0].rpartition("/")[2])


def is_call(target: str) -> bool:
    """Return whether a target is that of a function."""
    return target.startswith("/rpc/")


@lru_cache(maxsize=256)
def allowed_preferences(prefer: str) -> str:
    """Return only the known preferences.

    RestError for estimated counts, and with handling=strict for any unknown preference.
    """
    if ESTIMATE.search(prefer):
        raise EstimateError()
    asked = [word.strip() for word in prefer.split(",") if word.strip()]
    known = [word for word in asked if PREFERENCE.fullmatch(word)]
    handling = next((word for word in known if word.startswith("handling=")), None)
    if handling == "handling=strict" and len(known) < len(asked):
        unknown = ", ".join(word for word in asked if word not in known)
        raise PreferenceError(f"Invalid preferences: {unknown}")
    return ", ".join(known)


def _require_utf8(query: bytes) -> None:
    """Raise BadRequest for a query whose escapes are not UTF-8, for which PostgREST answers 500."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise BadRequest("The query is not UTF-8.") from None


def _require_no_limit(query: bytes) -> None:
    """Raise LimitedWriteError for a query that limits the rows to change, not those embedded."""
    for pair in SEPARATORS.split(query):
        if unquote_plus(pair.partition(b"=")[0].decode("latin-1")) in ("limit", "offset"):
            raise LimitedWriteError()
