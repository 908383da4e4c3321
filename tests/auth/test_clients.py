"""Clients: admins manage those of their ESCO, secrets rotate without a gap, all is audited."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from app.settings import LimitsSettings
from tests.conftest import Stack, flows, wait_until

Admin = psycopg.Connection[Any]
RIGHTS = {
    "read": ("--scope", "read"),
    "all": ("--scope", "read", "--scope", "write", "--scope", "admin"),
}


def make(stack: Stack, name: str, *options: str) -> dict[str, Any]:
    """Create a client on the command line; return it with its secret."""
    made = flows(stack, "client", "create", name, *options, "--json").stdout
    client: dict[str, Any] = json.loads(made)[0]
    return client


def ask(stack: Stack, client_id: str, secret: str, **form: str) -> httpx.Response:
    """Request a token."""
    return httpx.post(
        stack.contract["base_url"] + "/auth/token",
        data={"grant_type": "client_credentials"} | form,
        auth=(client_id, secret),
        timeout=30,  # secrets are hashed one after the other
    )


def bearer(stack: Stack, client: dict[str, Any], **form: str) -> httpx.Client:
    """Return an HTTP client with a token of this API client."""
    answer = ask(stack, client["id"], client["client_secret"], **form)
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return httpx.Client(base_url=stack.contract["base_url"], headers=headers)


@pytest.fixture(scope="module")
def admins(stack: Stack) -> Iterator[dict[str, httpx.Client]]:
    """HTTP clients of an admin of each of two ESCOs, and of an operator of the platform."""
    clients = {
        code: bearer(stack, make(stack, f"admin of {code}", "--esco", code, *RIGHTS["all"]))
        for code in ("wlce", "hmce")
    }
    clients["operator"] = bearer(stack, make(stack, "operator"))
    yield clients
    for client in clients.values():
        client.close()


def test_an_admin_makes_changes_and_disables_its_own_clients(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    wlce = admins["wlce"]
    made = wlce.post("/admin/clients", json={"name": "sync", "scopes": ["read", "write"]})
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    client = made.json()
    assert client["client_secret"].startswith("fls_")
    token = ask(stack, client["id"], client["client_secret"])
    assert token.json()["scope"] == "read write"
    listed = {row["id"]: row for row in wlce.get("/admin/clients").json()}
    assert "client_secret" not in listed[client["id"]]
    assert "hash" not in json.dumps(listed)
    assert listed[client["id"]]["last_used_at"]
    changed = wlce.patch(f"/admin/clients/{client['id']}", json={"scopes": ["read"]})
    assert changed.json()["scopes"] == ["read"]
    widened = ask(stack, client["id"], client["client_secret"], scope="read write")
    assert (widened.status_code, widened.json()["error"]) == (400, "invalid_scope")
    assert wlce.delete(f"/admin/clients/{client['id']}").status_code == 204
    assert ask(stack, client["id"], client["client_secret"]).status_code == 401
    # Its token stops working at the gateway and at PostgREST.
    headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
    for door in ("rest_url", "postgrest_url"):
        url = f"{stack.contract[door]}/escos"
        wait_until(lambda: httpx.get(url, headers=headers).status_code == 401, seconds=5)  # noqa: B023


def test_another_escos_client_is_the_same_404_as_none(admins: dict[str, httpx.Client]) -> None:
    foreign = admins["hmce"].post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
    wlce = admins["wlce"]
    for path in (foreign["id"], "flc_none"):
        answers = [
            wlce.get(f"/admin/clients/{path}"),
            wlce.patch(f"/admin/clients/{path}", json={"name": "mine"}),
            wlce.delete(f"/admin/clients/{path}"),
            wlce.post(f"/admin/clients/{path}/secrets"),
            wlce.delete(f"/admin/clients/{path}/secrets/{foreign['secrets'][0]['id']}"),
        ]
        assert [answer.status_code for answer in answers] == [404] * 5
    assert foreign["id"] not in wlce.get("/admin/clients").text
    for esco in ("hmce", "none"):
        answer = wlce.post("/admin/clients", json={"name": "x", "scopes": ["read"], "esco": esco})
        assert answer.status_code == 404
    assert foreign["id"] in admins["operator"].get("/admin/clients").text


def test_a_token_without_admin_scope_is_refused(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    with stack.client("wlce", "write") as writer:
        assert writer.get("/admin/clients").status_code == 403
    for path in ("/admin/escos", "/admin/clients", "/admin/audit"):
        assert httpx.get(stack.contract["base_url"] + path).status_code == 401
    assert admins["wlce"].get("/admin/escos").status_code == 403
    assert admins["wlce"].post("/admin/escos", json={"code": "new", "name": "x"}).status_code == 403
    # An operator can administer but reads no data.
    assert admins["operator"].get("/rest/v1/escos").status_code == 403
    assert admins["operator"].get("/v1/energy").status_code == 403


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": "", "scopes": ["read"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["all"]},
        {"name": "x", "scopes": ["read"], "lifetime_seconds": 10_000_000},
        {"name": "x", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00"},
        {"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": " ", "scopes": ["read"]},
    ],
)
def test_an_invalid_client_is_a_422(
    admins: dict[str, httpx.Client], wanted: dict[str, Any]
) -> None:
    assert admins["wlce"].post("/admin/clients", json=wanted).status_code == 422


def test_a_secret_is_replaced_without_a_gap(stack: Stack, admins: dict[str, httpx.Client]) -> None:
    wlce = admins["wlce"]
    client = wlce.post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
    old = client["client_secret"]
    path = f"/admin/clients/{client['id']}/secrets"
    new = wlce.post(path).json()["client_secret"]
    assert [ask(stack, client["id"], secret).status_code for secret in (old, new)] == [200, 200]
    assert wlce.post(path).status_code == 409
    first = wlce.get(f"/admin/clients/{client['id']}").json()["secrets"][0]["id"]
    assert wlce.delete(f"{path}/{first}").status_code == 204
    assert [ask(stack, client["id"], secret).status_code for secret in (old, new)] == [401, 200]
    (last,) = wlce.get(f"/admin/clients/{client['id']}").json()["secrets"]
    assert wlce.delete(f"{path}/{last['id']}").status_code == 409
    flows(stack, "client", "rotate-secret", client["id"])
    newest = json.loads(flows(stack, "client", "rotate-secret", client["id"], "--json").stdout)
    assert ask(stack, client["id"], new).status_code == 401
    assert ask(stack, client["id"], newest[0]["client_secret"]).status_code == 200


def test_an_esco_that_is_disabled_stops_within_seconds(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    operator = admins["operator"]
    made = operator.post("/admin/escos", json={"code": "gone", "name": "Gone"})
    assert made.status_code == 201, made.text
    assert operator.post("/admin/escos", json={"code": "gone", "name": "x"}).status_code == 409
    client = make(stack, "x", "--esco", "gone")
    with bearer(stack, client) as gone:
        assert gone.get("/rest/v1/escos").json()[0]["code"] == "gone"
        assert operator.patch("/admin/escos/gone", json={"disabled": True}).status_code == 200
        wait_until(lambda: gone.get("/rest/v1/escos").status_code == 401, seconds=5)
        direct = httpx.get(f"{stack.contract['postgrest_url']}/escos", headers=gone.headers)
        assert direct.status_code == 401
        assert ask(stack, client["id"], client["client_secret"]).status_code == 401
        flows(stack, "esco", "enable", "gone")
        wait_until(lambda: gone.get("/rest/v1/escos").status_code == 200, seconds=5)
    with psycopg.connect(stack.contract["database_url"]) as admin:
        admin.execute("delete from flows.escos where code = 'gone'")


def test_80_numbers_of_the_audit_log_count_no_entries_of_others(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    """Numbers that count the entries of all ESCOs would tell each how busy the others are."""

    def newest() -> dict[str, Any]:
        (entry,) = admins["wlce"].get("/admin/audit?limit=1").json()
        return dict(entry)

    for _ in range(3):
        make(stack, "x", "--esco", "wlce")
        entry = newest()
        at = datetime.fromisoformat(entry["at"])
        assert entry["id"] == round(at.timestamp() * 1_000_000)
    pages: list[Any] = []
    before = 2**53 - 1
    while page := admins["wlce"].get(f"/admin/audit?limit=7&before={before}").json():
        assert len(pages) < 1000
        pages.append(page)
        before = page[-1]["id"]
    ids = [entry["id"] for page in pages for entry in page]
    assert ids == sorted(ids, reverse=True)
    whole = admins["wlce"].get("/admin/audit?limit=1000").json()
    assert [entry["id"] for entry in whole] == ids[: len(whole)]


def test_everything_is_audited_and_the_audit_cannot_be_changed(
    stack: Stack, admins: dict[str, httpx.Client], admin: Admin
) -> None:
    client = admins["wlce"].post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
    got = ask(stack, client["id"], client["client_secret"])
    wider = {"scopes": ["read", "write", "read"]}
    admins["wlce"].patch(f"/admin/clients/{client['id']}", json=wider)
    ask(stack, client["id"], "wrong")
    entries = admins["wlce"].get("/admin/audit?limit=10").json()
    mine = [entry for entry in entries if client["id"] in (entry["subject"], entry["actor"])]
    assert [(entry["action"], entry["outcome"]) for entry in mine] == [
        ("client.authenticate", "wrong credentials"),
        ("client.change", "done"),
        ("token.issue", "done"),
        ("client.create", "done"),
    ]
    assert all(entry["address"] == "127.0.0.1" for entry in mine)
    _, changed, issued, made = mine
    assert changed["detail"] == "scopes: read write; role: flows"
    claims = jwt.decode(got.json()["access_token"], options={"verify_signature": False})
    assert (issued["subject"], issued["detail"]) == (claims["jti"], "read")
    assert "scopes: read; lifetime_seconds: 3600" in made["detail"]
    own = {entry["esco"] for entry in admins["wlce"].get("/admin/audit?limit=1000").json()}
    assert own == {stack.contract["escos"]["wlce"]["id"]}
    refused = admin.execute(
        "select outcome from gateway.audit where actor = %s and action = 'client.authenticate'",
        (client["id"],),
    ).fetchall()
    assert refused == [("wrong credentials",)]
    everything = str(admin.execute("select * from gateway.audit").fetchall())
    assert "fls_" not in everything
    assert "eyJ" not in everything
    for statement in ("update gateway.audit set actor = 'x'", "delete from gateway.audit",
                      "truncate gateway.audit"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege), admin.transaction():
            admin.execute(statement)


def test_guessing_is_throttled_for_the_guesser_only(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    client = admins["wlce"].post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
    answers = [ask(stack, client["id"], "guess") for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert answers[-1].json()["error"] == "invalid_client"
    other = stack.contract["escos"]["wlce"]
    assert ask(stack, other["client_id"], other["client_secret"]).status_code == 200


def test_an_esco_has_a_bounded_number_of_clients_members_and_apps(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    """Each process asks every second for all that are disabled (SECURITY 53)."""
    most = LimitsSettings().identities
    operator, issuer = admins["operator"], "https://bounded.example.org"
    operator.post("/admin/issuers", json={"url": issuer, "audiences": ["x"]}).raise_for_status()
    trusted = {"issuer": issuer, "scopes": ["read"]}
    columns = {
        "client": ("flc_", "role, lifetime_seconds, scopes", "'flows', 600, '{read}'"),
        "member": ("flm_", "subject, scopes, issuer", "n, '{read}', (select id from issuer)"),
        "app": ("fla_", "origins", "'{x}'"),
    }
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        try:
            for kind, (prefix, names, values) in columns.items():
                admin.execute(
                    "with issuer as (select id from gateway.issuer where url = %s)"
                    f" insert into gateway.{kind} (id, name, disabled_at, esco, {names})"
                    f" select '{prefix}' || lpad(n::text, 16, '0'), 'full', now(), e.id, {values}"
                    " from generate_series(1, %s) as n, flows.escos as e where e.code = 'hmce'",
                    (issuer, most),
                )
            asked = [
                admins["hmce"].post("/admin/clients", json={"name": "x", "scopes": ["read"]}),
                admins["hmce"].post("/admin/members", json={"name": "x", "subject": "x"} | trusted),
                operator.post(
                    "/admin/apps", json={"name": "x", "origins": ["https://x.org"], "esco": "hmce"}
                ),
            ]
            for kind, answer in zip(columns, asked, strict=True):
                assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), answer.text
                assert f"has {most:,} {kind}s" in answer.json()["detail"]
            for words in (
                ("client", "create", "x"),
                ("member", "add", "x", "--issuer", issuer, "--subject", "x"),
                ("app", "create", "x", "--origin", "https://x.org"),
            ):
                done = flows(stack, *words, "--esco", "hmce", check=False)
                assert (done.returncode, f"has {most:,} " in done.stderr) == (1, True)
            other = admins["wlce"].post("/admin/clients", json={"name": "x", "scopes": ["read"]})
            assert other.status_code == 201
        finally:
            for kind in columns:
                admin.execute(f"delete from gateway.{kind} where name = 'full'")
            admin.execute("delete from gateway.issuer where url = %s", (issuer,))


def test_residents_have_a_bound_of_their_own_and_are_listed_in_pages(
    stack: Stack, admins: dict[str, httpx.Client]
) -> None:
    most = LimitsSettings().residents
    operator, issuer = admins["operator"], "https://residents.example.org"
    operator.post("/admin/issuers", json={"url": issuer, "audiences": ["x"]}).raise_for_status()
    body = {"issuer": issuer, "name": "zoe", "scopes": ["read"]}
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        try:
            admin.execute(
                "insert into gateway.member (id, name, esco, issuer, subject, scopes, resident)"
                " select 'flm_' || lpad(n::text, 16, '0'), 'full', e.id, i.id, n, '{read}', true"
                " from generate_series(1, %s) as n, flows.escos as e, gateway.issuer as i"
                " where e.code = 'hmce' and i.url = %s",
                (most, issuer),
            )
            refused = admins["hmce"].post(
                "/admin/members", json=body | {"subject": "one more", "residences": []}
            )
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict"), refused.text
            assert f"has {most:,} residents" in refused.json()["detail"]
            staff = admins["hmce"].post("/admin/members", json=body | {"subject": "staff"})
            assert staff.status_code == 201, staff.text
            other = admins["wlce"].post("/admin/members", json=body | {"subject": "other"})
            # Names that are alike, so that the ids decide.
            begun = next(
                row["id"] for row in admins["hmce"].get("/admin/members").json()
                if row["name"] == "full"
            )  # fmt: skip
            found, after = [begun], begun
            for _ in range(3):
                page = admins["hmce"].get("/admin/members", params={"after": after, "limit": 9})
                found += [row["id"] for row in page.json()]
                after = found[-1]
            assert found == [f"flm_{n:016}" for n in range(1, 29)]
            last = admins["hmce"].get("/admin/members", params={"after": f"flm_{most:016}"})
            assert staff.json()["id"] in [row["id"] for row in last.json()]
            foreign = admins["hmce"].get("/admin/members", params={"after": other.json()["id"]})
            assert foreign.status_code == 404
        finally:
            admin.execute("delete from gateway.issuer where url = %s", (issuer,))
