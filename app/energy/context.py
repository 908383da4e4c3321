"""The context of a request: its caller, and the filter that its path implies."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request

from app.app_state import Services, ServicesDep
from app.auth.deps import Caller
from app.db.principal import RESIDENT, Principal
from app.energy.files import file_cache
from app.energy.formats import Format, file_name, negotiate
from app.energy.groups import OF_RESIDENT
from app.energy.intervals import Instant
from app.energy.parameters import Filters, Name, Presented, Window, refuse
from app.energy.response import ReportRequest, fingerprint
from app.energy.scope import Selection
from app.errors import Forbidden
from app.request_state import request_state


async def of_circuit(
    request: Request, which: Annotated[UUID, Path(alias="id", description="The circuit.")]
) -> None:
    """Restrict the request to the circuit in the path."""
    request_state(request.scope).path_filters = {"circuit": [str(which)]}


async def of_meter(
    request: Request, serial: Annotated[Name, Path(description="Serial number of the meter.")]
) -> None:
    """Restrict the request to the meter in the path."""
    request_state(request.scope).path_filters = {"meter": [serial]}


async def of_property(
    request: Request, which: Annotated[UUID, Path(alias="id", description="The property.")]
) -> None:
    """Restrict the request to the property in the path."""
    request_state(request.scope).path_filters = {"property": [str(which)]}


async def of_site(
    request: Request, code_or_id: Annotated[Name, Path(description="Code or id of the site.")]
) -> None:
    """Restrict the request to the site in the path."""
    request_state(request.scope).path_filters = {"site": [code_or_id]}


async def of_esco(
    request: Request, code: Annotated[Name, Path(description="Code of the ESCO.")]
) -> None:
    """Restrict the request to the ESCO in the path."""
    request_state(request.scope).path_filters = {"esco": [code]}


# Parameters that may be given more than once.
SEVERAL = {*Filters.model_fields, "property", "group_by", "days", "include", "alert"}


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request with its caller and the filter of its path."""

    request: Request
    services: Services
    caller: Principal
    path: dict[str, list[str]]

    def scope(self, query: Filters) -> Selection:
        """Return the filters of path and query together."""
        if self.caller.role != RESIDENT:
            return Selection(self.path, query, tenant=self.caller.esco is not None)
        if query.feeder or "feeder" in getattr(query, "group_by", ()):
            raise Forbidden("feeder: the network is not shown to residents.")
        return Selection(self.path, query, sources=OF_RESIDENT)

    def report_request(
        self,
        what: str,
        query: Presented,
        first: Instant | None,
        last: Instant | None,
        *words: str,
        by: Iterable[str] | None = None,
    ) -> ReportRequest:
        """Return the request for half-hours from `first` up to `last` (exclusive; None: no bound).

        `what` and `words` name the downloaded file; `by` are the dimensions of the rows, None for
        all.
        """
        form = negotiate(self.request, query.format)
        if query.times == "local":
            if form.name != "csv":
                raise refuse("times", query.times, f"must not be local: {form.name} is not CSV")
            form = Format("csv", local_times=True)
        named = [value for values in self.path.values() for value in values]
        if isinstance(query, Window):
            words = (*words, str(query.period_from.date()), str(query.period_to.date()))
        parameters = query.model_dump(exclude={"cursor", "format"})
        return ReportRequest(
            services=self.services,
            files=file_cache(self.request),
            caller=self.caller,
            request=self.request,
            format=form,
            fingerprint=fingerprint(self.request.url.path, parameters | {"last": last}),
            first=first,
            last=last,
            dimensions=None if by is None else self._dimensions(query, by, form),
            file_name=file_name(what, self.caller.esco_code, *named, *words),
        )

    def _dimensions(self, query: Presented, by: Iterable[str], form: Format) -> list[str]:
        """Return the dimensions that rows and filters depend on, `name` if rows have names."""
        found = {*by}
        if isinstance(query, Filters):
            found |= {name for filters in self.scope(query).named() for name in filters}
            found |= {"circuit_type"} if query.circuit_type else set()
        if isinstance(query, Window) and query.has_names(form.name):
            found.add("name")
        return sorted(found)


async def _context(request: Request, services: ServicesDep, caller: Caller) -> RequestContext:
    for name in set(request.query_params) - SEVERAL:
        values = request.query_params.getlist(name)
        if len(values) > 1:
            raise refuse(name, ", ".join(values), "must be given once")
    return RequestContext(request, services, caller, request_state(request.scope).path_filters)


ContextDep = Annotated[RequestContext, Depends(_context)]
