"""Names in the document: of schemas and operations, and the tags that group operations."""

import re

# The first pattern that matches decides.
DOMAINS = (
    ("energy", r"^circuit_interval_"),
    ("tariffs", r"tariff|balance|prepay"),
    ("readings", r"^register_|interval_hh|_(voltage|csq|history|log)$"),
    ("meters", r"^meters?_|^get_meters|^ev_chargers$"),
    ("infrastructure", r""),
)  # fmt: skip

TAGS = {
    "energy": "Energy per circuit and interval, in kWh; import and export stay separate.",
    "meters": "Meters, their registers, and the last known state of each (its shadow).",
    "readings": "Time series that registers and meters have reported.",
    "tariffs": "Tariffs and prepayment balances, in pounds and pounds per kWh.",
    "infrastructure": "ESCOs, sites, properties, feeders, service heads, circuits and their links.",
    "imports": "Files of half-hours or readings into registers.",
    "tokens": "Access tokens, and the keys that verify them.",
    "operations": "Health of the service.",
}


# A POST to these paths does not create the thing that the path names.
TOKEN_OPERATIONS = {
    "/auth/token": "createToken",
    "/auth/revoke": "revokeToken",
    "/auth/introspect": "introspectToken",
}


def tag(relation_or_function: str) -> str:
    """Return the tag of a relation or function."""
    return next(name for name, pattern in DOMAINS if re.search(pattern, relation_or_function))


def pascal(name: str) -> str:
    """Turn `meter_registry` into `MeterRegistry`."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name))


def operation_id(verb: str, name: str) -> str:
    """Turn (`list`, `meter_registry`) into `listMeterRegistry`."""
    return verb + pascal(name)


def route_operation_id(method: str, path: str) -> str:
    """Turn (`get`, `/v1/energy`) into `getEnergy`; parameters, versions, suffixes are left out.

    The name for a single item is singular: `/admin/clients/{client_id}` is `getAdminClient`.
    """
    if path in TOKEN_OPERATIONS:
        return TOKEN_OPERATIONS[path]
    verbs = {"post": "create", "put": "replace", "patch": "update"}
    words = [
        word.removesuffix(".json")
        for word in path.split("/")
        if word and not word.startswith((".", "{")) and word not in ("v1", "auth")
    ]
    if method == "get" and path.endswith("}"):
        words[-1] = words[-1].removesuffix("s")  # a single item of a collection
    return operation_id(verbs.get(method, method), "_".join(words) or "root")
