"""`/v1`: energy of everything the caller may see, and of one circuit, meter, property, site, ESCO.

The same reads hang under each path; a path's own filter holds beside those of the query.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from app.auth.deps import Caller
from app.deps import ServicesDep
from app.energy import cursors, deps, intervals
from app.energy.answer import Answer, Question, fingerprint
from app.energy.deps import Narrowed
from app.energy.energy import EnergyRequest
from app.energy.formats import file_name, negotiate
from app.energy.models import Energy
from app.energy.parameters import WIDEST, EnergyQuery, unique
from app.energy.scope import Scope

reads = APIRouter(tags=["energy"])

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or CSV or NDJSON of the rows alone (`format`, `Accept`).",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    },
    304: {"description": "Nothing changed since the answer whose ETag is in If-None-Match."},
}


@reads.get(
    "/energy",
    summary="Energy per group and interval",
    response_model=Energy,
    responses=RESPONSES,
)
async def energy(
    request: Request,
    services: ServicesDep,
    caller: Caller,
    narrowed: Narrowed,
    query: Annotated[EnergyQuery, Query()],
) -> Response:
    """Sum half-hours of the caller's circuits, in kWh; import and export are never mixed."""
    scope = Scope(narrowed, query)
    zone = query.zone()
    query.check(*WIDEST[query.granularity], query.granularity, narrow=scope.narrow)
    form = negotiate(request, query.format)
    by = unique(query.group_by)
    asked = fingerprint(request.url.path, query.model_dump(exclude={"cursor", "format"}))
    parts = intervals.split(query.granularity, zone, query.period_from, query.period_to)
    after = cursors.read(query.cursor, asked) if query.cursor else None
    limit = query.limit if form.name == "json" else None
    words = [word for words in narrowed.values() for word in words]
    days = query.period_from.date(), query.period_to.date()
    name = file_name("energy", caller.esco_code, *words, query.granularity, *days)
    question = Question(services, caller, request, form, asked, parts.first, parts.last, name)
    write = EnergyRequest(query, scope, by, parts, after, limit).write
    return Answer(question, partial(write, question))


PATHS: dict[str, Callable[..., None] | None] = {
    "/v1": None,
    "/v1/circuits/{id}": deps.of_circuit,
    "/v1/meters/{serial}": deps.of_meter,
    "/v1/properties/{id}": deps.of_property,
    "/v1/sites/{code_or_id}": deps.of_site,
    "/v1/escos/{code}": deps.of_esco,
}

router = APIRouter()
for path, dependency in PATHS.items():
    router.include_router(
        reads, prefix=path, dependencies=[Depends(dependency)] if dependency else []
    )
