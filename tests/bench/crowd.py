"""One database of a thousand ESCOs: what its neighbours cost an ESCO, and what its own size does.

FLOWS_BENCH_CROWD (default "1000 50 20000") gives the number of ESCOs beside the demo's, the meters
of each, and the meters of one large ESCO more; "60 20 2000" is made within a minute.

FLOWS_BENCH_CROWD_HOME names a folder that keeps a loaded crowd below one that all users may enter.
If there is none, a run loads it and ends; later runs measure copies of it.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx
import orjson
import psutil
import psycopg

from app.auth.keys import load_keys
from app.auth.tokens import Grant, issue
from app.db.isolation import exposed
from tests.bench.report import Report
from tests.bench.tokens import token_request
from tests.conftest import Stack, process_of, running_stack, stack_in, wait_until
from tests.demo_home import copy_demo_home

Admin = psycopg.Connection[Any]
Work = Callable[[], object]
Parameters = dict[str, str]

NEIGHBOURS, METERS, LARGE = map(int, os.environ.get("FLOWS_BENCH_CROWD", "1000 50 20000").split())
SMALL = 24  # meters of an ESCO of the demo, and of the crowd's small one
PASSES = 3  # in which the two of each case are compared
REPEATS = 15  # in a pass, of requests that take milliseconds
LONG_REPEATS = 5  # of those over 20,000 meters
CHANGE_SECONDS = 10  # between two changes of all mappings
FEW_MAPPINGS, MANY_MAPPINGS = LARGE // 10, LARGE * 5 // 2  # that are written in one statement
SIZES = {"large": 1, "small": 2}  # numbers of the ESCOs that are compared by size
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
DAYS = {
    "period_from": DAY.isoformat(),
    "period_to": (DAY + timedelta(days=1)).isoformat(),
    "timezone": "UTC",
}
# From here on nobody has half-hours, for those that are written.
FREE = DAY - timedelta(days=700)

# The uuid of the n-th object of a kind.
IDS = """
    create or replace function pg_temp.id(kind text, n integer) returns uuid
    language sql immutable return md5('crowd/' || kind || '/' || n)::uuid
"""
# ESCO 1 is the large one, 2 the small one, the others are the neighbours; ids and sizes only.
ESCOS = """
    create temporary table crowd as
    select pg_temp.id('esco', n) as esco, n,
        case n when 1 then {large} when 2 then {small} else {meters} end as meters
    from generate_series(1, {neighbours} + 2) as n;
    create temporary table crowd_meter as
    select e.esco, e.n as esco_number, (row_number() over (order by e.n, k))::integer as n
    from crowd as e cross join generate_series(1, e.meters) as k;
    analyze crowd, crowd_meter;
"""
# As a client writes them: without owners, which the triggers find.
CONFIGURATION = {
    "escos": "(id, code, name) select esco, 'crowd' || n, 'Crowd' from crowd",
    "sites_new": "(id, code, name, esco)"
    " select pg_temp.id('site', n), 'CROWD' || n, 'Crowd', esco from crowd",
    "feeder_registry": "(id, name, esco)"
    " select pg_temp.id('feeder', n), 'crowd' || n, esco from crowd",
    "meter_registry": "(id, serial, name, esco, site) select pg_temp.id('meter', n), 'CROWD' || n,"
    " 'Crowd', esco, pg_temp.id('site', esco_number) from crowd_meter",
    "meter_registers": "(register_id, meter_id)"
    " select pg_temp.id('register', n), pg_temp.id('meter', n) from crowd_meter",
    "properties": "(id, plot, site) select pg_temp.id('property', n), 'plot ' || n,"
    " pg_temp.id('site', esco_number) from crowd_meter",
    "service_head_registry": "(id, name, feeder) select pg_temp.id('head', n), 'crowd' || n,"
    " pg_temp.id('feeder', esco_number) from crowd_meter",
    "service_head_meter": "(service_head, meter)"
    " select pg_temp.id('head', n), pg_temp.id('meter', n) from crowd_meter",
    "properties_service_head": "(property, service_head)"
    " select pg_temp.id('property', n), pg_temp.id('head', n) from crowd_meter",
    "circuits": "(id, type, site)"
    " select pg_temp.id('circuit', n), 'power', pg_temp.id('site', esco_number) from crowd_meter",
    "circuit_register": "(circuit, register, start_time)"
    " select pg_temp.id('circuit', n), pg_temp.id('register', n), '2000-01-01Z' from crowd_meter",
}
# A day of each register, and a few rows of each meter; of the small ESCO five times as many, that
# it has a hundred to ask for as well. Of signals all have as many: whose meters have far more than
# the others' three would measure what PostgreSQL expects of three, which is to read and sort them.
SERIES = {
    "register_interval_hh": '(register_id, "timestamp", import_kwh, export_kwh)'
    " select pg_temp.id('register', n), t, round((n %% 97 * 0.004)::numeric, 3), 0"
    " from crowd_meter cross join generate_series(%(day)s::timestamptz - case esco_number"
    " when 2 then interval '4 days' else '0' end,"
    " %(day)s::timestamptz + interval '23 hours 30 minutes', interval '30 minutes') as t"
    " where esco_number between %(first)s and %(last)s",
    **{
        name: f"({key}, \"timestamp\"{more}) select pg_temp.id('{kind}', n), %(day)s + t * interval"
        f" '8 hours'{values} from crowd_meter"
        f" cross join generate_series(case when {many} then -12 else 0 end, 2) as t"
        " where esco_number between %(first)s and %(last)s"
        for name, key, kind, more, values, many in (
            ("register_import", "register_id", "register", ", read", ", t + 12", "esco_number = 2"),
            ("register_export", "register_id", "register", ", read", ", t + 12", "esco_number = 2"),
            ("meter_csq", "meter_id", "meter", ", csq", ", 20", "true"),
            ("meter_voltage", "meter_id", "meter", ", voltage", ", 230", "esco_number = 2"),
            ("meter_prepay_balance", "meter_id", "meter", ", balance", ", 5", "esco_number = 2"),
        )
    },
}
AT_A_TIME = 100  # ESCOs whose series are written in a transaction


def identify(kind: str, number: int) -> UUID:
    """Return the id of the n-th object of a kind; the large ESCO's are numbered from 1."""
    digest = md5(f"crowd/{kind}/{number}".encode(), usedforsecurity=False)
    return UUID(digest.hexdigest())


def run(stack: Stack, report: Report) -> None:
    """Load the crowd into a stack, and compare it with another that has the demo alone."""
    kept = os.environ.get("FLOWS_BENCH_CROWD_HOME")
    if kept is None:
        with running_stack() as few:
            _load(stack, report)
            _measure(few, stack, report)
    elif not Path(kept).exists():
        copy_demo_home(Path(kept))
        with stack_in(Path(kept)) as crowd:
            _load(crowd, report)
    else:
        with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
            home = Path(folder) / "home"
            subprocess.run(["cp", "-a", kept, str(home)], check=True)
            with stack_in(home) as crowd:
                _measure(stack, crowd, report)


def _load(stack: Stack, report: Report) -> None:
    seconds = load(stack.contract["database_url"])
    registers = NEIGHBOURS * METERS + LARGE + SMALL
    report.figure("half-hours of the crowd", 48 * registers, "rows")
    report.figure("loading it through the triggers", seconds, "s", limit="<= 300")


def _measure(few: Stack, stack: Stack, report: Report) -> None:
    for each in (few, stack):
        _compress(each)
    _neighbours(few, stack, report)
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        # The load of many tenants leaves none the other cores; so is the bare SQL measured.
        admin.execute("set max_parallel_workers_per_gather = 0")
        with ExitStack() as opened:
            clients = {
                name: opened.enter_context(_client(stack, number)) for name, number in SIZES.items()
            }
            _named(clients, report)
            with _memory(stack, report):
                _everything(clients["large"], admin, report)
            _operators(admin, report)
            _following(clients, admin, report)


def _compress(stack: Stack) -> None:
    """Let the columnstore have what is due, as it has of a stack that was loaded long ago."""
    if stack.contract["engine"] == "timescale":
        with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
            jobs = admin.execute(
                "select job_id from timescaledb_information.jobs"
                " where proc_name = 'policy_compression'"
            ).fetchall()
            for job in jobs:
                admin.execute("call public.run_job(%s)", job)


def load(url: str) -> float:
    """Write the crowd as an administrator, through every trigger; return the seconds it took."""
    started = time.perf_counter()
    with _administrator(url) as admin:
        for name, rows in CONFIGURATION.items():
            admin.execute(f"insert into flows.{name} {rows}".encode())
            admin.execute(f"analyze flows.{name}".encode())
        with ThreadPoolExecutor(2) as workers:
            list(workers.map(lambda escos: _load_series(url, *escos), _turns()))
        admin.execute("call flows.follow()")
    seconds = time.perf_counter() - started
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("vacuum (analyze)")
    return seconds


@contextmanager
def _administrator(url: str) -> Iterator[Admin]:
    """Yield a session that knows the crowd's ids and sizes."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("set synchronous_commit = off")
        admin.execute("set work_mem = '256MB'")
        admin.execute(IDS)
        sizes = {"neighbours": NEIGHBOURS, "meters": METERS, "large": LARGE, "small": SMALL}
        admin.execute(ESCOS.format(**sizes).encode())
        yield admin


def _load_series(url: str, first: int, last: int) -> None:
    with _administrator(url) as admin:
        for name, rows in SERIES.items():
            given = {"day": DAY, "first": first, "last": last}
            admin.execute(f"insert into flows.{name} {rows}".encode(), given)


def _turns() -> Iterator[tuple[int, int]]:
    """Yield the first and the last ESCO of each turn; the large one has a turn to itself."""
    yield 1, 1
    for first in range(2, NEIGHBOURS + 3, AT_A_TIME):
        yield first, min(first + AT_A_TIME - 1, NEIGHBOURS + 2)


def _client(stack: Stack, number: int) -> httpx.Client:
    """Return a client of the n-th ESCO, which may write."""
    grant = Grant(
        "flc_bench", "flows", identify("esco", number), f"crowd{number}", ("read", "write")
    )
    token = issue(load_keys(stack.home / "keys")[-1], stack.contract["base_url"], grant)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=stack.contract["base_url"], headers=headers, timeout=120)


def _get(client: httpx.Client, path: str, asked: Parameters) -> httpx.Response:
    answer = client.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    return answer


def _times(*works: Work, repeats: int = REPEATS) -> list[list[float]]:
    """Return the seconds of each, run by run; runs alternate, so that all meet the same load."""
    times: list[list[float]] = []
    for _ in range(repeats + 1):
        times.append([])
        for work in works:
            started = time.perf_counter()
            work()
            times[-1].append(time.perf_counter() - started)
    return times[1:]  # the first turn fills caches


def _medians(times: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _ratios(cases: dict[str, tuple[Work, Work]], report: Report, *, limit: str) -> None:
    """Report how many times as long the first of each case takes as the second.

    All cases are measured in several passes: a checkpoint or a vacuum of one of the databases lasts
    longer than the runs of a case.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(PASSES):
        for name, works in cases.items():
            times[name] += _times(*works)
    for name, found in times.items():
        report.ratio(name, *_medians(found), limit=limit)


def _post(client: httpx.Client, register: str) -> Work:
    """Return a function that writes 48 half-hours of a register, each time another day."""
    days = iter(range(1000))

    def post() -> None:
        start = FREE + timedelta(days=next(days))
        rows = [
            {
                "register_id": register,
                "timestamp": (start + n * timedelta(minutes=30)).isoformat(),
                "import_kwh": 0.1,
            }
            for n in range(48)
        ]
        answer = client.post("/rest/v1/register_interval_hh", json=rows)
        assert answer.status_code == 201, answer.text

    return post


def _neighbours(few: Stack, many: Stack, report: Report) -> None:
    """Ask the same of the same small ESCO, in the stack of three ESCOs and in the crowd."""
    with psycopg.connect(few.contract["database_url"]) as admin:
        relations = exposed(admin)
        found = admin.execute(
            "select m.serial, r.register_id::text, c.circuit::text, s.code, p.property::text"
            " from flows.meter_registry as m"
            " join flows.meter_registers as r on r.meter_id = m.id"
            " join flows.circuit_register as c on c.register = r.register_id"
            " join flows.sites_new as s on s.id = m.site"
            " join flows.service_head_meter as h on h.meter = m.id"
            " join flows.properties_service_head as p using (service_head)"
            " where m.esco = %s order by m.serial limit 1",
            (few.contract["escos"]["wlce"]["id"],),
        ).fetchone()
    assert found
    serial, register, circuit, site, home = found
    for each in (few, many):
        _silence(each, "wlce")
    day = few.period(3, 2)
    week = few.period(9, 2)
    cases: dict[str, tuple[str, Parameters]] = {
        f"/rest {name}": (f"/rest/v1/{name}", {"limit": "100"}) for name in relations
    }
    cases["/rest registers with their meter"] = (
        "/rest/v1/meter_registers",
        {"select": "*,meter_registry(serial)"},
    )
    cases["/rest days, newest first"] = (
        "/rest/v1/circuit_interval_daily",
        {"order": "day.desc", "limit": "100"},
    )
    for path in ("", f"/circuits/{circuit}", f"/meters/{serial}", f"/properties/{home}",
                 f"/sites/{site}", "/escos/wlce"):  # fmt: skip
        named = "/v1" + ("/" + path.split("/")[1] if path else "")
        for read in ("energy", "balance", "profile", "peak", "completeness", "latest"):
            asked = {} if read == "latest" else day
            cases[f"{named} {read}"] = (f"/v1{path}/{read}", asked)
    cases["/v1 energy, a week of half-hours"] = ("/v1/energy", week | {"granularity": "PT30M"})
    with ExitStack() as opened:
        crowded, alone = (
            opened.enter_context(stack.client("wlce", "write")) for stack in (many, few)
        )
        reads = {
            name: (partial(_get, crowded, path, asked), partial(_get, alone, path, asked))
            for name, (path, asked) in cases.items()
        }
        # Only afterwards, as half-hours of long ago change what an ESCO has.
        others = {
            "POST of 48 half-hours": (_post(crowded, register), _post(alone, register)),
            "a token": (_token(many), _token(few)),
        }
        afterwards = {"/v1 energy, half-hours from before a mapping": reads["/v1 energy"]}
        for works in (reads, others, afterwards):
            compared = {f"crowd / three: {name}": pair for name, pair in works.items()}
            _ratios(compared, report, limit="<= 1.2")


def _silence(stack: Stack, esco: str) -> None:
    """Let all meters of an ESCO be offline, as those of a crowd that was loaded long ago."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        admin.execute(
            "update flows.meter_shadows set last_healthy_at = now() - interval '1 day'"
            " where esco = %s",
            (stack.contract["escos"][esco]["id"],),
        )


def _token(stack: Stack) -> Work:
    asked = token_request(stack, "wlce")
    headers = asked.headers | {"Content-Type": asked.content_type}

    def post() -> None:
        assert httpx.post(asked.url, content=asked.body, headers=headers).status_code == 200

    return post


def _named(clients: dict[str, httpx.Client], report: Report) -> None:
    """Ask for one meter, register or circuit and for the newest 100, and write a day."""
    cases: dict[str, dict[str, tuple[str, Parameters]]] = {}
    for size, number in {"large": 1, "small": LARGE + 1}.items():
        serial = f"CROWD{number}"
        meter, register, circuit = (
            str(identify(kind, number)) for kind in ("meter", "register", "circuit")
        )
        between = {"timestamp": f"gte.{DAY.isoformat()}", "limit": "48"}
        reads = {
            f"/v1 {read} of {name}": (path + read, {} if read == "latest" else DAYS)
            for name, path in (("a circuit", f"/v1/circuits/{circuit}/"),
                               ("a meter", f"/v1/meters/{serial}/"))
            for read in ("energy", "balance", "profile", "peak", "completeness", "latest")
        }  # fmt: skip
        cases[size] = reads | {
            "/rest a meter": ("/rest/v1/meter_registry", {"serial": f"eq.{serial}"}),
            "/rest 100 meters": ("/rest/v1/meter_registry", {"limit": "100"}),
            "/rest a meter's state": ("/rest/v1/meter_shadows", {"id": f"eq.{meter}"}),
            "/rest a meter's registers": (
                "/rest/v1/meter_registers",
                {"meter_id": f"eq.{meter}", "select": "*,meter_registry(serial)"}),
            "/rest a register's day": (
                "/rest/v1/register_interval_hh", {"register_id": f"eq.{register}"} | between),
            "/rest a circuit's day": (
                "/rest/v1/circuit_interval_hh", {"circuit_id": f"eq.{circuit}"} | between),
            **{
                f"/rest newest {rows} of {name}": (
                    f"/rest/v1/{name}", {"order": f"{label}.desc", "limit": str(rows)})
                for name, label, rows in (
                    ("register_interval_hh", "timestamp", 100),
                    ("circuit_interval_hh", "timestamp", 100),
                    ("circuit_interval_daily", "day", 100),
                    ("circuit_interval_monthly", "month", SMALL),  # of a month it has no more
                    ("meter_csq", "timestamp", 100), ("meter_prepay_balance", "timestamp", 100))
            },
            **{
                f"/rest {SMALL} of {name}": (f"/rest/v1/{name}", {"limit": str(SMALL)})
                for name in ("meter_csq_latest", "meters_offline_all", "register_export_missing",
                             "register_interval_hh_latest", "register_interval_hh_missing")
            },
        }  # fmt: skip
    looks = {
        name: (
            partial(_get, clients["large"], *cases["large"][name]),
            partial(_get, clients["small"], *cases["small"][name]),
        )
        for name in cases["large"]
    }
    writes = {
        "POST of 48 half-hours": (
            _post(clients["large"], str(identify("register", 1))),
            _post(clients["small"], str(identify("register", LARGE + 1))),
        )
    }
    for works in (looks, writes):
        compared = {f"{LARGE} / {SMALL} meters: {name}": pair for name, pair in works.items()}
        _ratios(compared, report, limit="<= 1.5")


# Queries of an administrator who asks the tables themselves for one ESCO's figures. Those that name
# no circuits need what is expected of all of them, and since when there are any.
OWN = "esco = %(esco)s"
IN_DAY = f"{OWN} and {{0}} >= %(day)s and {{0}} < %(day)s + interval '1 day'"
EXPECTED = f"""
    select c.circuit, count(*), count(distinct r.meter_id), min(x.available_from),
        max(x.available_to)
    from flows.circuit_register as c
    join flows.meter_registers as r on c.register = r.register_id
    join flows.register_extent as x on x.register_id = r.register_id
    where c.{OWN} and r.{OWN} and x.{OWN} group by rollup (c.circuit)
"""
EXPECTED_OF_ALL = EXPECTED.replace("c.circuit, count(*)", "count(*)").replace(
    "group by rollup (c.circuit)", ""
)
FIGURES = "sum(total_import_kwh), sum(total_export_kwh), sum(register_intervals), {}"
HALF_HOURS = f"""
    select "timestamp", sum(total_import_kwh) as i, sum(total_export_kwh) as e,
        sum(register_intervals), sum(cardinality(meters)) as meters
    from flows.circuit_interval_hh where {IN_DAY.format('"timestamp"')} group by 1
"""
EACH_DAY = f"""
    select circuit_id, day, total_import_kwh::text, total_export_kwh::text, register_intervals,
        present_intervals, cardinality(meters)
    from flows.circuit_interval_daily where {IN_DAY.format("day")} order by circuit_id
"""
METERS_OF_THE_DAY = f"""
    select count(distinct meter) from flows.circuit_interval_daily
    cross join unnest(meters) as meter where {IN_DAY.format("day")}
"""
SUMS: dict[str, tuple[str, Parameters, list[str]]] = {
    "the day's half-hours": ("energy", {"granularity": "PT30M", "group_by": "esco"}, [HALF_HOURS]),
    "the day": (
        "energy", {"group_by": "esco"},
        [f"select sum(total_import_kwh), sum(total_export_kwh), sum(register_intervals)"
         f" from flows.circuit_interval_daily where {IN_DAY.format('day')}", METERS_OF_THE_DAY],
    ),
    "balanced half-hours": (
        "balance", {"granularity": "PT30M"},
        [f"select h.*, least(i, e) from ({HALF_HOURS}) as h", METERS_OF_THE_DAY],
    ),
    "the balanced day": (
        "balance", {},
        [f"select sum(i), sum(e), sum(least(i, e)) from ({HALF_HOURS}) as h", METERS_OF_THE_DAY],
    ),
    "the average day": (
        "profile", {"group_by": "esco"},
        [f"select h.*, h.i, h.e from ({HALF_HOURS}) as h", METERS_OF_THE_DAY],
    ),
    "the highest half-hours": (
        "peak", {"group_by": "esco"},
        [f"select * from ({HALF_HOURS}) as h order by i desc limit 10"],
    ),
}  # fmt: skip
LISTS: dict[str, tuple[str, Parameters, list[str]]] = {
    "the day of each circuit": ("energy", {}, [EACH_DAY, EXPECTED]),
    "half-hours of each circuit, a page of 100,000": (
        "energy", {"granularity": "PT30M"},
        [f"""
        select circuit_id, "timestamp", total_import_kwh::text, total_export_kwh::text,
            register_intervals, cardinality(meters)
        from flows.circuit_interval_hh
        where {OWN} and "timestamp" >= %(day)s
            and "timestamp" < %(day)s + interval '30 minutes' * ceil(100000.0 / {LARGE})
        order by "timestamp", circuit_id limit 100000
        """, EXPECTED],
    ),
    "the latest of each meter": (
        "latest", {},
        [f"""
        select m.serial, m.name, m.esco, s.health, r."timestamp",
            r."timestamp" + interval '30 minutes', s.balance_updated_at, s.last_healthy_at,
            s.updated_at, r.import_kwh::text, r.export_kwh::text, s.balance::text,
            s.emergency_credit::text, s.import_a::text, s.import_b::text, s.export_a::text,
            s.export_b::text
        from flows.meter_registry as m
        join flows.meter_shadows as s on s.id = m.id
        join flows.meter_registers as g on g.meter_id = m.id
        join flows.register_interval_hh_latest as r on r.register_id = g.register_id
        where m.{OWN} and g.{OWN} and r.{OWN} and s.{OWN} order by m.serial
        """],
    ),
    "completeness of each register": (
        "completeness", {},
        [f"""
        select m.serial, g.register_id, h.* from (
            select register_id, count(*),
                array_agg("timestamp") filter (where following > "timestamp" + '30 minutes')
            from (
                select register_id, "timestamp", lead("timestamp")
                    over (partition by register_id order by "timestamp") as following
                from flows.register_interval_hh where {IN_DAY.format('"timestamp"')}
            ) as r group by 1
        ) as h
        join flows.meter_registers as g on h.register_id = g.register_id and g.{OWN}
        join flows.meter_registry as m on m.id = g.meter_id
        order by 1, 2
        """],
    ),
}  # fmt: skip


def _everything(client: httpx.Client, admin: Admin, report: Report) -> None:
    """Ask for sums and lists over all of the large ESCO, beside SQL that reads the same rows."""
    asked = {"esco": identify("esco", 1), "day": DAY}

    def bare(statements: list[str]) -> None:
        for statement in statements:
            orjson.dumps(admin.execute(statement.encode(), asked).fetchall(), default=str)

    for name, (read, more, statements) in (SUMS | LISTS).items():
        given = more if read == "latest" else DAYS | more
        is_sum = name in SUMS
        expected = [EXPECTED_OF_ALL] if is_sum else []
        ours, sql = _medians(
            _times(
                lambda: _get(client, f"/v1/{read}", given),  # noqa: B023
                lambda: bare([*statements, *expected]),  # noqa: B023
                repeats=LONG_REPEATS,
            )
        )
        report.figure(f"all {LARGE} meters: {name}", ours * 1000, "ms")
        limit = "<= 1.5" if is_sum else "<= 2"
        report.ratio(f"all {LARGE} meters / SQL: {name}", ours, sql, limit=limit)


# Queries of whoever looks after all ESCOs: whole tables, a day, an end, a point.
OPERATED = {
    "the newest 100 half-hours":
        'select * from flows.register_interval_hh order by "timestamp" desc limit 100',
    "the day's half-hours":
        'select "timestamp", sum(import_kwh) from flows.register_interval_hh'
        ' where "timestamp" >= %(day)s and "timestamp" < %(day)s + interval \'1 day\' group by 1',
    "the day of each ESCO":
        "select c.esco, sum(d.total_import_kwh) from flows.circuit_interval_daily as d"
        " join flows.circuits as c on d.circuit_id = c.id where d.day = %(day)s group by 1",
    "meters by ESCO and health":
        "select m.esco, s.health, count(*) from flows.meter_registry as m"
        " join flows.meter_shadows as s using (id) group by 1, 2",
    "a meter's registers":
        "select * from flows.meter_registry as m"
        " join flows.meter_registers as r on r.meter_id = m.id where m.serial = 'CROWD1'",
}  # fmt: skip


def _operators(admin: Admin, report: Report) -> None:
    """Ask for rows of every ESCO as an operator's role, and as one whom no policy concerns."""

    def ask(role: str, statement: str) -> None:
        with admin.transaction():
            admin.execute(f"set local role {role}".encode())
            admin.execute(statement.encode(), {"day": DAY}).fetchall()

    for name, statement in OPERATED.items():
        for operator in ("grafanareader", "tsdbadmin"):
            ours, sql = _medians(
                _times(partial(ask, operator, statement), partial(ask, "none", statement))
            )
            report.ratio(f"{operator} / SQL: {name}", ours, sql, limit="<= 1.1")


@contextmanager
def _memory(stack: Stack, report: Report) -> Iterator[None]:
    """Report the greatest growth of the gateway and of one backend, beside what processes share.

    They share PostgreSQL's buffers, and the code of libraries, which is read where it first runs.
    """
    gateway = process_of(stack.process.pid, "app.cli serve")
    growth: dict[str, float] = {}
    before: dict[int, float] = {}
    done = Event()

    def look() -> None:
        for process in psutil.Process(stack.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, IndexError):
                if process.pid == gateway.pid:
                    name = "the gateway"
                elif "flows_gateway" in " ".join(process.cmdline()):
                    name = "a backend"
                else:
                    continue
                used = process.memory_info()
                size = float(used.rss - used.shared)
                grown = size - before.setdefault(process.pid, size)
                growth[name] = max(growth.get(name, 0), grown / 2**20)

    def watch() -> None:
        while not done.wait(0.05):
            look()

    look()
    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    for name, grown in growth.items():
        report.figure(f"all {LARGE} meters: {name} grows by", grown, "MB", limit="<= 40")


def _late_half_hour(client: httpx.Client, start: datetime) -> float:
    """Write a half-hour of the small ESCO; return the seconds until it is in its day."""
    answer = client.post(
        "/rest/v1/register_interval_hh",
        json={
            "register_id": str(identify("register", LARGE + 1)),
            "timestamp": start.isoformat(),
            "import_kwh": 1,
        },
    )
    assert answer.status_code == 201, answer.text
    written = time.perf_counter()
    circuit = f"eq.{identify('circuit', LARGE + 1)}"
    asked = {"circuit_id": circuit, "day": f"eq.{start.isoformat()}"}
    wait_until(lambda: _get(client, "/rest/v1/circuit_interval_daily", asked).json(), seconds=900)
    return time.perf_counter() - written


def _end_mappings(admin: Admin, hour: int) -> None:
    """Let every mapping of the large ESCO end at an hour of the day."""
    admin.execute(
        "update flows.circuit_register set end_time = %s where esco = %s",
        (DAY + timedelta(hours=hour), identify("esco", 1)),
    )


def _wait_for_day(admin: Admin, half_hours: int) -> None:
    """Wait until the day of the large ESCO counts so many half-hours."""
    day = "select sum(register_intervals) from flows.circuit_interval_daily"
    day += " where esco = %s and day = %s"
    wait_until(
        lambda: admin.execute(day.encode(), (identify("esco", 1), DAY)).fetchone() == (half_hours,),
        seconds=3600,
    )


@contextmanager
def _changing_all_the_time(url: str, password: str) -> Iterator[None]:
    """Change every mapping of the large ESCO again and again, in a session of its own."""
    done = Event()

    def change() -> None:
        with psycopg.connect(url, password=password, autocommit=True) as admin:
            for hour in cycle((11, 12)):
                _end_mappings(admin, hour)
                if done.wait(CHANGE_SECONDS):
                    return

    changes = Thread(target=change)
    changes.start()
    try:
        yield
    finally:
        done.set()
        changes.join()


def _following(clients: dict[str, httpx.Client], admin: Admin, report: Report) -> None:
    """Change every mapping of the large ESCO, then write late half-hours of the small one, of all.

    Each must be in the sums, as clients read them.
    """
    started = time.perf_counter()
    _end_mappings(admin, hour=12)
    changed = time.perf_counter()
    report.figure(f"{LARGE} mappings changed by a statement", changed - started, "s", limit="<= 20")

    seconds = _late_half_hour(clients["small"], FREE - timedelta(days=1))
    report.figure("another ESCO's late half-hour, in its day", seconds, "s", limit="<= 30")

    _wait_for_day(admin, 24 * LARGE)
    seconds = time.perf_counter() - changed
    report.figure(f"{LARGE} changed mappings, in their days", seconds, "s", limit="<= 60")

    late, waits = FREE - timedelta(days=1), [0.0]
    with _changing_all_the_time(admin.info.dsn, admin.info.password):
        begun = time.perf_counter()
        while time.perf_counter() - begun < 4 * CHANGE_SECONDS:
            late -= timedelta(days=1)
            waits.append(_late_half_hour(clients["small"], late))
    name = f"another ESCO's late half-hour beside {LARGE} mappings every {CHANGE_SECONDS} s"
    report.figure(name, max(waits), "s", limit="<= 30")

    late -= timedelta(days=1)
    started = time.perf_counter()
    first = LARGE + SMALL + 1
    for number in range(NEIGHBOURS):
        admin.execute(
            'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
            " select md5('crowd/register/' || n)::uuid, %s, 1"
            " from generate_series(%s::integer, %s) as n",
            (late, first + number * METERS, first + (number + 1) * METERS - 1),
        )
    written = time.perf_counter()
    wait_until(
        lambda: (
            admin.execute(
                "select count(*) from flows.circuit_interval_daily where day = %s", (late,)
            ).fetchone()
            == (NEIGHBOURS * METERS,)
        ),
        seconds=3600,
    )
    name = f"late half-hours of {NEIGHBOURS} ESCOs"
    report.figure(f"{name}, written in", written - started, "s")
    seconds = time.perf_counter() - written
    report.figure(f"{name}, in their days", seconds, "s", limit="<= 30")

    _end_mappings(admin, hour=12)
    _wait_for_day(admin, 24 * LARGE)
    _new_mappings(admin, report)


def _new_mappings(admin: Admin, report: Report) -> None:
    """Map registers of the large ESCO to other circuits of it as well, few first, then many."""
    neighbour, known = 1, 24 * LARGE
    for mappings, limit in ((FEW_MAPPINGS, "<= 1"), (MANY_MAPPINGS, "<= 20")):
        started = time.perf_counter()
        admin.execute(
            "insert into flows.circuit_register (circuit, register, start_time)"
            " select md5('crowd/circuit/' || (n + %(neighbour)s + n / %(large)s) %% %(large)s + 1)"
            "::uuid, md5('crowd/register/' || n %% %(large)s + 1)::uuid, '2000-01-01Z'"
            " from generate_series(0, %(mappings)s - 1) as n",
            {"large": LARGE, "neighbour": neighbour, "mappings": mappings},
        )
        written = time.perf_counter()
        report.figure(f"{mappings} mappings in one statement", written - started, "s", limit=limit)
        neighbour, known = neighbour + 1, known + 48 * mappings
        _wait_for_day(admin, known)
        seconds = time.perf_counter() - written
        report.figure(f"{mappings} new mappings, in their days", seconds, "s", limit="<= 60")
