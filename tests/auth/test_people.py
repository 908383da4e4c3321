"""People sign in: issuers, members, apps, and the exchange of their tokens at `/auth/token`."""

import base64
import concurrent.futures
import hashlib
import hmac
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from app.auth.exchange import ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, NOT_A_MEMBER, TOKEN_EXCHANGE
from tests.auth.issuer_server import AUDIENCE, running_issuer
from tests.auth.people import ORIGIN, PROXY_HEADER, People, refused, running_people
from tests.conftest import another_gateway, flows, wait_until

pytestmark = pytest.mark.stack

SECRET = "a secret of a Supabase project, long enough for HS512 to take it too"
SUPABASE = "https://project.example.org/auth/v1"


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    """People who sign in, also at a Supabase project."""
    with running_people(FLOWS_ISSUERS_HMAC_SECRETS=json.dumps({"project": SECRET})) as made:
        yield made


def test_a_member_gets_a_token_of_its_esco_for_fifteen_minutes(people: People) -> None:
    member = people.member("read", "write")
    answer = people.exchange(people.issuer.token(member["subject"]))
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    body = answer.json()
    assert body["issued_token_type"] == ACCESS_TOKEN_TYPE
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 900, "read write")
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["client_id"]) == (member["id"], people.app)
    assert claims["exp"] - claims["iat"] == 900
    assert (claims["esco_code"], claims["role"], "act" in claims) == ("wlce", "flows", False)
    assert people.doors(body["access_token"]) == {200}
    assert (member["id"], "token.exchange", "done", f"read write; {people.app}") in people.audit()
    narrowed = people.exchange(people.issuer.token(member["subject"]), scope="read").json()
    claims = jwt.decode(narrowed["access_token"], options={"verify_signature": False})
    assert (claims["scope"], claims["role"]) == ("read", "public_backend")


@pytest.mark.parametrize(("kid", "algorithm"), [("rsa", "RS512"), ("ec", "ES256"), ("ed", "EdDSA")])
def test_each_kind_of_key_verifies(people: People, kid: str, algorithm: str) -> None:
    with running_issuer() as issuer:
        issuer.keys["ec"] = ec.generate_private_key(ec.SECP256R1())
        issuer.keys["ed"] = ed25519.Ed25519PrivateKey.generate()
        people.trust(issuer)
        member = people.member(url=issuer.url)
        token = issuer.token(member["subject"], kid, algorithm)
        assert people.exchange(token).status_code == 200
        # The keys are kept: another exchange fetches nothing.
        assert people.exchange(token).status_code == 200
        assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]


def test_a_supabase_secret_verifies_hs256_and_nothing_else(people: People) -> None:
    flows(
        people.stack, "issuer", "add", SUPABASE, "--audience", "authenticated",
        "--secret", "project", "--claim", "role=authenticated",
    )  # fmt: skip
    member = people.member(url=SUPABASE)
    claims = people.issuer.claims(
        member["subject"], iss=SUPABASE, aud="authenticated", role="authenticated"
    )
    assert people.exchange(jwt.encode(claims, SECRET, "HS256")).status_code == 200
    refused(people.exchange(jwt.encode(claims, SECRET, "HS512")), "invalid_request", "algorithm")
    other = jwt.encode(claims, "x" * 40, "HS256")
    refused(people.exchange(other), "invalid_request", "Signature")
    service = jwt.encode(claims | {"role": "anon"}, SECRET, "HS256")
    refused(people.exchange(service), "invalid_request", "claim role")


def test_a_person_of_several_escos_names_one(people: People) -> None:
    subject = uuid.uuid4().hex
    people.member("write", subject=subject)
    people.member(subject=subject, esco="hmce")
    token = people.issuer.token(subject)
    refused(people.exchange(token), "invalid_request", "hmce wlce")
    found = people.exchange(token, esco="hmce").json()
    claims = jwt.decode(found["access_token"], options={"verify_signature": False})
    assert (claims["esco_code"], claims["scope"]) == ("hmce", "read")
    # Neither another ESCO, nor a scope that the person has elsewhere.
    refused(people.exchange(token, esco="bfce"), "invalid_target")
    refused(people.exchange(token, esco="none"), "invalid_target")
    refused(people.exchange(token, esco="hmce", scope="write"), "invalid_scope")
    refused(people.exchange(token, esco="wlce", scope="write admin"), "invalid_scope")


def test_an_invitation_is_for_a_verified_address_and_one_subject(people: People) -> None:
    invited = people.member(email="Ann@example.org")
    code = invited["invitation"]
    assert code.startswith("fli_")
    ann, eve = uuid.uuid4().hex, uuid.uuid4().hex

    def accept(subject: str, **claims: Any) -> httpx.Response:
        return people.exchange(people.issuer.token(subject, **claims), invitation=code)

    for verified in (None, False, "false", "true", 1):
        answer = accept(ann, email="ann@example.org", email_verified=verified)
        refused(answer, "invalid_request", "invitation")
    refused(accept(eve, email="eve@example.org", email_verified=True), "invalid_request")
    address: dict[str, Any] = {"email": "ann@example.org", "email_verified": True}
    # The address alone opens nothing: the invitation is handed over.
    refused(people.exchange(people.issuer.token(ann, **address)), "invalid_request")
    assert accept(ann, **address).status_code == 200
    # Once it is accepted, the subject counts: neither the code nor the address opens anything,
    # although the issuer may have given the address to somebody else.
    refused(accept(eve, **address), "invalid_request", "invitation")
    refused(people.exchange(people.issuer.token(eve, **address)), "invalid_request")
    assert people.exchange(people.issuer.token(ann)).status_code == 200


def test_an_invitation_is_accepted_at_its_own_issuer(people: People) -> None:
    """An address that another issuer has verified is another person's."""
    invited = people.member(email="ivy@example.org")
    told: dict[str, Any] = {"email": "ivy@example.org", "email_verified": True}
    with running_issuer() as other:
        people.trust(other)
        answer = people.exchange(other.token("ivy", **told), invitation=invited["invitation"])
        refused(answer, "invalid_request", "invitation")
    answer = people.exchange(people.issuer.token("ivy", **told), invitation=invited["invitation"])
    assert answer.status_code == 200, answer.text


def test_an_invitation_of_who_becomes_a_member_meanwhile_is_refused(people: People) -> None:
    subject = uuid.uuid4().hex
    invited = people.member(email="jo@example.org")
    told: dict[str, Any] = {"email": "jo@example.org", "email_verified": True}
    token = people.issuer.token(subject, **told)
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'invitation'"
    with (
        psycopg.connect(people.stack.contract["database_url"]) as admin,
        psycopg.connect(people.stack.contract["database_url"], autocommit=True) as other,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        admin.execute(
            "insert into gateway.member (id, issuer, subject, esco, name, scopes)"
            " select 'flm_00000000000000aa', issuer, %s, esco, name, scopes from gateway.member"
            " where id = %s",
            (subject, invited["id"]),
        )
        answer = pool.submit(people.exchange, token, invitation=invited["invitation"])
        wait_until(lambda: other.execute(waiting).fetchone() is not None)
        admin.commit()
        refused(answer.result(), "invalid_request", "invitation")
    assert people.exchange(token).status_code == 200


def test_an_invitation_ends(people: People) -> None:
    invited = people.member(email="late@example.org")
    with psycopg.connect(people.stack.contract["database_url"]) as admin:
        admin.execute(
            "update gateway.member set invited_until = now() where id = %s", (invited["id"],)
        )
    token = people.issuer.token("late", email="late@example.org", email_verified=True)
    refused(people.exchange(token, invitation=invited["invitation"]), "invalid_request")


def test_support_acts_for_a_member_within_what_both_may(people: People) -> None:
    support = people.member("read", esco=None)
    member = people.member("read", "write")
    token = people.issuer.token(support["subject"])
    refused(people.exchange(token), "invalid_request", "not a member")
    answer = people.exchange(token, on_behalf_of=member["id"])
    assert answer.status_code == 200, answer.text
    acting = answer.json()["access_token"]
    claims = jwt.decode(acting, options={"verify_signature": False})
    assert (claims["sub"], claims["act"]) == (member["id"], {"sub": support["id"]})
    assert (claims["scope"], claims["esco_code"]) == ("read", "wlce")
    told = f"read; {people.app}; for {member['id']}"
    assert (support["id"], "token.exchange", "done", told) in people.audit()
    refused(people.exchange(token, on_behalf_of=member["id"], scope="write"), "invalid_scope")
    refused(people.exchange(token, on_behalf_of="flm_none"), "invalid_target")
    other = people.issuer.token(people.member("read")["subject"])
    refused(people.exchange(other, on_behalf_of=member["id"]), "invalid_target")
    # Its tokens end with the support, at both doors.
    assert people.doors(acting) == {200}
    people.change(support["id"], disabled=True)
    wait_until(lambda: people.doors(acting) == {401}, seconds=5)


def test_a_disabled_member_is_out_at_both_doors_and_gets_no_token(people: People) -> None:
    member, other = people.member(), people.member()
    subject_token = people.issuer.token(member["subject"])
    token = people.exchange(subject_token).json()["access_token"]
    kept = people.exchange(people.issuer.token(other["subject"])).json()["access_token"]
    assert people.doors(token) == {200}
    people.change(member["id"], disabled=True)
    wait_until(lambda: people.doors(token) == {401}, seconds=5)
    refused(people.exchange(subject_token), "invalid_request", "not a member")
    assert people.doors(kept) == {200}


def test_members_of_a_disabled_esco_get_no_token(people: People) -> None:
    subject = uuid.uuid4().hex
    for esco in ("wlce", "bfce"):
        people.member(subject=subject, esco=esco)
    token = people.issuer.token(subject)
    people.operator.patch("/admin/escos/bfce", json={"disabled": True}).raise_for_status()
    refused(people.exchange(token, esco="bfce"), "invalid_target", "not of this ESCO")
    # It is not among those to choose from either.
    assert people.exchange(token).json()["scope"] == "read"
    people.operator.patch("/admin/escos/bfce", json={"disabled": False}).raise_for_status()
    assert people.exchange(token, esco="bfce").status_code == 200


def test_an_exchanged_token_does_not_work_after_sign_out(people: People) -> None:
    token = people.exchange(people.issuer.token(people.member()["subject"])).json()["access_token"]
    assert people.doors(token) == {200}
    form = {"client_id": people.app, "token": token}
    refused(people.post("/auth/revoke", form, "https://evil.example"), "unauthorized_client")
    assert people.doors(token) == {200}
    assert people.post("/auth/revoke", form).status_code == 200
    wait_until(lambda: people.doors(token) == {401}, seconds=5)
    # Nor does it exchange itself for another.
    refused(people.exchange(token), "invalid_request", "not trusted")


def test_an_app_revokes_no_token_that_another_got(people: People) -> None:
    other = people.command("app", "create", "Other", "--origin", ORIGIN)
    token = people.exchange(people.issuer.token(people.member()["subject"])).json()["access_token"]
    form = {"client_id": other["id"], "token": token}
    assert people.post("/auth/revoke", form).status_code == 200
    with psycopg.connect(people.stack.contract["database_url"]) as admin:
        jti = jwt.decode(token, options={"verify_signature": False})["jti"]
        found = admin.execute("select from gateway.revoked_token where jti = %s", (jti,))
        assert found.fetchone() is None
    assert people.doors(token) == {200}


def test_a_disabled_app_and_its_tokens_are_out(people: People) -> None:
    made = people.command("app", "create", "Old", "--origin", ORIGIN, "--esco", "wlce")
    member = people.member()
    subject_token = people.issuer.token(member["subject"])
    token = people.exchange(subject_token, client_id=made["id"]).json()["access_token"]
    foreign = people.member(esco="hmce")
    refused(
        people.exchange(people.issuer.token(foreign["subject"]), client_id=made["id"]),
        "invalid_request",
        "not of this ESCO",
    )
    people.command("app", "disable", made["id"])
    wait_until(lambda: people.doors(token) == {401}, seconds=5)
    refused(people.exchange(subject_token, client_id=made["id"]), "invalid_client")


def test_an_app_may_exchange_and_nothing_else_from_its_own_origins(people: People) -> None:
    token = people.issuer.token(people.member()["subject"])
    for origin in (None, "null", "https://evil.example", f"{ORIGIN}.evil.example"):
        refused(people.exchange(token, origin=origin), "unauthorized_client")
    form = {"grant_type": "client_credentials", "client_id": people.app}
    refused(people.post("/auth/token", form), "invalid_client")
    form = {"client_id": people.app, "token": token}
    refused(people.post("/auth/introspect", form), "invalid_client")
    for resource in ("https://evil.example", people.issuer.url):
        refused(people.exchange(token, resource=resource), "invalid_target")
    answer = people.exchange(token, subject_token_type="urn:ietf:params:oauth:token-type:saml2")
    refused(answer, "invalid_request", "subject_token_type")
    answer = people.exchange(token, requested_token_type=ID_TOKEN_TYPE)
    refused(answer, "invalid_request", "requested_token_type")
    refused(people.exchange(token, actor_token=token), "invalid_request", "actor_token")


def test_a_client_with_a_secret_exchanges_for_its_own_esco(people: People) -> None:
    own, foreign = (people.member(esco=esco)["subject"] for esco in ("wlce", "hmce"))
    answer = people.exchange(people.issuer.token(own), origin=None, **people.own_client)
    assert answer.json()["scope"] == "read"
    answer = people.exchange(people.issuer.token(foreign), **people.own_client)
    refused(answer, "invalid_request", "not of this ESCO")
    wrong = people.own_client | {"client_secret": "wrong"}
    refused(people.exchange(people.issuer.token(own), **wrong), "invalid_client")
    # Nobody gets through a client what the client may not do.
    made = people.command("client", "create", "Reads", "--esco", "wlce", "--scope", "read")
    reading = {"client_id": made["id"], "client_secret": made["client_secret"]}
    writer = people.issuer.token(people.member("read", "write")["subject"])
    assert people.exchange(writer, **reading).json()["scope"] == "read"
    answer = people.exchange(writer, scope="write", **reading)
    refused(answer, "invalid_scope", "may ask for: read.")


def test_a_client_with_a_secret_is_told_who_acts_for_whom_in_its_esco(people: People) -> None:
    token = people.issuer.token(people.member("read", esco=None)["subject"])
    own, foreign = (people.member(esco=esco)["id"] for esco in ("wlce", "hmce"))
    refused(people.exchange(token, on_behalf_of=foreign, **people.own_client), "invalid_target")
    answer = people.exchange(token, on_behalf_of=own, **people.own_client)
    acting = answer.json()["access_token"]
    told = people.post("/auth/introspect", people.own_client | {"token": acting}).json()
    claims = jwt.decode(acting, options={"verify_signature": False})
    assert (told["active"], told["sub"], told["act"]) == (True, own, claims["act"])


def test_refused_exchanges_are_throttled_by_address_and_recorded(people: People) -> None:
    form = {
        "grant_type": TOKEN_EXCHANGE, "subject_token": "x", "subject_token_type": ID_TOKEN_TYPE,
        "client_id": people.app,
    }  # fmt: skip
    url = people.stack.contract["base_url"] + "/auth/token"
    headers = {"Origin": ORIGIN, PROXY_HEADER: "192.0.2.200"}
    statuses = [httpx.post(url, data=form, headers=headers).status_code for _ in range(11)]
    assert statuses == [400] * 10 + [429]
    # Others are not locked out of the app.
    token = people.issuer.token(people.member()["subject"])
    assert people.exchange(token).status_code == 200
    refusal = (people.app, "token.exchange", "The subject_token is not a JWT.", None)
    assert refusal in people.audit()


def test_exchanges_count_against_the_quota_of_their_address(people: People) -> None:
    token = people.issuer.token(people.member()["subject"])
    form = {
        "grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ID_TOKEN_TYPE,
        "client_id": people.app,
    }  # fmt: skip

    def ask(address: str) -> httpx.Response:
        headers = {"Origin": ORIGIN, PROXY_HEADER: address}
        return httpx.post(f"{few.contract['base_url']}/auth/token", data=form, headers=headers)

    with another_gateway(people.stack, FLOWS_LIMITS_CLIENT="3/hour") as few:
        answers = [ask("192.0.2.201") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[3].json()["error"] == "slow_down"
        assert int(answers[3].headers["retry-after"]) > 1
        assert ask("192.0.2.202").status_code == 200


def test_a_refusal_is_recorded_with_who_it_was(people: People) -> None:
    """With the subject, an admin adds the person; with its origin, an operator the page."""
    subject = uuid.uuid4().hex
    refused(people.exchange(people.issuer.token(subject)), "invalid_request", "not a member")
    told = f"{people.issuer.url} {subject}"
    assert (people.app, "token.exchange", NOT_A_MEMBER, told) in people.audit()
    token = people.issuer.token(people.member()["subject"])
    refused(people.exchange(token, origin="https://new.example"), "unauthorized_client")
    told = "https://new.example"
    entry = (people.app, "app.identify", "The app has no such origin.", told)
    assert entry in people.audit()
    nobody = "fla_0000000000000000"
    refused(people.exchange(token, client_id=nobody, origin=None), "invalid_client")
    assert (nobody, "app.identify", "There is no such app.", None) in people.audit()
    # Nothing that was not verified is recorded of a person.
    refused(people.exchange(people.issuer.token(subject, aud="another")), "invalid_request")
    assert people.audit()[0][3] is None


def test_an_admin_manages_the_members_of_its_esco_alone(people: People) -> None:
    admins = {}
    for esco in ("wlce", "hmce"):
        row = people.member("read", "admin", esco=esco)
        token = people.exchange(people.issuer.token(row["subject"])).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        admins[esco] = httpx.Client(base_url=people.stack.contract["base_url"], headers=headers)
    with admins["wlce"] as wlce, admins["hmce"] as hmce:
        assert people.issuer.url in [row["url"] for row in wlce.get("/admin/issuers").json()]
        body = {"issuer": people.issuer.url, "name": "Bob", "scopes": ["read"]}
        made = wlce.post("/admin/members", json=body | {"email": "bob@example.org"})
        assert made.status_code == 201, made.text
        bob = made.json()
        assert (bob["esco_code"], bob["subject"]) == ("wlce", None)
        assert bob["invitation"] not in wlce.get("/admin/members").text
        assert bob["id"] not in hmce.get("/admin/members").text
        assert {row["esco_code"] for row in wlce.get("/admin/members").json()} == {"wlce"}
        path = f"/admin/members/{bob['id']}"
        assert hmce.patch(path, json={"disabled": True}).status_code == 404
        # No scope that it lacks itself, no other ESCO, no support.
        for scopes in (["write"], ["read", "write", "admin"]):
            wider = body | {"scopes": scopes, "subject": "x"}
            assert wlce.post("/admin/members", json=wider).status_code == 403
            assert wlce.patch(path, json={"scopes": scopes}).status_code == 403
        for esco in ("hmce", "none"):
            answer = wlce.post("/admin/members", json=body | {"subject": "x", "esco": esco})
            assert answer.status_code in (404, 422)
        own = wlce.post("/admin/members", json=body | {"subject": uuid.uuid4().hex}).json()
        assert own["esco_code"] == "wlce"
        again = wlce.post("/admin/members", json=body | {"subject": own["subject"]})
        assert again.status_code == 409
        assert wlce.post("/admin/members", json=body).status_code == 422
        both = body | {"subject": "x", "email": "x@example.org"}
        assert wlce.post("/admin/members", json=both).status_code == 422
        assert wlce.patch(path, json={"disabled": True}).json()["disabled_at"]
        issuer = {"url": "https://evil.example", "audiences": ["x"]}
        assert wlce.post("/admin/issuers", json=issuer).status_code == 403
        for answer in (
            wlce.delete("/admin/issuers", params={"url": people.issuer.url}),
            wlce.patch("/admin/issuers", params={"url": people.issuer.url}, json={"claims": {}}),
        ):
            assert answer.status_code == 403
        for path in ("/admin/apps",):
            assert wlce.get(path).status_code == 403
        entries = wlce.get("/admin/audit").json()
        assert {"member.invite", "token.exchange"} <= {entry["action"] for entry in entries}


def test_an_operator_manages_issuers_and_apps(people: People) -> None:
    operator = people.operator
    body = {"url": "https://login.example.org", "audiences": ["x"], "esco": "hmce"}
    assert operator.post("/admin/issuers", json=body).status_code == 201
    assert operator.post("/admin/issuers", json=body).status_code == 409
    faults: list[dict[str, Any]] = [
        {"url": "ftp://x"}, {"url": "https://u:p@x"}, {"audiences": []}, {"url": "https://x?y"},
    ]  # fmt: skip
    for wrong in faults:
        assert operator.post("/admin/issuers", json=body | wrong).status_code == 422
    # It has members of no other ESCO.
    member = {"issuer": body["url"], "name": "Cy", "scopes": ["read"], "subject": "cy"}
    answer = operator.post("/admin/members", json=member | {"esco": "wlce"})
    assert answer.status_code == 404
    answer = operator.post("/admin/members", json=member | {"esco": "hmce"})
    assert answer.status_code == 201, answer.text
    added = answer.json()
    changed = operator.patch("/admin/issuers", params={"url": body["url"]}, json={})
    assert (changed.json()["audiences"], changed.json()["esco_code"]) == (["x"], "hmce")
    for wrong in ({"audiences": []}, {"audiences": [""]}, {"esco": "wlce"}):
        answer = operator.patch("/admin/issuers", params={"url": body["url"]}, json=wrong)
        assert answer.status_code == 422
    gone = operator.delete("/admin/issuers", params={"url": body["url"]})
    assert gone.status_code == 204
    answer = operator.patch("/admin/issuers", params={"url": body["url"]}, json={})
    assert answer.status_code == 404
    assert operator.delete("/admin/issuers", params={"url": body["url"]}).status_code == 404
    # Its members do not come back with it.
    assert operator.post("/admin/issuers", json=body).status_code == 201
    rows = {row["id"]: row for row in operator.get("/admin/members").json()}
    assert rows[added["id"]]["disabled_at"]
    app = operator.post("/admin/apps", json={"name": "Charts", "origins": [ORIGIN]})
    assert app.status_code == 201, app.text
    for origin in ("*", "app.example.org", f"{ORIGIN}/path", "null"):
        body = {"name": "x", "origins": [origin]}
        assert operator.post("/admin/apps", json=body).status_code == 422
    path = f"/admin/apps/{app.json()['id']}"
    assert operator.patch(path, json={"disabled": True}).json()["disabled_at"]
    assert app.json()["id"] in operator.get("/admin/apps").text


def test_a_token_of_another_audience_or_time_is_refused(people: People) -> None:
    subject = people.member()["subject"]
    for claims, words in (
        ({"aud": "another"}, "Audience"),
        ({"aud": []}, "aud"),
        ({"aud": None}, "aud"),
        ({"exp": 1_000_000_000}, "expired"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"nbf": 4_000_000_000}, "not yet valid"),
        ({"sub": "x" * 256}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "a\0b"}, "claim"),
        ({"sub": None}, "sub"),
    ):
        answer = people.exchange(people.issuer.token(subject, **claims))
        refused(answer, "invalid_request", words)
    several = people.exchange(people.issuer.token(subject, aud=["another", AUDIENCE]))
    assert several.status_code == 200


def test_a_token_of_an_unregistered_issuer_is_refused_without_asking_it(people: People) -> None:
    subject = people.member()["subject"]
    with running_issuer() as other:
        refused(people.exchange(other.token(subject)), "invalid_request", "not trusted")
        for url in (f"{people.issuer.url}/", people.issuer.url.upper(), "a\0b", None):
            refused(
                people.exchange(other.token(subject, iss=url)), "invalid_request", "not trusted"
            )
        assert other.asked == []


def segments(header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    """Return the part of a JWT that is signed, whatever the header says."""
    return b".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, claims)
    )


def test_no_algorithm_but_that_of_the_key_is_accepted(people: People) -> None:
    subject = people.member()["subject"]
    claims = people.issuer.claims(subject)
    private = people.issuer.keys["rsa"]
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged = []
    for algorithm in ("none", "None", "NONE", "", "HS256", "HS512", ["RS256"]):
        signed = segments({"alg": algorithm, "kid": "rsa", "typ": "JWT"}, claims)
        forged.append(signed + b".")
        # The public key as the secret of an HMAC.
        for digest in (hashlib.sha256, hashlib.sha512):
            mac = hmac.new(pem, signed, digest).digest()
            forged.append(signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"="))
    tokens = [token.decode() for token in forged]
    named: tuple[dict[str, Any], ...] = (
        {"kid": "rsa", "crit": ["x"], "x": 1},
        {"kid": "other"},
        {"kid": "../rsa"},
        {"kid": "rsa2", "jwk": {"kty": "oct", "k": "eA"}},
        {"kid": "rsa3", "jku": f"{people.issuer.url}/jwks"},
    )
    tokens += [jwt.encode(claims, private, "RS256", headers=headers) for headers in named]
    tokens.append(jwt.encode(claims, private, "PS256", headers={"kid": "rsa"}))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for answer in pool.map(people.exchange, tokens):
            refused(answer, "invalid_request", "subject_token")


def test_the_keys_of_one_issuer_verify_no_token_of_another(people: People) -> None:
    subject = people.member()["subject"]
    with running_issuer() as other:
        people.trust(other)
        people.member(url=other.url)
        # Signed by the other in the name of the first, with the same kid.
        refused(people.exchange(other.token(subject, iss=people.issuer.url)), "invalid_request")
        # The same subject at another issuer is another person.
        refused(people.exchange(other.token(subject)), "invalid_request", "not a member")
        assert people.exchange(people.issuer.token(subject)).status_code == 200


def test_an_issuer_that_is_down_is_told_and_holds_up_nobody(people: People) -> None:
    with running_issuer() as other:
        people.trust(other)
        token = other.token(people.member(url=other.url)["subject"])
    answer = people.exchange(token)
    refused(answer, "temporarily_unavailable")
    assert answer.headers["retry-after"]
    assert people.exchange(people.issuer.token(people.member()["subject"])).status_code == 200


def test_an_issuer_that_is_slow_holds_up_nobody(people: People) -> None:
    token = people.issuer.token(people.member()["subject"])
    with running_issuer() as other, concurrent.futures.ThreadPoolExecutor(6) as pool:
        other.hold = threading.Event()
        people.trust(other)
        slow = other.token(people.member(url=other.url)["subject"])
        waiting = [pool.submit(people.exchange, slow) for _ in range(6)]
        wait_until(lambda: other.asked)
        # As many as the gateway has connections to the database for tokens, and more.
        assert people.exchange(token).status_code == 200
        assert not any(each.done() for each in waiting)
        other.hold.set()
        assert {each.result().status_code for each in waiting} == {200}


def test_keys_of_a_hundred_megabytes_are_not_read(people: People) -> None:
    with running_issuer() as other:
        other.padding = 100 * 2**20
        people.trust(other)
        token = other.token(people.member(url=other.url)["subject"])
        refused(people.exchange(token), "temporarily_unavailable")
        # The system holds some megabytes between the two.
        assert other.sent < 16 * 2**20


@pytest.mark.parametrize("way", ["redirect", "jwks_uri", "issuer"])
def test_an_issuer_does_not_lead_the_gateway_inward(people: People, way: str) -> None:
    with running_issuer() as other, running_issuer("127.0.0.2") as inner:
        inner.keys = other.keys
        inner.discovered = {"issuer": other.url}
        if way == "redirect":
            other.redirect = f"{inner.url}/jwks"
        elif way == "jwks_uri":
            other.discovered = {"jwks_uri": f"{inner.url}/jwks"}
        registered = inner if way == "issuer" else other
        people.trust(registered)
        member = people.member(url=registered.url)
        refused(
            people.exchange(other.token(member["subject"], iss=registered.url)),
            "temporarily_unavailable",
        )
        assert inner.asked == []


def test_discovery_of_another_issuer_is_not_believed(people: People) -> None:
    with running_issuer() as other:
        other.discovered = {"issuer": people.issuer.url}
        people.trust(other)
        token = other.token(people.member(url=other.url)["subject"])
        refused(people.exchange(token), "temporarily_unavailable")


def test_a_removed_issuer_and_its_members_are_out(people: People) -> None:
    with running_issuer() as other:
        people.trust(other)
        member = people.member(url=other.url)
        subject_token = other.token(member["subject"])
        token = people.exchange(subject_token).json()["access_token"]
        assert people.doors(token) == {200}
        flows(people.stack, "issuer", "remove", other.url)
        wait_until(lambda: people.doors(token) == {401}, seconds=5)
        refused(people.exchange(subject_token), "invalid_request", "not trusted")
        # Registered again, it vouches for nobody until members are enabled.
        people.trust(other)
        refused(people.exchange(subject_token), "invalid_request", "not a member")
        people.change(member["id"], disabled=False)
        assert people.exchange(subject_token).status_code == 200


def test_an_issuer_must_show_the_claims_that_are_asked_for(people: People) -> None:
    with running_issuer() as other:
        people.trust(other, claims={"hd": "example.org", "mfa": True}, esco="hmce")
        subject = people.member(url=other.url, esco="hmce")["subject"]
        for claims in ({}, {"hd": "example.org", "mfa": "true"}, {"hd": "evil", "mfa": True}):
            refused(people.exchange(other.token(subject, **claims)), "invalid_request", "claim")
        token = other.token(subject, hd="example.org", mfa=True)
        assert people.exchange(token).status_code == 200


def test_an_issuer_of_one_esco_vouches_for_no_members_of_another(people: People) -> None:
    with running_issuer() as other:
        people.trust(other)
        member = people.member(url=other.url)
        flows(people.stack, "issuer", "remove", other.url)
        people.trust(other, esco="hmce")
        people.change(member["id"], disabled=False)
        refused(people.exchange(other.token(member["subject"])), "invalid_request", "not a member")


def test_a_changed_issuer_keeps_its_members(people: People) -> None:
    with running_issuer() as other:
        people.trust(other, claims={"hd": "example.org"})
        subject = people.member(url=other.url)["subject"]
        second = other.token(subject, aud="second", hd="example.org")
        refused(people.exchange(second), "invalid_request", "Audience")
        words = ("issuer", "change", other.url)
        changed = people.command(*words, "--audience", AUDIENCE, "--audience", "second")
        assert (changed["audiences"], changed["claims"]) == (
            [AUDIENCE, "second"], {"hd": "example.org"},
        )  # fmt: skip
        assert people.exchange(second).status_code == 200
        assert people.exchange(other.token(subject, hd="example.org")).status_code == 200
        changed = people.command(*words, "--claim", "hd=example.net")
        assert (changed["audiences"], changed["claims"]) == (
            [AUDIENCE, "second"], {"hd": "example.net"},
        )  # fmt: skip
        refused(people.exchange(second), "invalid_request", "claim hd")
        entry = ("operator", "issuer.change", "done",
                 f'audiences: {AUDIENCE} second; claims: hd="example.net"')  # fmt: skip
        assert entry in people.audit()
        assert flows(people.stack, *words, check=False).returncode == 1


def test_every_change_is_recorded(people: People) -> None:
    url = "https://recorded.example"
    named = {"url": url}
    operator = people.operator
    operator.post("/admin/issuers", json=named | {"audiences": ["x"]}).raise_for_status()
    changed = operator.patch("/admin/issuers", params=named, json={"audiences": ["y"]})
    assert changed.status_code == 200
    member = people.member(url=url)["id"]
    people.change(member, scopes=["read", "write"])
    people.change(member, disabled=True)
    people.change(member, disabled=False)
    body = {"name": "Recorded", "origins": [ORIGIN], "esco": "wlce"}
    app = operator.post("/admin/apps", json=body).json()["id"]
    for disabled in (True, False):
        operator.patch(f"/admin/apps/{app}", json={"disabled": disabled}).raise_for_status()
    operator.delete("/admin/issuers", params=named).raise_for_status()
    told = [
        (entry["action"], entry["detail"])
        for entry in reversed(operator.get("/admin/audit").json())
        if entry["subject"] in (url, member, app)
    ]
    assert [action for action, _ in told] == [
        "issuer.add", "issuer.change", "member.add", "member.change", "member.disable",
        "member.change", "app.create", "app.disable", "app.enable", "issuer.remove",
    ]  # fmt: skip
    details = [detail for _, detail in told]
    assert details[:2] == ["audiences: x; claims: none", "audiences: y; claims: none"]
    assert details[3:7] == ["scopes: read write", "disabled", "enabled", f"origins: {ORIGIN}"]


def test_tokens_are_neither_in_urls_nor_in_the_log(people: People) -> None:
    token = people.issuer.token(people.member()["subject"])
    url = people.stack.contract["base_url"] + "/auth/token"
    form = {"grant_type": TOKEN_EXCHANGE, "client_id": people.app}
    answer = httpx.post(url, params={"subject_token": token}, data=form)
    refused(answer, "invalid_request", "URL")
    assert people.exchange(token).status_code == 200
    assert token not in str(people.audit())


def test_the_metadata_names_the_exchange(people: People) -> None:
    base = people.stack.contract["base_url"]
    told = httpx.get(f"{base}/.well-known/oauth-authorization-server").json()
    assert TOKEN_EXCHANGE in told["grant_types_supported"]
    assert "none" in told["token_endpoint_auth_methods_supported"]
    assert "none" not in told["introspection_endpoint_auth_methods_supported"]


def test_the_commands_manage_members_issuers_and_apps(people: People) -> None:
    url = "https://login.example.net"
    made = people.command("issuer", "add", url, "--audience", "x", "--claim", "mfa=true")
    assert (made["audiences"], made["claims"]) == (["x"], {"mfa": True})
    assert flows(people.stack, "issuer", "add", url, "--audience", "x", check=False).returncode
    scopes = ("--scope", "read", "--scope", "write")
    invited = people.command(
        "member", "add", "Di", "--issuer", url, "--esco", "wlce", "--email", "di@example.org",
        *scopes,
    )  # fmt: skip
    assert invited["invitation"].startswith("fli_")
    # Whoever forgets the ESCO is told what that means.
    support = flows(people.stack, "member", "add", "Di", "--issuer", url, "--subject", "di")
    assert "may act for the members of every ESCO" in support.stderr
    changed = people.command("member", "change", invited["id"], "--scope", "read")
    assert changed["scopes"] == ["read"]
    assert people.command("member", "disable", invited["id"])["disabled_at"]
    assert people.command("member", "enable", invited["id"])["disabled_at"] is None
    listed = json.loads(flows(people.stack, "member", "list", "--json").stdout)
    assert invited["id"] in [row["id"] for row in listed]
    assert invited["invitation"] not in str(listed)
    flows(people.stack, "issuer", "remove", url)
    app = people.command("app", "create", "Other", "--origin", ORIGIN)
    assert people.command("app", "disable", app["id"])["disabled_at"]
