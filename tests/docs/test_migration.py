"""The guide to moving works: Grafana logs in, and its dashboards read what they show."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import yaml

from tests.commands import run_command
from tests.conftest import Stack

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
PASSWORD = "a long password of your own"
DASHBOARDS = [GRAFANA / "dashboards" / f"{name}.json" for name in ("energy", "meters")]
# Grafana writes these into a query before it sends it.
TIME_FILTER = re.compile(r"\$__timeFilter\((?P<column>(?:[^()]|\(\))+)\)")
PERIOD = "{} between now() - interval '400 days' and now()"


def grant_login(
    stack: Stack, role: str, *words: str, password: str = PASSWORD
) -> subprocess.CompletedProcess[str]:
    """Run `flows db grant-login` with a password on standard input."""
    asked = ("db", "grant-login", role, *words)
    return run_command(asked, os.environ | {"FLOWS_HOME": str(stack.home)}, given=password + "\n")


def login_url(stack: Stack) -> str:
    """Return the URL with which grafanareader logs in."""
    parts = urlsplit(stack.contract["database_url"])
    login = f"grafanareader:{PASSWORD.replace(' ', '%20')}@"
    return str(urlunsplit(parts._replace(netloc=login)))


@pytest.fixture(scope="module")
def grafana(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A connection as grafanareader, whose login is taken away at the end."""
    done = grant_login(stack, "grafanareader")
    assert done.returncode == 0, done.stderr
    try:
        with psycopg.connect(login_url(stack), autocommit=True) as connection:
            yield connection
    finally:
        assert grant_login(stack, "grafanareader", "--revoke").returncode == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(login_url(stack))


def test_grafana_reads_every_esco_and_nothing_else(grafana: psycopg.Connection[Any]) -> None:
    codes = grafana.execute("select code from escos order by code").fetchall()
    assert codes == [("bfce",), ("hmce",), ("wlce",)]
    escos = grafana.execute("select count(distinct esco) from register_interval_hh").fetchone()
    assert escos == (3,)
    notebook = """
        select feeder.name, register.nature, sum(hh.kwh) from flows.register_interval_hh as hh
        join flows.meter_registers as register using (register_id)
        join flows.service_head_meter as link on link.meter = register.meter_id
        join flows.service_head_registry as head on head.id = link.service_head
        join flows.feeder_registry as feeder on feeder.id = head.feeder
        group by 1, 2
    """
    assert all(kwh > 0 for _, _, kwh in grafana.execute(notebook).fetchall())
    assert grafana.execute("select count(*) > 0 from pg_stat_statements").fetchone() == (True,)
    for statement in (
        "select from gateway.client", "select gateway.rotate()", "delete from flows.meter_csq",
        "update flows.escos set name = 'x'", "create table flows.bad ()", "set role flows",
        "create table public.bad ()", "select from pg_catalog.pg_authid",
    ):  # fmt: skip
        with pytest.raises(
            (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction)
        ):
            grafana.execute(statement.encode())


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_shows_the_demo(grafana: psycopg.Connection[Any], file: Path) -> None:
    dashboard = json.loads(file.read_text())
    (source,) = yaml.safe_load((GRAFANA / "datasource.yml").read_text())["datasources"]
    assert source["user"] == "grafanareader"
    (variable,) = dashboard["templating"]["list"]
    escos = ", ".join(f"'{code}'" for (code,) in grafana.execute(variable["query"]).fetchall())
    empty = {"Low balance", "Offline meters", "Tariffs to come", "Days with missing half-hours"}
    for panel in dashboard["panels"]:
        (target,) = panel["targets"]
        assert panel["datasource"] == target["datasource"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        query = TIME_FILTER.sub(lambda found: PERIOD.format(found["column"]), target["rawSql"])
        cursor = grafana.execute(query.replace("$esco", escos).encode())
        assert cursor.fetchall() or panel["title"] in empty, panel["title"]
        columns = [column.name for column in cursor.description or []]
        assert target["format"] == "table" or columns[0] == "time", panel["title"]


@pytest.mark.parametrize(
    ("role", "password", "told"),
    [
        ("flows", PASSWORD, "none of the roles"),
        ("postgres", PASSWORD, "none of the roles"),
        ("grafanareader", "short", "12 characters"),
    ],
)
def test_a_login_is_refused(stack: Stack, role: str, password: str, told: str) -> None:
    done = grant_login(stack, role, password=password)
    assert done.returncode == 1
    assert told in " ".join(done.stderr.split())
