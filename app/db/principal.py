"""The caller of a request, as described by its verified token."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller; `claims` are the token's claims as passed to the database.

    `tenant` is the ESCO as text, empty for callers without one.
    """

    role: str
    esco: UUID | None
    esco_code: str | None
    client_id: str
    scopes: frozenset[str]
    token_id: str
    expires_at: int
    claims: dict[str, Any]
    tenant: str = field(init=False)

    def __post_init__(self) -> None:
        """Convert the ESCO to text once, because every request needs it."""
        object.__setattr__(self, "tenant", str(self.esco or ""))
