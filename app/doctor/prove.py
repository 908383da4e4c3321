"""Proof of isolation on a live deployment: two canary ESCOs try every way into each other's rows.

What one of them is shown, of whatever relation, must be its own; every other ESCO of the deployment
counts as foreign. What they try to write is the other canary's alone.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import orjson
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from app.auth.keyring import Keyring, load_state
from app.auth.keys import load_keys
from app.auth.tokens import NO_ESCO, Grant, issue
from app.db.isolation import (
    CALLER_ROLES,
    SHARED_RELATIONS,
    ExposedRelation,
    become,
    exposed_relations,
    insertion,
    may,
)
from app.db.principal import RESIDENT
from app.doctor.canaries import Canary, CanaryAdmin, canaries, open_admin, rows_of
from app.doctor.finding import Finding, new_fault
from app.settings import Settings

PROOF_LOCK = 7_366_202  # an arbitrary number; the advisory lock keeps two proofs apart
MOST_SEEN = 1_000  # of a relation; a canary has a few
TOKEN_SECONDS = 300
QUOTA_SECONDS = 30.0
QUERY_TIMEOUT = "10s"
UUID_TEXT = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
LIST_PATHS = ("escos", "sites", "properties", "circuits", "meters")
REPORT_PATHS = ("energy", "balance", "profile", "peak", "completeness", "latest", "alerts")
PROOF_MEND = "flows doctor names what was changed in the database; flows db migrate restores it"
RECORD_PROOF = """
    insert into gateway.proof (ended_at, seconds, tried, broken) values (now(), %s, %s, %s)
    on conflict (only_row) do update set ended_at = excluded.ended_at,
        seconds = excluded.seconds, tried = excluded.tried, broken = excluded.broken
"""


@dataclass
class Proof:
    """The outcome: how many ways were tried, in which time, and those that led anywhere."""

    tried: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def expect(self, held: bool, relation: str, text: str) -> None:
        """Count one try; note the relation if isolation did not hold."""
        self.tried += 1
        if not held:
            finding = new_fault(relation, text, PROOF_MEND)
            if finding not in self.findings:
                self.findings.append(finding)


def prove_isolation(url: str, settings: Settings, issuer: str, gateway: str | None = None) -> Proof:
    """Return what the canaries found; `url` is the administrator's.

    `issuer` is the gateway's own address, which is asked unless `gateway` is another base URL. The
    result is recorded for /metrics.
    """
    gateway = gateway or issuer
    proof, started = Proof(), time.monotonic()
    with open_admin(url) as admin:
        admin.execute("set client_connection_check_interval = '1s'")
        locked = admin.execute("select pg_try_advisory_lock(%s) as free", (PROOF_LOCK,)).fetchone()
        if not (locked and locked["free"]):
            proof.findings.append(
                new_fault("canaries", "another flows prove is running", "wait until it has ended")
            )
            return proof
        tokens = Tokens(admin, settings, issuer)
        with canaries(admin) as (own, other):
            session = settings.database.url.get_secret_value() if settings.database.url else url
            with psycopg.connect(session) as connection:
                _try_reads(connection, proof, own)
                _try_writes(connection, admin, proof, own, other)
                _try_resident(connection, admin, proof, own, other)
            try:
                with httpx.Client(base_url=gateway, timeout=QUOTA_SECONDS) as client:
                    listed = list(exposed_relations(admin))
                    _try_door(Door(client, tokens.of(own)), admin, proof, listed, own, other)
                    _try_aggregates(Door(client, tokens.of(own)), proof, own, other)
                    resident = Door(client, tokens.of_resident(own))
                    _try_doors_as_resident(resident, admin, proof, listed, own)
                    _try_without_token(client, proof, listed)
            except httpx.HTTPError as error:
                proof.findings.append(
                    new_fault("doors", f"no gateway answers at {gateway}: {error}", "start it")
                )
        proof.seconds = time.monotonic() - started
        with admin.transaction():
            admin.execute("set local role flows_owner")
            broken = sorted({finding.check for finding in proof.findings})
            admin.execute(RECORD_PROOF, (proof.seconds, proof.tried, broken))
    return proof


class Tokens:
    """Tokens of the canaries, signed with the key of this installation."""

    def __init__(self, admin: CanaryAdmin, settings: Settings, issuer: str) -> None:
        """Find the key; SystemExit if there is none."""

        async def state() -> Any:
            async with await psycopg.AsyncConnection.connect(
                admin.info.dsn, password=admin.info.password, row_factory=dict_row
            ) as connection:
                return await load_state(connection)

        keyring = Keyring(load_keys(settings.key_folder, settings.signing_key))
        keyring.update(asyncio.run(state()))
        self._key = keyring.current()
        self._issuer = issuer

    def of(self, canary: Canary) -> str:
        """Return a token that reads and writes for minutes."""
        grant = Grant("flows-prove", "flows", canary.id, canary.code, ("read", "write"))
        return issue(self._key, self._issuer, grant, seconds=TOKEN_SECONDS)

    def of_resident(self, canary: Canary) -> str:
        """Return a token of the canary's resident."""
        grant = Grant("flows-prove", RESIDENT, canary.id, canary.code, ("read",), canary.resident)
        return issue(self._key, self._issuer, grant, seconds=TOKEN_SECONDS)


def _foreign(text: str, own: Canary) -> bool:
    """Return True if a text names an id that is not the canary's."""
    return not own.ids.issuperset(UUID_TEXT.findall(text))


def _outside(text: str, own: Canary) -> bool:
    """Return True if a text names an id that is not of the resident's home."""
    return not own.home.issuperset(UUID_TEXT.findall(text))


def _try_reads(connection: psycopg.Connection[Any], proof: Proof, own: Canary) -> None:
    """Read every relation of the database as each role of a tenant."""
    callers = [(role, esco) for role in CALLER_ROLES for esco in (str(own.id), None, str(NO_ESCO))]
    for role, esco in callers:
        with connection.transaction(force_rollback=True):
            connection.execute("select set_config('statement_timeout', %s, true)", (QUERY_TIMEOUT,))
            listed = list(exposed_relations(connection))
            become(connection, role, esco)
            for relation in listed:
                if relation.name in SHARED_RELATIONS:
                    continue
                seen = _rows(connection, relation)
                where = f"{role} in the database"
                if esco != str(own.id):
                    proof.expect(
                        not seen, relation.name, f"{where} reads rows without an ESCO of its own"
                    )
                    continue
                proof.expect(
                    not any(_foreign(row, own) or not UUID_TEXT.search(row) for row in seen),
                    relation.name,
                    f"{where} reads rows of other ESCOs",
                )
                proof.expect(
                    bool(seen) or not relation.key,
                    relation.name,
                    f"{where} does not read its own row, so nothing is proven",
                )


def _rows(connection: psycopg.Connection[Any], relation: ExposedRelation) -> list[str]:
    query = sql.SQL("select to_jsonb(t)::text from {} as t limit {}").format(
        relation.identifier, sql.Literal(MOST_SEEN)
    )
    with connection.transaction(force_rollback=True):
        return [row[0] for row in connection.execute(query)]


def _try_writes(
    connection: psycopg.Connection[Any],
    admin: CanaryAdmin,
    proof: Proof,
    own: Canary,
    other: Canary,
) -> None:
    """Write the other canary's rows in the database as each role of a tenant; all is undone."""
    for relation in exposed_relations(admin):
        if not relation.key or relation.name in SHARED_RELATIONS:
            continue
        mine, foreign = (_first(admin, relation, canary) for canary in (own, other))
        for role in CALLER_ROLES:
            for verb, statement, values in _statements(relation, mine, foreign):
                if not may(admin, role, relation, verb):
                    continue
                with connection.transaction(force_rollback=True):
                    become(connection, role, str(own.id))
                    proof.expect(
                        not _written(connection, statement, values),
                        relation.name,
                        f"{role} in the database writes rows of another ESCO ({verb})",
                    )


# All else is of today, or of the time in which somebody else lives there.
KEPT_BY_FORMER_RESIDENTS = {"escos", "sites_new", "properties"}


def _try_resident(
    connection: psycopg.Connection[Any],
    admin: CanaryAdmin,
    proof: Proof,
    own: Canary,
    other: Canary,
) -> None:
    """Read every relation in the database as residents, whose neighbour is of the same ESCO."""
    nobodys = [(own.id, None), (own.id, other.resident), (other.id, own.resident), (None, None)]
    for relation in exposed_relations(admin):
        if relation.name in SHARED_RELATIONS:
            continue
        where = f"{RESIDENT} in the database"
        for verb in ("insert", "update", "delete"):
            proof.expect(
                not may(admin, RESIDENT, relation, verb),
                relation.name,
                f"{where} may {verb}",
            )
        if not may(admin, RESIDENT, relation, "select"):
            continue
        with connection.transaction(force_rollback=True):
            become(connection, RESIDENT, str(own.id), own.resident)
            seen = _rows(connection, relation)
            proof.expect(
                not any(_outside(row, own) for row in seen),
                relation.name,
                f"{where} reads rows of a neighbour",
            )
            proof.expect(
                bool(seen) or not relation.key,
                relation.name,
                f"{where} does not read its own row, so nothing is proven",
            )
            become(connection, RESIDENT, str(own.id), own.former)
            former = _rows(connection, relation)
            proof.expect(
                not any(_outside(row, own) for row in former)
                and (not former or relation.name in KEPT_BY_FORMER_RESIDENTS),
                relation.name,
                f"{where} reads rows of who lives there now",
            )
            for esco, member in nobodys:
                become(connection, RESIDENT, str(esco or ""), member)
                proof.expect(
                    not _rows(connection, relation),
                    relation.name,
                    f"{where} reads rows though it lives nowhere",
                )


def _first(admin: CanaryAdmin, relation: ExposedRelation, canary: Canary) -> dict[str, Any]:
    """Return the columns that callers see of a canary's row."""
    row = rows_of(admin, relation.name, canary)[0]
    return {column: row[column] for column in relation.columns}


def _statements(
    relation: ExposedRelation, mine: dict[str, Any], foreign: dict[str, Any]
) -> Iterator[tuple[str, sql.Composed, list[Any]]]:
    """Yield verb, statement and values of each try."""
    conditions = sql.SQL(" and ").join(
        sql.SQL("{} = %s").format(sql.Identifier(column)) for column in relation.key
    )
    theirs, ours = ([row[column] for column in relation.key] for row in (foreign, mine))
    first = sql.Identifier(relation.key[0])
    update = sql.SQL("update {} set {} = %s where ").format(relation.identifier, first) + conditions
    yield "update", update, [foreign[relation.key[0]], *theirs]
    yield (
        "delete",
        sql.SQL("delete from {} where ").format(relation.identifier) + conditions,
        theirs,
    )
    fresh = orjson.dumps(_fresh(relation, foreign)).decode()
    yield "insert", insertion(relation, upsert=False), [fresh]
    yield "insert", insertion(relation, upsert=True), [orjson.dumps(foreign).decode()]
    # One's own row is given away, or refers to another's.
    for column in relation.columns:
        if _is_id(foreign[column]) and column not in ("id", "register_id"):
            given = sql.SQL("update {} set {} = %s where ").format(
                relation.identifier, sql.Identifier(column)
            )
            yield "update", given + conditions, [foreign[column], *ours]


def _fresh(relation: ExposedRelation, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that would be another's new one: under a key that is free."""
    changed = dict(row)
    for column in ("timestamp", "start_time"):
        if column in relation.key:
            moved = datetime.fromisoformat(row[column]) - timedelta(hours=1)
            return changed | {column: moved.isoformat()}
    if relation.key in (["id"], ["register_id"]) and relation.name != "meter_shadows":
        changed[relation.key[0]] = str(uuid4())
    for column in ("serial", "name", "code"):
        if isinstance(row.get(column), str) and relation.name != "ev_chargers":
            changed[column] = f"{row[column]}-x"
    return changed


def _is_id(value: object) -> bool:
    return isinstance(value, str) and UUID_TEXT.fullmatch(value) is not None


def _written(
    connection: psycopg.Connection[Any], statement: sql.Composed, values: list[Any]
) -> bool:
    """Return True if a statement writes a row; a refusal does not."""
    try:
        with connection.transaction(force_rollback=True):
            return connection.execute(statement, values).rowcount > 0
    except (psycopg.IntegrityError, psycopg.errors.InsufficientPrivilege):
        return False
    except psycopg.Error as error:
        if str(error.sqlstate)[:2] in ("PT", "44", "55"):
            return False
        raise


class Door:
    """A caller of the gateway, who waits where a quota is used up."""

    def __init__(self, client: httpx.Client, token: str) -> None:
        self._client = client
        self._token = token

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the answer to a request."""
        headers = {"Authorization": f"Bearer {self._token}"} | options.pop("headers", {})
        deadline = time.monotonic() + QUOTA_SECONDS
        while True:
            answer = self._client.request(method, path, headers=headers, **options)
            if answer.status_code != 429 or time.monotonic() > deadline:
                return answer
            time.sleep(min(float(answer.headers.get("retry-after", 1)), 5.0))


def _read_each(
    door: Door, listed: list[ExposedRelation]
) -> Iterator[tuple[ExposedRelation, str, httpx.Response]]:
    """Yield each relation that not everybody reads alike, its path, and the answer to a read."""
    for relation in listed:
        if relation.name not in SHARED_RELATIONS:
            path = f"/rest/v1/{relation.name}"
            yield relation, path, door.ask("GET", path, params={"limit": MOST_SEEN})


def _try_door(
    door: Door,
    admin: CanaryAdmin,
    proof: Proof,
    listed: list[ExposedRelation],
    own: Canary,
    other: Canary,
) -> None:
    """Read every relation, and write the other canary's rows, through /rest/v1."""
    for relation, path, answer in _read_each(door, listed):
        proof.expect(
            answer.status_code in (200, 206) and not _foreign(answer.text, own),
            relation.name,
            f"GET {path} shows rows of other ESCOs"
            if answer.status_code < 300
            else f"GET {path} answers {answer.status_code}",
        )
        if not relation.key:
            continue
        before = rows_of(admin, relation.name, other)
        foreign = {column: before[0][column] for column in relation.columns}
        which = {column: f"eq.{foreign[column]}" for column in relation.key}
        shown = door.ask("GET", path, params=which)
        proof.expect(
            shown.text == "[]", relation.name, f"GET {path} shows a row of another ESCO by its key"
        )
        part = {relation.key[0]: foreign[relation.key[0]]}
        upsert = {"Prefer": "resolution=merge-duplicates"}
        tries: list[tuple[str, dict[str, Any]]] = [
            ("PATCH", {"params": which, "json": part}),
            ("POST", {"json": _fresh(relation, foreign)}),
            ("POST", {"json": foreign, "headers": upsert}),
            ("DELETE", {"params": which}),
        ]
        for method, request in tries:
            door.ask(method, path, **request)
            proof.expect(
                rows_of(admin, relation.name, other) == before,
                relation.name,
                f"{method} {path} writes rows of another ESCO",
            )


def _try_doors_as_resident(
    door: Door, admin: CanaryAdmin, proof: Proof, listed: list[ExposedRelation], own: Canary
) -> None:
    """Read everything through both doors as a resident, and write its own rows."""
    for relation, path, answer in _read_each(door, listed):
        granted = may(admin, RESIDENT, relation, "select")
        proof.expect(
            answer.status_code == (200 if granted else 403) and not _outside(answer.text, own),
            relation.name,
            f"GET {path} shows a resident rows of a neighbour, or answers {answer.status_code}",
        )
        if not relation.key:
            continue
        mine = _first(admin, relation, own)
        which = {column: f"eq.{mine[column]}" for column in relation.key}
        tries: list[tuple[str, dict[str, Any]]] = [
            ("PATCH", {"params": which, "json": {relation.key[0]: mine[relation.key[0]]}}),
            ("POST", {"json": _fresh(relation, mine)}),
            ("DELETE", {"params": which}),
        ]
        for method, request in tries:
            proof.expect(
                door.ask(method, path, **request).status_code in (401, 403, 404, 405),
                relation.name,
                f"{method} {path} is not refused to a resident",
            )
    for path in (*LIST_PATHS, *REPORT_PATHS):
        asked = {} if path in (*LIST_PATHS, "latest", "alerts") else _last_day()
        answer = door.ask("GET", f"/v1/{path}", params=asked)
        proof.expect(
            answer.status_code == 200
            and not _outside(answer.text, own)
            and "next-door" not in answer.text,
            f"/v1/{path}",
            f"GET /v1/{path} shows a resident more than its home, or answers {answer.status_code}",
        )


def _last_day() -> dict[str, str]:
    """Return the parameters of the day until now."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return {"period_from": (now - timedelta(days=1)).isoformat(), "period_to": now.isoformat()}


def _try_aggregates(door: Door, proof: Proof, own: Canary, other: Canary) -> None:
    """Ask every list and report of /v1, also for what is the other canary's."""
    period = _last_day()
    for kind in LIST_PATHS:
        answer = door.ask("GET", f"/v1/{kind}")
        proof.expect(
            answer.status_code == 200
            and not _foreign(answer.text, own)
            and own.code in answer.text,
            f"/v1/{kind}",
            f"GET /v1/{kind} shows rows of other ESCOs, or not its own",
        )
    unknown = {"circuit": str(uuid4()), "property": str(uuid4()), "meter": "flows-prove-none",
               "site": "flows-prove-none", "feeder": "flows-prove-none"}  # fmt: skip
    known = {"circuit": other.circuit, "property": other.property, "meter": other.code,
             "site": other.code, "feeder": other.code}  # fmt: skip
    for report in REPORT_PATHS:
        path = f"/v1/{report}"
        asked = {} if report in ("latest", "alerts") else period
        answer = door.ask("GET", path, params=asked)
        proof.expect(
            answer.status_code == 200 and not _foreign(answer.text, own),
            path,
            f"GET {path} shows figures of other ESCOs, or answers {answer.status_code}",
        )
        for name, value in known.items():
            answers = [
                door.ask("GET", path, params=asked | {name: one}) for one in (value, unknown[name])
            ]
            told = [(one.status_code, one.json().get("code")) for one in answers]
            proof.expect(
                told[0] == told[1] and told[0][0] == 404,
                path,
                f"GET {path}?{name}=… tells another ESCO's from an unknown one",
            )


def _try_without_token(client: httpx.Client, proof: Proof, listed: list[ExposedRelation]) -> None:
    paths = [f"/rest/v1/{relation.name}" for relation in listed]
    paths += [f"/v1/{kind}" for kind in (*LIST_PATHS, *REPORT_PATHS)]
    for path in paths:
        answer = client.get(path)
        proof.expect(
            answer.status_code in (401, 429), path, f"GET {path} without a token is not refused"
        )
