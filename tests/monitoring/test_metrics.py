"""Metrics: labels by route template, also of refused requests; one meaning and unit a family."""

import re
from collections import defaultdict
from datetime import UTC, datetime

import httpx
import psycopg
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from app.monitoring.templates import RouteTemplates
from tests.conftest import Stack, another_gateway, wait_until

UNITS = ("bytes", "seconds")
COUNTED = re.compile(r'^flows_requests_total{.*route="(.*?)",status="(\d+)"}', re.MULTILINE)
ACCEPT = "application/openmetrics-text; version=1.0.0"


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
            waiting = read("flows_esco_aggregates_behind_seconds")
            assert 540 <= waiting["wlce"] < 3600
            totals = read("flows_aggregates_behind_seconds", "flows_aggregates_changes_waiting")
            assert totals["flows_aggregates_behind_seconds"] >= 540
            assert totals["flows_aggregates_changes_waiting"] >= 1
        finally:
            admin.execute(
                "update flows.change set followed_at = now() where esco = %s and period @> %s",
                (esco, datetime(2020, 1, 1, 12, tzinfo=UTC)),
            )
            admin.execute("select pg_advisory_unlock(hashtext('flows.follow'))")
    assert read("flows_esco_aggregates_behind_seconds").get("wlce", 0) < 540
    assert read("flows_aggregates_behind_seconds")["flows_aggregates_behind_seconds"] < 540


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


def test_the_database_is_measured_once_a_minute(
    stack: Stack, monitoring_token: str, engine: str
) -> None:
    headers = {"Accept": ACCEPT, "Authorization": f"Bearer {monitoring_token}"}

    def scraped() -> dict[str, dict[str, float]]:
        answer = httpx.get(stack.contract["base_url"] + "/metrics", headers=headers)
        families = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
        return {
            family.name: {" ".join(one.labels.values()): one.value for one in family.samples}
            for family in families
        }

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
