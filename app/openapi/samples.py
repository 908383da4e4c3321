"""Values that exist for a caller, as examples of parameters: a request works at once."""

import logging
import re
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from app import example_ids
from app.db.principal import Principal
from app.db.session import Pool, caller_session

logger = logging.getLogger(__name__)

ONE_DAY = timedelta(days=1)
# A busy pool must not delay a document that is readable without examples.
SAMPLES_WAIT_SECONDS = 0.2
# Serials that may stand in filters and patterns as they are.
PLAIN_SERIAL = re.compile("[A-Za-z0-9]+")
# Path of /v1 → the sample of its parameter.
IDENTIFIED = {
    "circuits": "circuit",
    "meters": "meter",
    "properties": "property",
    "sites": "site",
    "escos": "esco",
}
# Of the first circuit with half-hours, so that they stay the same. Views of api take no condition
# from a join, but a subquery that is limited looks up one row.
EXISTING = """
    select
        mapping.circuit::text as circuit, meter.serial as meter, newest."timestamp" as newest,
        mapping.register::text as register,
        (
            select home.property::text
            from api.service_head_meter as head
            cross join lateral (
                select its.property from api.properties_service_head as its
                where its.service_head = head.service_head order by 1 limit 1
            ) as home
            where head.meter = meter.id order by 1 limit 1
        ) as property,
        (select site.code from api.sites_new as site where site.id = meter.site) as site,
        (select own.code from api.escos as own where own.id = meter.esco) as esco,
        meter.id::text as meter_id, meter.site::text as site_id, meter.esco::text as esco_id
    from api.circuit_register as mapping
    cross join lateral (
        select latest."timestamp" from api.register_interval_hh_latest as latest
        where latest.register_id = mapping.register limit 1
    ) as newest
    cross join lateral (
        select its.meter_id from api.meter_registers as its
        where its.register_id = mapping.register limit 1
    ) as register
    cross join lateral (
        select own.id, own.serial, own.site, own.esco from api.meter_registry as own
        where own.id = register.meter_id limit 1
    ) as meter
    where mapping.end_time is null
    order by mapping.circuit, mapping.register limit 1
"""


@dataclass(frozen=True, slots=True)
class Samples:
    """The last whole week, and names and ids of a caller's; None for those that are unknown."""

    period_from: str
    period_to: str
    circuit: str | None = None
    meter: str | None = None
    property: str | None = None
    site: str | None = None
    esco: str | None = None
    register: str | None = None
    meter_id: str | None = None
    site_id: str | None = None
    esco_id: str | None = None


def last_week(now: datetime) -> Samples:
    """Return the week that ended with the last Monday's midnight in UTC."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = midnight - midnight.weekday() * ONE_DAY
    return Samples(f"{monday - 7 * ONE_DAY:%Y-%m-%dT%H:%M:%SZ}", f"{monday:%Y-%m-%dT%H:%M:%SZ}")


async def read_samples(pool: Pool, caller: Principal | None) -> Samples:
    """Return what exists for a caller; without one, or without a database, the last week alone."""
    now = datetime.now(UTC)
    row = None
    if caller is not None and caller.esco is not None and "read" in caller.scopes:
        try:
            async with caller_session(pool, caller, SAMPLES_WAIT_SECONDS) as connection:
                row = await (await connection.execute(EXISTING)).fetchone()
        except (psycopg.Error, PoolTimeout) as error:
            logger.info("the document has no samples of the caller's: %s", str(error).strip())
    if row is None:
        return last_week(now)
    week = asdict(last_week(min(now, row.pop("newest") + ONE_DAY)))
    return Samples(**week | row)


def with_samples(document: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """Return a document with the samples as examples of periods, names in paths and ids."""
    document = _with_ids(document, samples)
    period = {"period_from": samples.period_from, "period_to": samples.period_to}
    paths = {}
    for path, item in document["paths"].items():
        kind = IDENTIFIED.get(path.split("/")[2], "") if path.startswith("/v1/") else ""
        known = period | {"path": getattr(samples, kind, None)}
        paths[path] = {
            method: _operation_with(operation, known) for method, operation in item.items()
        }
    if samples.register is not None and "post" in (item := paths.get("/v1/imports", {})):
        paths["/v1/imports"] = item | {"post": _import_into(item["post"], samples.register)}
    return document | {"paths": paths}


def _with_ids(document: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """Return a document with the caller's ids in place of those that stand for them."""
    text = orjson.dumps(document).decode()
    for stand_in, own in (
        (example_ids.CIRCUIT_ID, samples.circuit),
        (example_ids.REGISTER_ID, samples.register),
        (example_ids.METER_ID, samples.meter_id),
        (example_ids.PROPERTY_ID, samples.property),
        (example_ids.SITE_ID, samples.site_id),
        (example_ids.ESCO_ID, samples.esco_id),
        (
            example_ids.METER_SERIAL,
            samples.meter if PLAIN_SERIAL.fullmatch(samples.meter or "") else None,
        ),
    ):
        if own is not None:
            text = text.replace(stand_in, own)
    found: dict[str, Any] = orjson.loads(text)
    return found


def _operation_with(operation: dict[str, Any], known: dict[str, str | None]) -> dict[str, Any]:
    parameters = []
    for parameter in operation.get("parameters", ()):
        name = "path" if parameter.get("in") == "path" else parameter.get("name")
        sample = known.get(name)
        if sample is None:
            parameters.append(parameter)
        else:
            schema = {key: of for key, of in parameter["schema"].items() if key != "examples"}
            parameters.append(parameter | {"example": sample, "schema": schema})
    return operation | {"parameters": parameters} if parameters else operation


def _import_into(operation: dict[str, Any], register: str) -> dict[str, Any]:
    """Return the operation of an import with a register in the examples of its options."""
    operation = deepcopy(operation)
    form = operation["requestBody"]["content"]["multipart/form-data"]
    for options in (
        form["example"]["options"],
        *form["schema"]["properties"]["options"]["examples"],
    ):
        options["register_id"] = register
    return operation
