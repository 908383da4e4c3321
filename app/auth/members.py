"""Members: people who may act for an ESCO, and residents, who read what belongs to their homes.

They are added by their subject, or invited by e-mail address.
"""

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow

from app.auth.clients import Actor, check_room, record
from app.auth.issuers import Issuer, find_issuer
from app.db.batch import fetch_rows
from app.db.session import Connection
from app.errors import Conflict, NotFound, Unprocessable
from app.settings import LimitsSettings

INVITATION_PREFIX = "fli_"
INVITATION_DAYS = 7
LONGEST_MEMBER_NAME = 200
RESIDENT_SCOPES = ["read"]

COLUMNS = """
    m.id, m.esco, e.code as esco_code, i.url as issuer, m.subject, m.email, m.name, m.scopes,
    m.resident, m.invited_until, m.created_at, m.last_used_at, m.disabled_at
"""
RESIDENCES = """
    array(select jsonb_build_object('property', r.property, 'start_time', r.start_time,
            'end_time', r.end_time)
        from gateway.residence as r where r.member = m.id
        order by r.start_time, r.property) as residences
"""
SOURCES = """
    from gateway.member as m
    join gateway.issuer as i on i.id = m.issuer
    left join gateway.escos() as e on e.id = m.esco
"""
MEMBER = f"select {COLUMNS}, {RESIDENCES} {SOURCES}"
# An exchange needs no residences: the database looks at them with each request.
MEMBERSHIP = f"select {COLUMNS} {SOURCES}"
USABLE = "m.disabled_at is null and e.disabled_at is null and i.removed_at is null"


@dataclass(frozen=True, slots=True)
class Stay:
    """A property in which a resident lives from `start_time` to `end_time`, None for ever since."""

    property: uuid.UUID
    start_time: datetime
    end_time: datetime | None = None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Stay":
        """Return the residence that a member's row has as JSON."""
        end = row["end_time"]
        return cls(
            uuid.UUID(row["property"]),
            datetime.fromisoformat(row["start_time"]),
            datetime.fromisoformat(end) if end else None,
        )

    def has_ended(self) -> bool:
        """Return whether the resident has moved out."""
        return self.end_time is not None and self.end_time <= datetime.now(UTC)

    def __str__(self) -> str:
        """Return it for the audit log, with the time as an interval of ISO 8601."""
        end = self.end_time.astimezone(UTC).isoformat() if self.end_time else ".."
        return f"{self.property} {self.start_time.astimezone(UTC).isoformat()}/{end}"


async def list_members(
    connection: Connection, actor: Actor, *, after: str | None = None, limit: int | None = None
) -> list[DictRow]:
    """Return the members that the actor may manage, ordered by name.

    `limit` of them at most, those that follow the member `after` in the order; NotFound if there is
    no such member.
    """
    last = await get_member(connection, actor, after) if after else None
    cursor = await connection.execute(
        f"{MEMBER} where (%(esco)s::uuid is null or m.esco = %(esco)s)"
        " and (%(id)s::text is null or (m.name, m.id) > (%(name)s, %(id)s))"
        " order by m.name, m.id limit %(limit)s",
        {
            "esco": actor.esco, "limit": limit,
            "name": last and last["name"], "id": last and last["id"],
        },
    )  # fmt: skip
    return await cursor.fetchall()


async def get_member(connection: Connection, actor: Actor, member: str) -> DictRow:
    """Return a member; NotFound if there is none or it is another ESCO's."""
    cursor = await connection.execute(
        f"{MEMBER} where m.id = %(id)s and (%(esco)s::uuid is null or m.esco = %(esco)s)",
        {"id": member, "esco": actor.esco},
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound("There is no such member.")
    return row


async def add_member(
    connection: Connection,
    actor: Actor,
    *,
    limits: LimitsSettings,
    issuer_url: str,
    esco: uuid.UUID | None,
    name: str,
    scopes: Sequence[str],
    subject: str | None = None,
    email: str | None = None,
    residences: Sequence[Stay] | None = None,
) -> tuple[DictRow, str | None]:
    """Add a person by subject, or invite one by e-mail address; return it and the invitation.

    The invitation is a code to hand over, which cannot be read again. Without an ESCO the person is
    support, which only an operator may add; with `residences` it is a resident. NotFound for an
    issuer that is not trusted for the ESCO, or a property that the ESCO has not, Conflict if the
    person is a member already or the ESCO has the most, Forbidden for scopes that the actor lacks.
    """
    actor.check_may_give(scopes)
    resident = residences is not None
    if resident:
        check_resident(esco, scopes)
    if (subject is None) == (email is None):
        raise Unprocessable("subject: name either the subject or the e-mail address")
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_MEMBER_NAME:
        raise Unprocessable(f"name: 1 to {LONGEST_MEMBER_NAME} characters")
    if email is not None and not ("@" in email and 3 <= len(email) <= 254):
        raise Unprocessable("email: must be an address like ann@example.org")
    if subject is not None and not 1 <= len(subject) <= 255:
        raise Unprocessable("subject: 1 to 255 characters")
    issuer = await find_issuer(connection, issuer_url)
    if issuer is None or issuer.esco not in (None, esco):
        raise NotFound(f"There is no issuer {issuer_url}.")
    if esco is not None:
        await check_room(connection, "resident" if resident else "member", esco, limits)
    code = INVITATION_PREFIX + secrets.token_urlsafe(32) if email else None
    member = f"flm_{secrets.token_hex(8)}"
    try:
        await connection.execute(
            "insert into gateway.member"
            " (id, issuer, subject, email, esco, name, scopes, resident, invitation, invited_until)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, case when %s then"
            " now() + make_interval(days => %s) end)",
            (member, issuer.id, subject, email, esco, name, list(scopes), resident,
             invitation_digest(code) if code else None, code is not None, INVITATION_DAYS),
        )  # fmt: skip
    except psycopg.errors.UniqueViolation:
        raise Conflict("This person is a member already; change or enable that one.") from None
    told = f"{email or subject}; scopes: {' '.join(scopes)}"
    if residences is not None:
        await _set_residences(connection, member, residences)
        told += f"; {describe(residences)}"
    await record(
        connection, actor, "member.invite" if code else "member.add",
        subject=member, detail=told, esco=esco,
    )  # fmt: skip
    return await get_member(connection, actor, member), code


def check_resident(esco: uuid.UUID | None, scopes: Sequence[str]) -> None:
    """Raise Unprocessable for a resident of no ESCO, or with other scopes than `read`."""
    if esco is None:
        raise Unprocessable("esco: name the ESCO of the resident's homes")
    if list(scopes) != RESIDENT_SCOPES:
        raise Unprocessable("scopes: a resident has the scope read alone")


def describe(residences: Sequence[Stay]) -> str:
    """Return residences for the audit log."""
    return f"residences: {', '.join(map(str, residences)) or 'none'}"


def _check_ended(before: Sequence[Stay], residences: Sequence[Stay]) -> None:
    """Conflict if a residence that has ended would last longer: somebody else may live there."""
    ended = {(one.property, one.start_time): one for one in before if one.has_ended()}
    for one in residences:
        known = ended.get((one.property, one.start_time))
        if known and known.end_time and (one.end_time is None or one.end_time > known.end_time):
            raise Conflict(
                f"residences: the one in the property {one.property} ended at"
                f" {known.end_time.astimezone(UTC).isoformat()}; add another for a later time"
            )


async def _set_residences(connection: Connection, member: str, residences: Sequence[Stay]) -> None:
    """Replace the residences of a resident.

    NotFound for a property that its ESCO has not, whether another has it or none; Unprocessable for
    a residence that ends before it starts, or two of one property at one time.
    """
    await connection.execute("delete from gateway.residence where member = %s", (member,))
    for one in residences:
        try:
            await connection.execute(
                "insert into gateway.residence (member, property, esco, start_time, end_time)"
                " select m.id, %s, m.esco, %s, %s from gateway.member as m where m.id = %s",
                (one.property, one.start_time, one.end_time, member),
            )
        except psycopg.errors.ForeignKeyViolation:
            raise NotFound(f"There is no property {one.property}.") from None
        except psycopg.errors.CheckViolation:
            raise Unprocessable("residences: one ends before it starts") from None
        except (psycopg.errors.ExclusionViolation, psycopg.errors.UniqueViolation):
            raise Unprocessable(
                f"residences: two are in the property {one.property} at one time"
            ) from None


async def change_member(
    connection: Connection,
    actor: Actor,
    member: str,
    *,
    scopes: Sequence[str] | None = None,
    disabled: bool | None = None,
    residences: Sequence[Stay] | None = None,
) -> DictRow:
    """Change a member's scopes or residences, or disable or enable it.

    Tokens with former scopes end in minutes by themselves, those of a disabled member stop working
    within five seconds, and residences take effect at once. Conflict if one that has ended would
    last longer.
    """
    known = await get_member(connection, actor, member)
    told = []
    if residences is not None:
        if not known["resident"]:
            raise Unprocessable("residences: this member is not a resident")
        actor.check_may_give(known["scopes"])
        _check_ended([Stay.of(row) for row in known["residences"]], residences)
        await _set_residences(connection, member, residences)
        told.append(describe(residences))
    if scopes is not None:
        actor.check_may_give(scopes)
        if known["resident"]:
            check_resident(known["esco"], scopes)
        told.append(f"scopes: {' '.join(scopes)}")
        await connection.execute(
            "update gateway.member set scopes = %s where id = %s", (list(scopes), member)
        )
    if disabled is not None:
        if not disabled:
            # With the member come its scopes.
            actor.check_may_give(scopes or known["scopes"])
        told.append("disabled" if disabled else "enabled")
        await connection.execute(
            "update gateway.member set disabled_at = case when %s then now() end where id = %s",
            (disabled, member),
        )
    action = "member.disable" if disabled else "member.change"
    await record(
        connection, actor, action, subject=member, detail="; ".join(told), esco=known["esco"]
    )
    return await get_member(connection, actor, member)


async def move_in(connection: Connection, actor: Actor, member: str, residence: Stay) -> DictRow:
    """Add a residence to a resident's others; refused as by `change_member`."""
    residences = [*await _residences(connection, actor, member), residence]
    return await change_member(connection, actor, member, residences=residences)


async def move_out(
    connection: Connection, actor: Actor, member: str, home: uuid.UUID, end_time: datetime
) -> DictRow:
    """End a resident's latest residence in a property.

    NotFound if there is none, Conflict if it has ended.
    """
    residences = await _residences(connection, actor, member)
    here = [one for one in residences if one.property == home]
    if not here:
        raise NotFound(f"The member has no residence in the property {home}.")
    if here[-1].has_ended():
        raise Conflict(f"The member has moved out of the property {home} already.")
    ended = replace(here[-1], end_time=end_time)
    residences = [ended if one is here[-1] else one for one in residences]
    return await change_member(connection, actor, member, residences=residences)


async def _residences(connection: Connection, actor: Actor, member: str) -> list[Stay]:
    """Return a member's residences by their start, locking the member for a change of them."""
    await connection.execute("select from gateway.member where id = %s for update", (member,))
    known = await get_member(connection, actor, member)
    return [Stay.of(row) for row in known["residences"]]


def invitation_digest(code: str) -> bytes:
    """Return the SHA-256 under which an invitation's code is stored."""
    return hashlib.sha256(code.encode()).digest()


def verified_email(claims: dict[str, Any]) -> str | None:
    """Return the e-mail address of a token's claims if the issuer has verified it."""
    email = claims.get("email")
    # `true` alone: some providers send the text "false", which Python takes for true.
    return email if isinstance(email, str) and claims.get("email_verified") is True else None


async def accept_invitation(
    connection: Connection, issuer: Issuer, claims: dict[str, Any], code: str
) -> str | None:
    """Make the subject of the claims the invited member; return its id, None if it is refused.

    The address must be the invited one and verified. From then on only the subject counts, so an
    address that is given to somebody else opens nothing.
    """
    try:
        cursor = await connection.execute(
            "update gateway.member as m set subject = %s, invitation = null, invited_until = null"
            " where m.invitation = %s and m.issuer = %s and lower(m.email) = lower(%s)"
            " and m.invited_until > now() and m.disabled_at is null"
            " and not exists (select from gateway.member as o where o.issuer = m.issuer"
            " and o.subject = %s and o.esco is not distinct from m.esco"
            " and o.resident = m.resident) returning m.id, m.esco",
            (claims["sub"], invitation_digest(code), issuer.id, verified_email(claims),
             claims["sub"]),
        )  # fmt: skip
    except psycopg.errors.UniqueViolation:
        return None  # the person has become a member meanwhile
    row = await cursor.fetchone()
    if row is None:
        return None
    actor = Actor(row["id"], esco=row["esco"])
    await record(connection, actor, "member.accept", subject=row["id"])
    return str(row["id"])


async def find_memberships(connection: Connection, issuer: Issuer, subject: str) -> list[DictRow]:
    """Return the memberships of a person that can be used, ordered by the ESCO's code.

    Within an ESCO that of its staff comes before that of a resident.
    """
    return await fetch_rows(
        connection,
        f"{MEMBERSHIP} where m.issuer = %(issuer)s and m.subject = %(subject)s and {USABLE}"
        " and (i.esco is null or i.esco = m.esco) order by e.code, m.resident",
        issuer=issuer.id,
        subject=subject,
    )


async def find_usable_member(connection: Connection, member: str) -> DictRow | None:
    """Return a member of an ESCO that can be used."""
    cursor = await connection.execute(
        f"{MEMBERSHIP} where m.id = %s and m.subject is not null and m.esco is not null"
        f" and {USABLE}",
        (member,),
    )
    return await cursor.fetchone()
