"""`flows issuer …`, `flows member …`, `flows app …`: who signs in, and through which app."""

import json
import uuid
from dataclasses import asdict
from typing import Annotated, Any

import typer

from app.auth import apps, issuers, members
from app.auth.clients import COMMAND_LINE, find_esco
from app.cli.admin import run_as_admin
from app.cli.moments import parse_moment
from app.cli.output import Json, echo, fail, show
from app.db.session import Connection
from app.settings import LimitsSettings

trusted = typer.Typer(help="OpenID providers at which people sign in.", no_args_is_help=True)
member = typer.Typer(
    help="Members: people who act for an ESCO, and residents.", no_args_is_help=True
)
public_app = typer.Typer(help="Apps: pages in which people sign in.", no_args_is_help=True)

ISSUER_COLUMNS = ("url", "audiences", "esco_code", "claims", "secret_name", "created_at")
MEMBER_COLUMNS = (
    "id", "esco_code", "name", "issuer", "subject", "email", "scopes", "resident", "last_used_at",
    "disabled_at",
)  # fmt: skip
RESIDENCE_COLUMNS = ("property", "start_time", "end_time")
APP_COLUMNS = ("id", "name", "origins", "esco_code", "disabled_at")

MemberId = Annotated[str, typer.Argument(help="Id of the member: flm_…")]
AppId = Annotated[str, typer.Argument(help="Id of the app: fla_…")]
Home = Annotated[uuid.UUID, typer.Option("--property", help="Id of the property.")]
MemberScopes = Annotated[
    list[str] | None, typer.Option("--scope", help="read, write or admin; repeat for several.")
]


@trusted.command("list")
def issuer_list(as_json: Json = False) -> None:
    """List the trusted issuers."""
    rows = run_as_admin(lambda c: issuers.list_issuers(c, COMMAND_LINE))
    show(rows, ISSUER_COLUMNS, as_json=as_json)


@trusted.command("add")
def issuer_add(
    url: Annotated[str, typer.Argument(help="URL, exactly as its tokens name it in iss.")],
    audience: Annotated[
        list[str], typer.Option(help="Audience of its tokens (aud); repeat for several.")
    ],
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of the only ESCO that it has members of.")
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE that its tokens must have; repeat for several."),
    ] = None,
    jwks_uri: Annotated[
        str | None, typer.Option(help="URL of its keys; default: from its discovery document.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            help="Name in FLOWS_ISSUERS_HMAC_SECRETS of a Supabase project's HS256 secret."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Trust an issuer: members with a token of it get tokens here."""
    claims = dict(_claim(text) for text in claim or [])
    row = run_as_admin(
        lambda c: issuers.add_issuer(
            c, COMMAND_LINE, url, audiences=audience, esco_code=esco_code, claims=claims,
            jwks_uri=jwks_uri, secret_name=secret,
        )
    )  # fmt: skip
    show([row], ISSUER_COLUMNS, as_json=as_json)


@trusted.command("change")
def issuer_change(
    url: Annotated[str, typer.Argument(help="URL of the issuer.")],
    audience: Annotated[
        list[str] | None, typer.Option(help="Audience of its tokens, in place of all before.")
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE that its tokens must have, in place of all before."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change the audiences of an issuer's tokens, or the claims that they must have.

    Members stay; tokens issued before end within 15 minutes.
    """
    if not audience and not claim:
        raise fail("give at least one --audience or --claim")
    claims = dict(_claim(text) for text in claim) if claim else None
    row = run_as_admin(
        lambda c: issuers.change_issuer(
            c, COMMAND_LINE, url, audiences=audience or None, claims=claims
        )
    )
    show([row], ISSUER_COLUMNS, as_json=as_json)


def _claim(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE; true, false and numbers are read as such."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise fail("--claim: write NAME=VALUE")
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return name, found if isinstance(found, bool | int) else value


@trusted.command("remove")
def issuer_remove(url: Annotated[str, typer.Argument(help="URL of the issuer.")]) -> None:
    """Trust an issuer no longer; its members' tokens stop working within five seconds."""
    run_as_admin(lambda c: issuers.remove_issuer(c, COMMAND_LINE, url))


@member.command("list")
def member_list(as_json: Json = False) -> None:
    """List members."""
    rows = run_as_admin(lambda c: members.list_members(c, COMMAND_LINE))
    show(rows, MEMBER_COLUMNS, as_json=as_json)


@member.command("add")
def member_add(
    name: Annotated[str, typer.Argument(help="Name of the person.")],
    issuer_url: Annotated[str, typer.Option("--issuer", help="URL of the person's issuer.")],
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of the ESCO; without it, support.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="The person's sub at the issuer.")] = None,
    email: Annotated[str | None, typer.Option(help="E-mail address to invite.")] = None,
    scope: MemberScopes = None,
    home: Annotated[
        uuid.UUID | None,
        typer.Option("--property", help="Id of the property that a resident lives in."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Time at which the resident moves in, with an offset.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Time at which the resident moves out, if it is known.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a person by subject, or invite one by e-mail address.

    An invitation is a code, printed only once, that is handed over; it is good for seven days.
    Support, which has no ESCO of its own, acts for members of all ESCOs, within its scopes. With
    --property and --start the person is a resident, who reads what belongs to that home alone;
    further homes are added with `flows member move-in`.
    """
    scopes = _known_scopes(scope or ["read"])
    residences = None
    if home is not None and start is not None:
        residences = [_residence(home, start, end)]
    elif home or start or end:
        raise fail("--property and --start: a resident needs both")

    async def add(connection: Connection) -> dict[str, Any]:
        esco = (await find_esco(connection, esco_code))["id"] if esco_code else None
        row, code = await members.add_member(
            connection, COMMAND_LINE, limits=LimitsSettings(), issuer_url=issuer_url,
            esco=esco, name=name, scopes=scopes, subject=subject, email=email,
            residences=residences,
        )  # fmt: skip
        return row | {"invitation": code}

    show([run_as_admin(add)], ("id", "esco_code", "name", "invitation"), as_json=as_json)
    if esco_code is None:
        echo("Without --esco this is support, who may act for the members of every ESCO.", err=True)


@member.command("change")
def member_change(member_id: MemberId, scope: MemberScopes = None, as_json: Json = False) -> None:
    """Change a member's scopes; tokens issued before end within 15 minutes."""
    if not scope:
        raise fail("give at least one --scope")
    scopes = _known_scopes(scope)
    row = run_as_admin(lambda c: members.change_member(c, COMMAND_LINE, member_id, scopes=scopes))
    show([row], MEMBER_COLUMNS, as_json=as_json)


@member.command("move-in")
def member_move_in(
    member_id: MemberId,
    home: Home,
    start: Annotated[str, typer.Option(help="Time of the move, with an offset.")],
    end: Annotated[
        str | None, typer.Option(help="Time at which the resident moves out, if it is known.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a resident read of one more home, from a time on."""
    residence = _residence(home, start, end)
    row = run_as_admin(lambda c: members.move_in(c, COMMAND_LINE, member_id, residence))
    _show_residences(row, as_json=as_json)


@member.command("move-out")
def member_move_out(
    member_id: MemberId,
    home: Home,
    end: Annotated[str, typer.Option(help="Time of the move, with an offset.")],
    as_json: Json = False,
) -> None:
    """End a resident's latest time in a home; the resident still reads what was until then."""
    moment = parse_moment("--end", end)
    row = run_as_admin(lambda c: members.move_out(c, COMMAND_LINE, member_id, home, moment))
    _show_residences(row, as_json=as_json)


@member.command("residences")
def member_residences(member_id: MemberId, as_json: Json = False) -> None:
    """List the homes of a resident, each for the time that it lives there."""
    row = run_as_admin(lambda c: members.get_member(c, COMMAND_LINE, member_id))
    _show_residences(row, as_json=as_json)


@member.command("disable")
def member_disable(member_id: MemberId, as_json: Json = False) -> None:
    """Disable a member; its tokens stop working within five seconds."""
    row = run_as_admin(lambda c: members.change_member(c, COMMAND_LINE, member_id, disabled=True))
    show([row], MEMBER_COLUMNS, as_json=as_json)


@member.command("enable")
def member_enable(member_id: MemberId, as_json: Json = False) -> None:
    """Enable a disabled member."""
    row = run_as_admin(lambda c: members.change_member(c, COMMAND_LINE, member_id, disabled=False))
    show([row], MEMBER_COLUMNS, as_json=as_json)


def _residence(home: uuid.UUID, start: str, end: str | None) -> members.Stay:
    end_time = None if end is None else parse_moment("--end", end)
    return members.Stay(home, parse_moment("--start", start), end_time)


def _show_residences(member_row: dict[str, Any], *, as_json: bool) -> None:
    """Print the residences of a member: as a table, or as JSON with the member's other values."""
    if as_json:
        show([member_row], MEMBER_COLUMNS, as_json=True)
    else:
        residences = [asdict(members.Stay.of(row)) for row in member_row["residences"]]
        show(residences, RESIDENCE_COLUMNS, as_json=False)


def _known_scopes(asked: list[str]) -> list[str]:
    if unknown := set(asked) - {"read", "write", "admin"}:
        raise fail(f"there is no scope {' '.join(unknown)}; choose from read, write, admin")
    return list(dict.fromkeys(asked))


@public_app.command("list")
def app_list(as_json: Json = False) -> None:
    """List apps."""
    show(run_as_admin(apps.list_apps), APP_COLUMNS, as_json=as_json)


@public_app.command("create")
def app_create(
    name: Annotated[str, typer.Argument(help="Name of the app.")],
    origin: Annotated[
        list[str], typer.Option(help="Origin of its pages, https://app.example.org; repeatable.")
    ],
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of the only ESCO that it gets tokens for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register an app, which has no secret; FLOWS_CORS_ORIGINS must name its origins as well."""
    row = run_as_admin(
        lambda c: apps.create_app_client(
            c, COMMAND_LINE, name, origin, esco_code, limits=LimitsSettings()
        )
    )
    show([row], APP_COLUMNS, as_json=as_json)


@public_app.command("disable")
def app_disable(app_id: AppId, as_json: Json = False) -> None:
    """Disable an app; the tokens it got stop working within five seconds."""
    row = run_as_admin(lambda c: apps.set_app_disabled(c, COMMAND_LINE, app_id, disabled=True))
    show([row], APP_COLUMNS, as_json=as_json)


@public_app.command("enable")
def app_enable(app_id: AppId, as_json: Json = False) -> None:
    """Enable a disabled app."""
    row = run_as_admin(lambda c: apps.set_app_disabled(c, COMMAND_LINE, app_id, disabled=False))
    show([row], APP_COLUMNS, as_json=as_json)
