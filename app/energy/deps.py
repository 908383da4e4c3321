"""What the energy routes ask for: the path's scope, merged into the filters of the query."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request

from app.energy.parameters import Name


def of_circuit(request: Request, id: Annotated[UUID, Path(description="The circuit.")]) -> None:  # noqa: A002
    """`/v1/circuits/{id}`."""
    request.state.narrowed = {"circuit": [str(id)]}


def of_meter(
    request: Request, serial: Annotated[Name, Path(description="Serial number of the meter.")]
) -> None:
    """`/v1/meters/{serial}`."""
    request.state.narrowed = {"meter": [serial]}


def of_property(request: Request, id: Annotated[UUID, Path(description="The property.")]) -> None:  # noqa: A002
    """`/v1/properties/{id}`."""
    request.state.narrowed = {"property": [str(id)]}


def of_site(
    request: Request, code_or_id: Annotated[Name, Path(description="Code or id of the site.")]
) -> None:
    """`/v1/sites/{code_or_id}`."""
    request.state.narrowed = {"site": [code_or_id]}


def of_esco(request: Request, code: Annotated[Name, Path(description="Code of the ESCO.")]) -> None:
    """`/v1/escos/{code}`."""
    request.state.narrowed = {"esco": [code]}


def _narrowed(request: Request) -> dict[str, list[str]]:
    narrowed: dict[str, list[str]] = getattr(request.state, "narrowed", {})
    return narrowed


Narrowed = Annotated[dict[str, list[str]], Depends(_narrowed)]
