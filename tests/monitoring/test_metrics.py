"""Metrics: labels by route template, also of refused requests; one meaning and unit a family."""

import asyncio
import re
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from app.db.session import Pool, create_pool
from app.monitoring import database
from app.monitoring.database import (
    CHANGES_PATIENCE_SECONDS,
    CHANGES_SECONDS,
    DatabaseMeasures,
)
from app.monitoring.templates import RouteTemplates
from app.settings import DatabaseSettings
from tests.conftest import Stack, another_gateway, wait_until

UNITS = ("bytes", "seconds")
COUNTED = re.compile(r'^flows_requests_total{.*route="(.*?)",status="(\d+)"}', re.MULTILINE)
ACCEPT = "application/openmetrics-text; version=1.0.0"
# A change of what is read most often is told within it.
TOLD_SECONDS = CHANGES_SECONDS + CHANGES_PATIENCE_SECONDS


def scrape(stack: Stack) -> str:
    """Return the metrics of a stack on which everybody may read them."""
    answer = httpx.get(stack.contract["base_url"] + "/metrics", headers={"Accept": ACCEPT})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    return answer.text


def test_requests_are_labelled_by_template_and_status_even_if_refused(stack: Stack) -> None:
    settings = {"FLOWS_METRICS": "open", "FLOWS_LIMITS_CLIENT": "12/hour",
                "FLOWS_LIMITS_REFUSAL_SECONDS": "0"}  # fmt: skip
    expected = {
        ("/v1/energy", "200"), ("/v1/energy", "401"), ("/v1/energy", "429"),
        ("/v1/escos/{code}/energy", "200"), ("/rest/v1/{relation}", "200"),
        ("/rest/v1/{relation}", "401"), ("/rest/v1/{relation}", "429"), ("/admin/clients", "403"),
        ("/metrics", "200"), ("/docs/assets/{path}", "200"), ("/live", "405"),
        ("unmatched", "404"),
    }  # fmt: skip
    with another_gateway(stack, **settings) as stack, stack.client("wlce") as client:
        day = stack.period(2, 1)
        client.get("/v1/energy", params=day)
        client.get("/v1/escos/wlce/energy", params=day)
        client.get("/rest/v1/escos")
        client.get("/admin/clients")
        client.get("/docs/assets/docs.js")
        client.get("/nowhere/wlce")
        client.delete("/live")
        with stack.client(None) as stranger:
            stranger.get("/v1/energy")
            stranger.get("/rest/v1/escos")
        for _ in range(15):
            client.get("/v1/energy", params=day)
        client.get("/rest/v1/escos")
        scrape(stack)

        def counted() -> set[tuple[str, str]]:
            return set(COUNTED.findall(scrape(stack)))

        wait_until(lambda: expected <= counted())
        for route, status in counted():
            assert route in {known for known, _ in expected} | {"/ready"}, (route, status)


def test_every_family_has_one_meaning_and_its_unit_in_its_name(
    stack: Stack, monitoring_token: str
) -> None:
    answer = httpx.get(
        stack.contract["base_url"] + "/metrics",
        headers={"Accept": ACCEPT, "Authorization": f"Bearer {monitoring_token}"},
    )
    families = list(text_string_to_metric_families(answer.text))  # type: ignore[no-untyped-call]
    ours = [family for family in families if family.name.startswith("flows_")]
    assert len(ours) >= 12
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for family in ours:
        assert family.documentation.endswith(".") or "(" in family.documentation, family.name
        for sample in family.samples:
            labels[family.name] |= sample.labels.keys()
        # A label that says what is measured would give a family several meanings.
        assert "state" not in labels[family.name], family.name
        for unit in UNITS:
            assert (unit in family.name) == (family.unit == unit), family.name
    assert {"method", "route", "status"} <= labels["flows_request_seconds"]


def test_what_the_aggregates_lack_is_told_by_esco(stack: Stack, monitoring_token: str) -> None:
    def read(*names: str) -> dict[str, float]:
        answer = httpx.get(
            stack.contract["base_url"] + "/metrics",
            headers={"Accept": ACCEPT, "Authorization": f"Bearer {monitoring_token}"},
        )
        return {
            sample.labels.get("esco", sample.name): sample.value
            for family in text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
            for sample in family.samples
            if family.name in names
        }

    by_esco = "flows_esco_aggregates_behind_seconds"
    esco = stack.contract["escos"]["wlce"]["id"]
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute("select pg_advisory_lock(hashtext('flows.follow'))")  # nobody follows it
        admin.execute(
            "insert into flows.change (esco, kind, period, registers, circuits, changed_at)"
            " values (%s, 'mapping', '[2020-01-01Z, 2020-01-02Z)', '{}', '{}',"
            " now() - interval '9 minutes')",
            (esco,),
        )
        try:
            wait_until(lambda: read(by_esco).get("wlce", 0) >= 540, TOLD_SECONDS)
            assert read(by_esco)["wlce"] < 3600
            totals = read("flows_aggregates_behind_seconds", "flows_aggregates_changes_waiting")
            assert totals["flows_aggregates_behind_seconds"] >= 540
            assert totals["flows_aggregates_changes_waiting"] >= 1
        finally:
            admin.execute(
                "update flows.change set followed_at = now() where esco = %s and period @> %s",
                (esco, datetime(2020, 1, 1, 12, tzinfo=UTC)),
            )
            admin.execute("select pg_advisory_unlock(hashtext('flows.follow'))")
    wait_until(lambda: read(by_esco).get("wlce", 0) < 540, TOLD_SECONDS)
    assert read("flows_aggregates_behind_seconds")["flows_aggregates_behind_seconds"] < 540


def test_86_what_an_esco_sends_is_told(stack: Stack) -> None:
    async def measure(*, names_escos: bool) -> dict[str, float]:
        measures = DatabaseMeasures(names_escos=names_escos)
        async with create_pool(DatabaseSettings(url=stack.contract["database_url"])) as pool:
            await measures.read_measures(pool)
        return {
            sample.labels["esco"]: sample.value
            for family in measures.collect()
            for sample in family.samples
            if family.name == "flows_esco_received_bytes"
        }

    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute(
            "insert into gateway.usage (day, client, esco, calls, rows, bytes, received)"
            " select current_date - days, 'flc_sends', %s, 1, 0, 0, 10 ^ 12"
            " from unnest('{0, 9}'::int[]) as days",
            (stack.contract["escos"]["wlce"]["id"],),
        )
        try:
            told = asyncio.run(measure(names_escos=True))
            assert 10**12 <= told["wlce"] < 2 * 10**12
            assert asyncio.run(measure(names_escos=False)) == {}
        finally:
            admin.execute("delete from gateway.usage where client = 'flc_sends'")


def test_a_template_is_found_for_any_path() -> None:
    templates = RouteTemplates(
        [
            "/",
            "/v1/energy",
            "/v1/meters/{serial}/energy",
            "/admin/clients/{id}",
            "/files/{path:path}",
        ]
    )
    for path, template in (
        ("/", "/"), ("/v1/energy", "/v1/energy"), ("/v1/energy/", "unmatched"),
        ("/v1/meters/A.1+x/energy", "/v1/meters/{serial}/energy"),
        ("/v1/meters//energy", "unmatched"), ("/v1/meters/a/b/energy", "unmatched"),
        ("/admin/clients/flc_x", "/admin/clients/{id}"), ("/files/a/b", "/files/{path}"),
        ("/rest/v1/", "/rest/v1/"), ("/rest/v1/meter_csq", "/rest/v1/{relation}"),
        ("/rest/v1/rpc/aggregate", "/rest/v1/rpc/{function}"), ("/rest/v2/x", "unmatched"),
    ):  # fmt: skip
        assert templates.find(path) == template


def values(text: str) -> dict[str, dict[str, float]]:
    """Return the values of each family by its labels."""
    return {
        family.name: {" ".join(one.labels.values()): one.value for one in family.samples}
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }


def test_the_database_is_measured_once_a_minute(
    stack: Stack, monitoring_token: str, engine: str
) -> None:
    headers = {"Accept": ACCEPT, "Authorization": f"Bearer {monitoring_token}"}

    def scraped() -> dict[str, dict[str, float]]:
        return values(httpx.get(stack.contract["base_url"] + "/metrics", headers=headers).text)

    found = wait_until(lambda: (now := scraped()).get("flows_series_bytes") and now)
    with psycopg.connect(stack.contract["database_url"]) as admin:
        series = {row[0] for row in admin.execute("select series from flows.retention")}
    assert set(found["flows_series_bytes"]) == series
    assert all(found["flows_series_bytes"].values())
    assert found["flows_database_bytes"][""] > found["flows_series_bytes"]["register_interval_hh"]
    assert set(found["flows_series_rows"]) == series
    assert found["flows_series_parts"]["register_interval_hh"] > 1
    assert found["flows_server_connections"]["flows_gateway"] >= 1
    assert found["flows_server_connections_limit"][""] == 200
    assert found["flows_signing_key_age_seconds"][""] > 0
    if engine == "postgres":
        assert min(found["flows_series_partitions_ahead"].values()) >= 0
        assert found["flows_series_partitions_ahead"]["meter_csq"] >= 4
        assert "flows_job_failures" not in found
    else:
        assert any("policy_" in job for job in found["flows_job_failures"])
    # Within a minute it is not measured again: an age would have grown.
    age = "flows_signing_key_age_seconds"
    wait_until(lambda: scraped()[age] == scraped()[age])


def test_no_scrape_waits_for_the_database(stack: Stack) -> None:
    """Not the first one, and none while what is measured is locked."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        admin.execute("lock table flows.change, gateway.proof")
        with another_gateway(stack, FLOWS_METRICS="open") as gateway:
            for _ in range(5):
                began = time.monotonic()
                text = scrape(gateway)
                assert time.monotonic() - began < CHANGES_PATIENCE_SECONDS / 2
                assert "flows_requests" in text
                assert values(text)["flows_measures_age_seconds"] == {}
            admin.rollback()
            ages = wait_until(
                lambda: (
                    len(now := values(scrape(gateway))["flows_measures_age_seconds"]) == 2 and now
                )
            )
            assert ages["changes"] < TOLD_SECONDS
            assert ages["database"] < database.MEASURE_SECONDS
            # The figures grow old where they cannot be read, and are told all the same.
            admin.execute("lock table flows.change")
            aged = wait_until(
                lambda: (
                    (now := values(scrape(gateway)))["flows_measures_age_seconds"]["changes"]
                    > TOLD_SECONDS
                    and now
                )
            )
            assert "flows_aggregates_behind_seconds" in aged


@asynccontextmanager
async def gateway_pool(url: str) -> AsyncIterator[Pool]:
    """Open a pool whose connections act as the gateway's login."""
    settings = DatabaseSettings(
        url=f"{url}{'&' if '?' in url else '?'}options=-crole%3Dflows_gateway"
    )
    async with create_pool(settings, 1) as pool:
        yield pool


async def measured(url: str, public_url: str = "") -> dict[str, Metric]:
    """Return what the gateway's login measures in a database."""
    measures = DatabaseMeasures(public_url)
    async with gateway_pool(url) as pool:
        await measures.read_measures(pool)
        return {family.name: family for family in measures.collect()}


def test_what_changes_is_told_at_the_next_reading(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHANGES_SECONDS", 0.05)
    monkeypatch.setattr(database, "MEASURE_SECONDS", 0.1)
    url = stack.contract["database_url"]

    async def follow() -> None:
        measures = DatabaseMeasures()

        async def wait_for(age: str) -> None:
            name = f"flows_{age}_age_seconds"
            await asyncio.to_thread(
                wait_until, lambda: name in {family.name for family in measures.collect()}
            )

        async with gateway_pool(url) as pool:
            measures.open(pool)
            try:
                await wait_for("signing_key")
                with psycopg.connect(url, autocommit=True) as admin:
                    admin.execute("insert into gateway.last_backup (ended_at, kind, size)"
                                  " values (now(), 'full', 1)")  # fmt: skip
                    try:
                        await wait_for("backup")
                    finally:
                        admin.execute("delete from gateway.last_backup")
            finally:
                await measures.close()

    asyncio.run(follow())


def test_chunks_in_the_columnstore_are_counted(stack: Stack, engine: str) -> None:
    if engine == "postgres":
        pytest.skip("plain PostgreSQL has no columnstore")
    url = stack.contract["database_url"]

    def counted() -> float:
        samples = asyncio.run(measured(url))["flows_series_columnstore_parts"].samples
        return {one.labels["series"]: one.value for one in samples}["register_interval_hh"]

    before = counted()
    with psycopg.connect(url, autocommit=True) as owner:
        chunk = owner.execute(
            "select format('%I.%I', chunk_schema, chunk_name)"
            " from timescaledb_information.chunks"
            " where hypertable_name = 'register_interval_hh' and not is_compressed limit 1"
        ).fetchone()
        owner.execute("call public.convert_to_columnstore(%s)", chunk)
        try:
            assert counted() == before + 1
        finally:
            owner.execute("call public.convert_to_rowstore(%s)", chunk)


def test_a_job_that_has_not_run_yet_has_not_failed(stack: Stack, engine: str) -> None:
    if engine == "postgres":
        pytest.skip("plain PostgreSQL has no jobs of its own")
    with psycopg.connect(stack.contract["database_url"]) as owner:
        owner.execute("create procedure flows.later(integer, jsonb) language sql as ''")
        owner.execute(
            "select public.add_job('flows.later', '1 day', initial_start => now() + '1 day')"
        )
        jobs = "select failures from gateway.job_failures() where job = 'later'"
        assert owner.execute(jobs.encode()).fetchall() == [(0,)]
        owner.rollback()


def test_slow_statements_are_told_without_a_value(stack: Stack) -> None:
    url = stack.contract["database_url"]
    with psycopg.connect(url, autocommit=True) as admin:
        # A constant, a statement that is not normalised, and a password.
        admin.execute("select count(*) from generate_series(1, 1000) as confidential_41")
        admin.execute("select 'hidden' || 41 from pg_sleep(0.5) as confidential_42")
        admin.execute("create role confidential_43 password 'hidden'")
        admin.execute("drop role confidential_43")
        found = admin.execute(
            "select statement, login, calls, seconds from gateway.slow_statements(5000)"
        ).fetchall()
        (other,) = admin.execute("select gateway.slow_statements(1)").fetchall()
    texts = [statement for statement, *_ in found]
    assert [text for text in texts if "hidden" in text or "_43" in text] == []
    (slept,) = [row for row in found if "confidential_42" in row[0]]
    assert slept[0] == "select $1 || $2 from pg_sleep($3) as confidential_42"
    assert slept[2] == 1
    assert 0.5 <= slept[3] < 60
    assert "authenticator" in {login for _, login, *_ in found}
    assert other
    assert [text for text in texts if re.search(r"'[^?]|[^$\w.][0-9]", text)] == []


def test_backups_statements_and_certificates_are_measured(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = stack.contract["database_url"]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("insert into gateway.last_backup (ended_at, kind, size)"
                      " values (now() - interval '5 hours', 'full', 1)")  # fmt: skip
        try:
            with tls_server(tmp_path, monkeypatch, days=20) as public_url:
                found = asyncio.run(measured(url, public_url))
        finally:
            admin.execute("delete from gateway.last_backup")
    (age,) = found["flows_backup_age_seconds"].samples
    assert 5 * 3600 <= age.value < 6 * 3600
    (left,) = found["flows_certificate_remaining_seconds"].samples
    assert 19 * 86_400 < left.value <= 20 * 86_400
    statements = found["flows_statement_seconds"].samples
    assert 0 < len(statements) <= 20
    assert all(one.labels["statement"] and one.labels["query_id"] for one in statements)
    assert "flows_replica_lag_seconds" not in found


@contextmanager
def tls_server(folder: Path, patch: pytest.MonkeyPatch, days: int) -> Iterator[str]:
    """Serve TLS on loopback with a certificate that is trusted meanwhile; yield its URL."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "certificate.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    patch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)  # for a test that does not connect

        def answer() -> None:
            with suppress(OSError):
                connection, _ = listening.accept()
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)

        thread = Thread(target=answer)
        thread.start()
        yield f"https://localhost:{listening.getsockname()[1]}"
        thread.join()
