"""The caller of one request, as its verified token describes it."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller; `claims` are the token's, as they are handed to the database.

    `tenant` is the ESCO as text, and empty for callers without one.
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
        """Write out the ESCO, which every request asks for."""
        object.__setattr__(self, "tenant", str(self.esco or ""))
