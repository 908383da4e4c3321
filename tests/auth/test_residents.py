"""Residents: who invites them to which homes, the tokens they get, and what these never open."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from tests.auth.people import People, refused, running_people
from tests.conftest import flows, wait_until

pytestmark = pytest.mark.stack

MOVED_IN = "2026-01-01T00:00:00Z"
UNKNOWN = str(uuid.UUID(int=7))


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    """People who sign in."""
    with running_people() as made:
        yield made


@pytest.fixture(scope="module")
def homes(people: People) -> dict[str, list[str]]:
    """ESCO → ids of its properties."""
    with psycopg.connect(people.stack.contract["database_url"]) as admin:
        rows = admin.execute(
            "select e.code, array_agg(p.id::text order by p.id) from flows.properties as p"
            " join flows.escos as e on e.id = p.esco group by e.code"
        ).fetchall()
    return dict(rows)


@pytest.fixture(scope="module")
def admins(people: People) -> Iterator[dict[str, httpx.Client]]:
    """An admin of each of two ESCOs, who signed in."""
    clients = {}
    for esco in ("wlce", "hmce"):
        row = people.member("read", "write", "admin", esco=esco)
        clients[esco] = signed_in(people, people.issuer.token(row["subject"]))
    yield clients
    for client in clients.values():
        client.close()


def signed_in(people: People, subject_token: str, **form: str) -> httpx.Client:
    """Return an HTTP client with the token that an exchange gives."""
    answer = people.exchange(subject_token, **form)
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    base = people.stack.contract["base_url"]
    return httpx.Client(base_url=base, headers=headers, timeout=60)


def residence(home: str, start: str = MOVED_IN, end: str | None = None) -> dict[str, Any]:
    """Return a residence as `/admin/members` takes it."""
    return {"property": home, "start_time": start, "end_time": end}


def claims_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the claims of the token in a response."""
    assert answer.status_code == 200, answer.text
    claims: dict[str, Any] = jwt.decode(
        answer.json()["access_token"], options={"verify_signature": False}
    )
    return claims


def test_an_admin_invites_a_resident_who_gets_a_token_that_reads(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    home = homes["wlce"][0]
    body = {
        "issuer": people.issuer.url, "name": "Rae", "email": "rae@example.org",
        "residences": [residence(home, end="2026-10-01T02:00:00+02:00")],
    }  # fmt: skip
    made = admins["wlce"].post("/admin/members", json=body)
    assert made.status_code == 201, made.text
    rae = made.json()
    assert (rae["resident"], rae["scopes"], rae["esco_code"]) == (True, ["read"], "wlce")
    assert rae["residences"] == [residence(home, end="2026-10-01T00:00:00Z")]
    told: dict[str, Any] = {"email": "rae@example.org", "email_verified": True}
    subject = uuid.uuid4().hex
    answer = people.exchange(people.issuer.token(subject, **told), invitation=rae["invitation"])
    claims = claims_of(answer)
    assert (claims["sub"], claims["role"], claims["scope"]) == (rae["id"], "resident", "read")
    assert (claims["esco"], claims["esco_code"]) == (rae["esco"], "wlce")
    (listed,) = (
        row for row in admins["wlce"].get("/admin/members").json() if row["id"] == rae["id"]
    )
    assert (listed["subject"], listed["residences"]) == (subject, rae["residences"])
    entries = {
        (entry["action"], entry["detail"])
        for entry in admins["wlce"].get("/admin/audit").json()
        if rae["id"] in (entry["subject"], entry["actor"])
    }
    period = f"{home} 2026-01-01T00:00:00+00:00/2026-10-01T00:00:00+00:00"
    assert ("member.invite", f"rae@example.org; scopes: read; residences: {period}") in entries
    assert {action for action, _ in entries} >= {"member.accept", "token.exchange"}
    # The address opens nothing afterwards, whoever the issuer gives it to.
    other = people.issuer.token(uuid.uuid4().hex, **told)
    refused(people.exchange(other, invitation=rae["invitation"]), "invalid_request", "invitation")
    refused(people.exchange(other), "invalid_request", "not a member")


def test_no_property_but_the_escos_own_is_given(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    own, foreign = homes["wlce"][0], homes["hmce"][0]
    body = {"issuer": people.issuer.url, "name": "Eve"}
    resident = people.member(residences=[residence(own)])
    path = f"/admin/members/{resident['id']}"
    answers = []
    for home in (foreign, UNKNOWN):
        for http in (admins["wlce"], people.operator):
            given = [residence(own), residence(home)]
            new = body | {"subject": uuid.uuid4().hex, "esco": "wlce", "residences": given}
            answers.append((home, http.post("/admin/members", json=new)))
            answers.append((home, http.patch(path, json={"residences": given})))
    # Another's property is answered as one that is none.
    for home, answer in answers:
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"] == f"There is no property {home}."
    refusal = flows(people.stack, "member", "move-in", resident["id"], "--property", foreign,
                    "--start", MOVED_IN, check=False)  # fmt: skip
    assert (refusal.returncode, refusal.stderr.strip()) == (
        1, f"error: There is no property {foreign}.",
    )  # fmt: skip
    # Nothing of what was refused is left.
    (row,) = (row for row in people.operator.get("/admin/members").json() if row["id"] in path)
    assert row["residences"] == resident["residences"]
    # Without an ESCO there is no home.
    new = body | {"subject": "x", "residences": [residence(own)]}
    assert people.operator.post("/admin/members", json=new).status_code == 422


def test_an_admin_manages_the_residents_of_its_esco_alone(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    resident = people.member(esco="hmce", residences=[residence(homes["hmce"][0])])
    path = f"/admin/members/{resident['id']}"
    assert resident["id"] not in admins["wlce"].get("/admin/members").text
    changes: tuple[dict[str, Any], ...] = (
        {"residences": []}, {"residences": [residence(homes["wlce"][0])]}, {"disabled": True},
    )  # fmt: skip
    for change in changes:
        answer = admins["wlce"].patch(path, json=change)
        nobody = admins["wlce"].patch("/admin/members/flm_0000000000000000", json=change)
        assert (answer.status_code, answer.json()["detail"]) == (404, nobody.json()["detail"])
    assert admins["hmce"].patch(path, json={"residences": []}).json()["residences"] == []
    # An admin that may not read can let nobody read.
    row = people.member("admin", esco="hmce")
    with signed_in(people, people.issuer.token(row["subject"])) as http:
        given = {"residences": [residence(homes["hmce"][0])]}
        assert http.patch(path, json=given).status_code == 403


def test_periods_are_changed_and_audited(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    first, second = homes["wlce"][:2]
    resident = people.member(residences=[residence(first)])
    path = f"/admin/members/{resident['id']}"
    june, may = "2026-06-01T00:00:00Z", "2026-05-01T00:00:00Z"
    moved = [residence(first, end=june), residence(second, june)]
    answer = admins["wlce"].patch(path, json={"residences": moved})
    assert (answer.status_code, answer.json()["residences"]) == (200, moved)
    told = f"{first} 2026-01-01T00:00:00+00:00/2026-06-01T00:00:00+00:00, {second}"
    entries = admins["wlce"].get("/admin/audit").json()
    (entry,) = (one for one in entries if told in (one["detail"] or ""))
    assert (entry["action"], entry["subject"]) == ("member.change", resident["id"])
    faults = {
        "ends before it starts": [residence(first, june, may)],
        "at one time": [residence(first, MOVED_IN, june), residence(first, may)],
    }
    for words, wrong in faults.items():
        answer = admins["wlce"].patch(path, json={"residences": wrong})
        assert answer.status_code == 422
        assert words in answer.json()["detail"]
    for wrong in (
        [residence("no id")],
        [residence(first, "2026-06-01T00:00:00")],
        [residence(first, "9999-12-31T23:59:59Z")],
        [residence(first)] * 101,
    ):
        assert admins["wlce"].patch(path, json={"residences": wrong}).status_code == 422
    # A neighbour may live there since.
    for longer in (residence(first), residence(first, end="2026-06-02T00:00:00Z")):
        answer = admins["wlce"].patch(path, json={"residences": [longer, residence(second, june)]})
        assert answer.status_code == 409
        assert "ended at 2026-06-01T00:00:00+00:00" in answer.json()["detail"]
        (listed,) = (
            one
            for one in admins["wlce"].get("/admin/members").json()
            if one["id"] == resident["id"]
        )
        assert listed["residences"] == moved
    # Whoever moves back lives there twice.
    again = [residence(first, MOVED_IN, may), residence(first, june)]
    assert admins["wlce"].patch(path, json={"residences": again}).json()["residences"] == again


def test_a_resident_has_the_scope_read_alone(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    body = {
        "issuer": people.issuer.url, "name": "Rae", "subject": uuid.uuid4().hex,
        "residences": [residence(homes["wlce"][0])],
    }  # fmt: skip
    for scopes in (["write"], ["read", "write"], ["read", "admin"]):
        answer = admins["wlce"].post("/admin/members", json=body | {"scopes": scopes})
        assert answer.status_code == 422, answer.text
    made = admins["wlce"].post("/admin/members", json=body).json()
    path = f"/admin/members/{made['id']}"
    assert admins["wlce"].patch(path, json={"scopes": ["write"]}).status_code == 422
    token = people.issuer.token(made["subject"])
    for scope in ("write", "admin", "read write", "read admin"):
        refused(people.exchange(token, scope=scope), "invalid_scope", "may ask for: read.")
    for esco in ("hmce", "none"):
        refused(people.exchange(token, esco=esco), "invalid_target")
    assert claims_of(people.exchange(token, scope="read"))["role"] == "resident"
    # One of the staff does not become a resident, nor has homes as such.
    staff = people.member("read")
    answer = admins["wlce"].patch(
        f"/admin/members/{staff['id']}", json={"residences": body["residences"]}
    )
    assert answer.status_code == 422


def test_a_person_is_a_resident_here_and_staff_there(
    people: People, homes: dict[str, list[str]]
) -> None:
    subject = uuid.uuid4().hex
    people.member("read", "write", subject=subject, esco="hmce")
    resident = people.member(subject=subject, residences=[residence(homes["wlce"][0])])
    token = people.issuer.token(subject)
    refused(people.exchange(token), "invalid_request", "hmce wlce")
    assert claims_of(people.exchange(token, esco="hmce"))["role"] == "flows"
    assert claims_of(people.exchange(token, esco="wlce"))["role"] == "resident"
    refused(people.exchange(token, esco="wlce", scope="write"), "invalid_scope")
    # As a resident there is one ESCO to choose.
    assert claims_of(people.exchange(token, resident="true"))["sub"] == resident["id"]
    refused(people.exchange(token, esco="hmce", resident="true"), "invalid_target")
    refused(people.exchange(token, resident="yes"), "invalid_request", "resident")


def test_staff_who_live_in_their_esco_choose_as_whom(
    people: People, homes: dict[str, list[str]]
) -> None:
    subject = uuid.uuid4().hex
    staff = people.member("read", "write", subject=subject)
    lives = [residence(homes["wlce"][0])]
    invited = people.member(email="stan@example.org", residences=lives)
    address: dict[str, Any] = {"email": "stan@example.org", "email_verified": True}
    token = people.issuer.token(subject, **address)
    accepted = people.exchange(token, invitation=invited["invitation"])
    assert claims_of(accepted)["sub"] == invited["id"]
    assert claims_of(people.exchange(token))["role"] == "flows"
    assert claims_of(people.exchange(token, resident="true"))["sub"] == invited["id"]
    # Who leaves the staff still lives there.
    people.change(staff["id"], disabled=True)
    assert claims_of(people.exchange(token))["sub"] == invited["id"]
    # Nobody is a resident of an ESCO twice: another home is another residence.
    body = {"issuer": people.issuer.url, "name": "Stan", "esco": "wlce", "residences": lives}
    assert (
        people.operator.post("/admin/members", json=body | {"subject": subject}).status_code == 409
    )


def test_support_acts_for_a_resident_as_a_resident(
    people: People, homes: dict[str, list[str]]
) -> None:
    support = people.member("read", "write", esco=None)
    resident = people.member(residences=[residence(homes["wlce"][0])])
    token = people.issuer.token(support["subject"])
    claims = claims_of(people.exchange(token, on_behalf_of=resident["id"]))
    assert (claims["role"], claims["scope"]) == ("resident", "read")
    assert claims["act"] == {"sub": support["id"]}
    refused(people.exchange(token, on_behalf_of=resident["id"], scope="write"), "invalid_scope")


def test_a_client_with_a_secret_signs_in_residents_of_its_esco(
    people: People, homes: dict[str, list[str]]
) -> None:
    own, foreign = (
        people.issuer.token(people.member(esco=e, residences=[residence(homes[e][0])])["subject"])
        for e in ("wlce", "hmce")
    )
    answer = people.exchange(own, origin=None, **people.own_client)
    assert claims_of(answer)["role"] == "resident"
    answer = people.exchange(foreign, origin=None, **people.own_client)
    refused(answer, "invalid_request", "not of this ESCO")


def test_a_disabled_resident_is_out_at_both_doors_and_gets_no_token(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    resident = people.member(residences=[residence(homes["wlce"][0])])
    subject_token = people.issuer.token(resident["subject"])
    token = people.exchange(subject_token).json()["access_token"]
    path = f"/admin/members/{resident['id']}"
    assert 401 not in people.doors(token)
    assert admins["wlce"].patch(path, json={"disabled": True}).json()["disabled_at"]
    wait_until(lambda: people.doors(token) == {401}, seconds=5)
    refused(people.exchange(subject_token), "invalid_request", "not a member")
    admins["wlce"].patch(path, json={"disabled": False}).raise_for_status()
    assert people.exchange(subject_token).status_code == 200


def test_a_resident_administers_writes_and_imports_nothing(
    people: People, admins: dict[str, httpx.Client], homes: dict[str, list[str]]
) -> None:
    resident = people.member(residences=[residence(homes["wlce"][0])])
    paths = admins["wlce"].get("/openapi.json").json()["paths"]
    with signed_in(people, people.issuer.token(resident["subject"])) as http:

        def forbidden(method: str, path: str, **body: Any) -> None:
            answer = http.request(method, path, **body)
            assert answer.status_code == 403, (method, path, answer.status_code, answer.text)
            told = answer.json()
            assert told.get("detail") or told.get("message"), answer.text

        administration = [path for path in paths if path.startswith("/admin")]
        assert "/admin/members/{member_id}" in administration
        for path in administration:
            for method in paths[path]:
                forbidden(method.upper(), path.replace("{", "").replace("}", ""), json={})
        forbidden("POST", "/v1/imports", files={"file": ("a.csv", b"time,use\n")})
        relations = [path for path in paths if re.fullmatch(r"/rest/v1/\w+", path)]
        for path in relations:
            if "post" in paths[path]:
                forbidden("POST", path, json={})
        for relation in ("properties", "circuits", "meter_registry"):
            path = f"/rest/v1/{relation}"
            assert "post" in paths[path]
            forbidden("PATCH", path, params={"id": f"eq.{UNKNOWN}"}, json={"id": UNKNOWN})
            forbidden("DELETE", path, params={"id": f"eq.{UNKNOWN}"})


def test_the_commands_move_residents(people: People, homes: dict[str, list[str]]) -> None:
    first, second = homes["wlce"][:2]
    who = ("--issuer", people.issuer.url, "--esco", "wlce")
    made = people.command(
        "member", "add", "Rae", *who, "--subject", uuid.uuid4().hex,
        "--property", first, "--start", MOVED_IN,
    )  # fmt: skip
    assert (made["resident"], made["scopes"]) == (True, ["read"])
    june, july = "2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z"
    people.command("member", "move-out", made["id"], "--property", first, "--end", june)
    moved = people.command("member", "move-in", made["id"], "--property", second, "--start", june)
    assert [(one["property"], one["end_time"] is None) for one in moved["residences"]] == [
        (first, False), (second, True),
    ]  # fmt: skip
    listed = flows(people.stack, "member", "residences", made["id"]).stdout.splitlines()
    assert [line.split() for line in listed[1:]] == [
        [first, "2026-01-01", "00:00Z", "2026-06-01", "00:00Z"], [second, "2026-06-01", "00:00Z"],
    ]  # fmt: skip
    faults = {
        ("move-out", made["id"], "--property", UNKNOWN, "--end", june): "no residence",
        ("move-out", made["id"], "--property", first, "--end", july): "has moved out of the",
        ("move-in", made["id"], "--property", second, "--start", "soon"): "--start: 'soon' is not",
        ("move-in", made["id"], "--property", second, "--start", june): "at one time",
        ("add", "Rae", *who, "--subject", "x", "--property", first): "a resident needs both",
    }
    for words, told in faults.items():
        refusal = flows(people.stack, "member", *words, check=False)
        assert refusal.returncode == 1
        assert told in refusal.stderr


@dataclass(frozen=True)
class Home:
    """A home of the demo: its property, its registers, and the serial number of its meter."""

    property: str
    registers: set[str]
    serial: str


@pytest.fixture(scope="module")
def two_homes(people: People) -> tuple[Home, Home]:
    """Two homes of Water Lilies that are not neighbours on a service head."""
    with psycopg.connect(people.stack.contract["database_url"]) as admin:
        rows = admin.execute(
            "select h.property::text, array_agg(r.register_id::text), m.serial"
            " from flows.properties_service_head as h"
            " join flows.service_head_meter as s on s.service_head = h.service_head"
            " join flows.meter_registry as m on m.id = s.meter"
            " join flows.meter_registers as r on r.meter_id = m.id"
            " where m.serial in ('WLCE0005', 'WLCE0006') group by 1, 3 order by 3"
        ).fetchall()
    first, second = (Home(home, set(registers), serial) for home, registers, serial in rows)
    return first, second


def midnight(days: int) -> str:
    """Return the midnight in UTC a number of days ago, as `/admin/members` writes it."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return f"{today - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"


def as_written(time: str) -> str:
    """Return a time in UTC, as `/admin/members` writes it."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def half_hours(people: People, token: str) -> set[tuple[str, str, frozenset[str]]]:
    """Return the oldest and the newest half-hour, and the registers, that a token shows.

    As at each door: in agreement they are one.
    """
    found = set()
    for door in ("rest_url", "postgrest_url"):
        url = f"{people.stack.contract[door]}/register_interval_hh"
        headers = {"Authorization": f"Bearer {token}"}
        rows = []
        for direction in ("asc", "desc"):
            query = {"select": "timestamp,register_id", "order": f"timestamp.{direction}"}
            answer = httpx.get(url, params=query | {"limit": "1000"}, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
            rows += answer.json()
        oldest, *_, newest = sorted(as_written(row["timestamp"]) for row in rows)
        found.add((oldest, newest, frozenset(row["register_id"] for row in rows)))
    return found


def days_of(http: httpx.Client, **filters: str) -> dict[str, float]:
    """Return day → kWh of the last 90 days in UTC, as `/v1/energy` has them for a caller."""
    query = {"granularity": "P1D", "group_by": "esco", "period_from": midnight(90),
             "period_to": midnight(0), "timezone": "UTC"}  # fmt: skip
    answer = http.get("/v1/energy", params=query | filters)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["rows"]
    return {
        as_written(row["interval_start"]): row["import_kwh"] for row in rows if row["import_kwh"]
    }


def test_history_is_that_of_the_residence_with_tokens_issued_before_too(
    people: People, admins: dict[str, httpx.Client], two_homes: tuple[Home, Home]
) -> None:
    home, _ = two_homes
    since, until = midnight(40), midnight(10)
    before = people.member(residences=[residence(home.property, since)])
    after = people.member(residences=[residence(home.property, until)])
    answer = people.exchange(people.issuer.token(before["subject"]))
    token = answer.json()["access_token"]
    registers = frozenset(home.registers)
    ((oldest, newest, seen),) = half_hours(people, token)
    assert (oldest, newest > until, seen) == (since, True, registers)
    moved = {"residences": [residence(home.property, since, until)]}
    admins["wlce"].patch(f"/admin/members/{before['id']}", json=moved).raise_for_status()
    last = f"{datetime.fromisoformat(until) - timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}"
    assert half_hours(people, token) == {(since, last, registers)}
    whole = days_of(admins["wlce"], meter=home.serial)
    with signed_in(people, people.issuer.token(before["subject"])) as http:
        days = days_of(http)
        assert days == pytest.approx({day: whole[day] for day in whole if since <= day < until})
        assert len(days) == 30
    with signed_in(people, people.issuer.token(after["subject"])) as http:
        assert days_of(http) == pytest.approx({day: whole[day] for day in whole if until <= day})
    # A home that was given by mistake is taken away at once.
    path = f"/admin/members/{before['id']}"
    admins["wlce"].patch(path, json={"residences": []}).raise_for_status()
    for door in ("rest_url", "postgrest_url"):
        url = f"{people.stack.contract[door]}/register_interval_hh"
        empty = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert empty.json() == []


def test_what_is_kept_for_one_resident_is_shown_to_no_other(
    people: People, admins: dict[str, httpx.Client], two_homes: tuple[Home, Home]
) -> None:
    """Files that are read in parts, validators, and the examples of the document."""
    query = {"granularity": "P1D", "group_by": "circuit", "period_from": midnight(20),
             "period_to": midnight(5)}  # fmt: skip
    clients = {"staff": admins["wlce"]}
    for home in two_homes:
        row = people.member(residences=[residence(home.property)])
        clients[home.serial] = signed_in(people, people.issuer.token(row["subject"]))
    files, tags, documents = {}, {}, {}
    for name, http in clients.items():
        answer = http.get("/v1/energy", params=query | {"format": "parquet"})
        assert answer.status_code == 200, answer.text
        files[name] = answer.content
        shown = http.get("/v1/energy", params=query)
        tags[name] = shown.headers["etag"]
        documents[name] = http.get("/openapi.json").text
    assert len(set(files.values())) == len(set(tags.values())) == 3
    for name, http in clients.items():
        for owner, tag in tags.items():
            answer = http.get("/v1/energy", params=query, headers={"If-None-Match": tag})
            assert answer.status_code == (304 if owner == name else 200)
    for home in two_homes:
        assert set(re.findall(r"WLCE\w+", documents[home.serial])) == {home.serial}
        clients[home.serial].close()
