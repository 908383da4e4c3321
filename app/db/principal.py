"""The caller of a request, as described by its verified token."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

RESIDENT = "resident"


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller; `claims` are the token's claims as passed to the database.

    `tenant` is the ESCO as text, empty for callers without one. `subject` is the person, or the
    client where it acts for itself; `people` are client, person, and whoever acts for the person.
    `crowd` are those who share quotas with the caller: its ESCO's programs, or its residents.
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
    subject: str = field(init=False)
    people: tuple[str, ...] = field(init=False)
    crowd: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive once whatever every request needs."""
        object.__setattr__(self, "tenant", str(self.esco or ""))
        residents = f"{self.tenant} residents"
        object.__setattr__(self, "crowd", residents if self.role == RESIDENT else self.tenant)
        subject = str(self.claims.get("sub") or self.client_id)
        act = self.claims.get("act")
        acting = (str(act.get("sub")),) if isinstance(act, dict) else ()
        object.__setattr__(self, "subject", subject)
        object.__setattr__(self, "people", (self.client_id, subject, *acting))
