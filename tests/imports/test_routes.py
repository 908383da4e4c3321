"""`/v1/imports`: files of partners, read in the background into their ESCO's registers."""

import gzip
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from tempfile import TemporaryFile
from typing import Any
from uuid import UUID, uuid4
from zipfile import ZipFile

import httpx
import psutil
import psycopg
import pytest

from app.auth.tokens import Grant
from tests.conftest import Stack, another_gateway, wait_until
from tests.ingest.command import Admin, stored
from tests.ingest.test_shapes import workbook, zipped
from tests.postgrest.test_streaming import GROWTH_MB, Memory

HALF_HOUR = timedelta(minutes=30)

PLAIN = "time,use,made\n2021-06-01T00:00Z,0.5,0\n2021-06-01T00:30Z,0.25,1\n"


def send(
    client: httpx.Client, content: str | bytes, name: str = "readings.csv", **options: Any
) -> httpx.Response:
    """Post a file with options."""
    data = content.encode() if isinstance(content, str) else content
    files = {"file": (name, BytesIO(data))}
    return client.post("/v1/imports", files=files, data={"options": json.dumps(options)})


def ended(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """Return an import when it has ended."""
    assert answer.status_code in (200, 202), answer.text

    def look() -> dict[str, Any] | None:
        found = client.get(answer.headers["location"])
        assert found.status_code == 200, found.text
        state: dict[str, Any] = found.json()
        return state if state["state"] in ("done", "failed") else None

    done: dict[str, Any] = wait_until(look)
    return done


def token(stack: Stack, esco: str, *scopes: str, role: str = "flows") -> dict[str, str]:
    """Return the header of a token with these scopes."""
    found = UUID(stack.contract["escos"][esco]["id"])
    grant = Grant("flc_partner", role, found, esco, scopes)
    issued = stack.issue(grant)
    return {"Authorization": f"Bearer {issued}"}


def test_a_file_is_written_in_the_background_and_reported(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    with stack.client("wlce", "write") as client:
        options = {"register_id": home["register"], "import_column": "use", "export_column": "made"}
        answer = send(client, PLAIN, **options)
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/imports/{answer.json()['id']}"
        assert answer.json()["state"] in ("waiting", "running", "done")
        done = ended(client, answer)
    assert (done["state"], done["error"], done["rows_read"]) == ("done", None, 2)
    assert (done["file_name"], done["size"]) == ("readings.csv", len(PLAIN))
    assert done["options"] == options
    report = done["report"]
    assert (report["read"], report["written"], report["unchanged"]) == (2, 2, 0)
    assert report["registers"][0]["import_kwh"] == "0.75"
    assert stored(admin, home["register"]) == [
        (row[0], *values, False)
        for row, values in zip(
            stored(admin, home["register"]),
            [(Decimal("0.5"), Decimal(0)), (Decimal("0.25"), Decimal(1))],
            strict=True,
        )
    ]


def test_the_same_content_is_the_same_import(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    options = {"register_id": home["register"], "import_column": "use"}
    with stack.client("wlce", "write") as client:
        first = send(client, PLAIN, **options)
        again = send(client, PLAIN, "other-name.csv", **options)
        assert again.json()["id"] == first.json()["id"]
        assert again.status_code == 200
        done = ended(client, first)
        assert send(client, PLAIN, **options).json() == done
        other = send(client, PLAIN + "2021-06-01T01:00Z,1,1\n", **options)
        assert other.status_code == 202
        assert other.json()["id"] != first.json()["id"]
        assert ended(client, other)["report"]["unchanged"] == 2
        others = send(client, PLAIN, **options, dry_run=True)
        assert others.json()["id"] != first.json()["id"]
        assert ended(client, others)["report"]["preview"]["unchanged"] == 2


def test_a_failed_import_is_run_again(stack: Stack, home: dict[str, str], admin: Admin) -> None:
    options = {"register_id": str(uuid4()), "import_column": "use"}
    with stack.client("wlce", "write") as client:
        failed = ended(client, send(client, PLAIN, **options))
        assert failed["state"] == "failed"
        assert failed["error"] == f"there is no register {options['register_id']}"
        assert failed["report"] is None
        again = send(client, PLAIN, **options)
        assert (again.status_code, again.json()["id"]) == (202, failed["id"])
        assert again.json()["error"] is None
        ended(client, again)


def test_bad_rows_are_named_and_nothing_is_written(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    content = PLAIN + "2021-06-01T01:00Z,a\0b,0\n2021-06-01T01:30Z,-1,0\n"
    options = {"register_id": home["register"], "import_column": "use"}
    with stack.client("wlce", "write") as client:
        failed = ended(client, send(client, content, **options))
    assert failed["state"] == "failed"
    assert failed["error"].startswith("nothing was written: 2 of 4 rows are refused, the first in")
    assert [row["line"] for row in failed["report"]["refused"]] == [4, 5]
    assert failed["report"]["refused"][1]["reason"].endswith("or one that sign explains")
    assert stored(admin, home["register"]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name the register with register_id, or a column with register_column or"),
        ({"import_column": "none"}, "there is no column 'none'; the file has: 'time', 'use'"),
    ],
)
def test_a_file_that_does_not_fit_fails_with_the_option_to_give(
    stack: Stack, home: dict[str, str], options: dict[str, str], message: str
) -> None:
    known = {"register_id": home["register"]} if options else {}
    with stack.client("wlce", "write") as client:
        failed = ended(client, send(client, PLAIN, **options, **known))
    assert failed["state"] == "failed"
    assert message in failed["error"]


def test_registers_of_another_esco_are_none(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    with stack.client("hmce", "write") as client:
        by_id = send(client, PLAIN, register_id=home["register"], import_column="use")
        assert ended(client, by_id)["error"] == f"there is no register {home['register']}"
        content = f"time,meter,use\n2021-06-01T00:00Z,{home['serial']},1\n"
        by_serial = send(client, content, serial_column="meter", import_column="use")
        assert "there is no meter with the serial" in ended(client, by_serial)["error"]
        mapped = send(
            client, content, serial_column="meter", import_column="use",
            map={home["serial"]: home["register"]},
        )  # fmt: skip
        assert ended(client, mapped)["error"] == f"there is no register {home['register']}"
    assert stored(admin, home["register"]) == []
    with stack.client("wlce", "read") as client:
        hidden = client.get(mapped.headers["location"])
        assert (hidden.status_code, hidden.json()["code"]) == (404, "not_found")
        assert client.get(f"/v1/imports/{uuid4()}").json()["detail"] == hidden.json()["detail"]


def test_an_import_is_one_of_its_esco(stack: Stack, home: dict[str, str]) -> None:
    content = PLAIN + "\n"
    options = {"register_id": home["register"], "import_column": "use"}
    with stack.client("wlce", "write") as own, stack.client("hmce", "write") as other:
        mine, others = send(own, content, **options), send(other, content, **options)
        assert mine.json()["id"] != others.json()["id"]
        assert ended(own, mine)["state"] == "done"
        assert ended(other, others)["state"] == "failed"


def test_estimates_and_readings_are_written_as_the_caller(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    with stack.client("wlce", "write") as client:
        hourly = "time,use\n2021-06-01T00:00Z,1\n2021-06-01T01:00Z,2\n2021-06-01T02:00Z,1\n"
        options = {"register_id": home["register"], "import_column": "use"}
        done = ended(client, send(client, hourly, **options, interval="60m", spread="even"))
        assert done["report"]["estimated"] == 6, done
        rows = stored(admin, home["register"])
        assert [(row[1], row[3]) for row in rows] == [
            (Decimal(kwh), True) for kwh in ("0.5", "0.5", "1", "1", "0.5", "0.5")
        ]
        # A measured half-hour takes an estimate's place, in an insert too: the register is noted.
        posted = client.post(
            "/rest/v1/register_interval_hh",
            json={"register_id": home["register"], "timestamp": "2021-06-01T00:00Z",
                  "import_kwh": 0.7},
        )  # fmt: skip
        assert posted.status_code == 201, posted.text
        reads = "time,use\n2021-06-02T00:00Z,5000\n2021-06-02T01:00Z,5001\n"
        counted = ended(client, send(client, reads, **options, reads=True))
        assert counted["report"]["written"] == 2, counted
    assert [row[1] for row in stored(admin, home["register"], "register_import")] == [5000, 5001]
    for table in ("register_import", "register_interval_hh", "derived_register"):
        admin.execute(f"delete from flows.{table} where register_id = %s", (home["register"],))
    admin.commit()


def test_a_compressed_workbook_or_profile_is_read_as_by_the_command(
    stack: Stack, home: dict[str, str]
) -> None:
    with stack.client("wlce", "write") as client:
        packed = gzip.compress(PLAIN.encode())
        done = ended(
            client, send(client, packed, register_id=home["register"], import_column="use")
        )
    assert (done["state"], done["report"]["found"]) == ("done", ["gzip", "interval 30m"])


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ('{"unit": "kJoule"}', "options.unit"),
        ('{"colour": "red"}', "options.colour"),
        ('{"register_id": 7}', "options.register_id"),
        ('{"profile": "/etc/secret.toml"}', "options.profile"),
        ('{"profile": "../profiles/nem12.toml"}', "options.profile"),
        ('{"timezone": "Mars/Base"}', "options.timezone"),
        ('{"sign": "import"}', "options"),
        ("[1]", "options"),
        ("{", "options"),
        ('{"import_column": "a\\u0000b"}', "options"),
    ],
)
def test_wrong_options_are_named(stack: Stack, options: str, parameter: str) -> None:
    with stack.client("wlce", "write") as client:
        answer = client.post(
            "/v1/imports", files={"file": ("a.csv", PLAIN)}, data={"options": options}
        )
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["parameter"] == parameter
    assert "--" not in answer.text


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        ({"data": {"options": "{}"}}, 400, "multipart/form-data"),
        ({"json": {}}, 400, "multipart/form-data"),
        ({"files": {"options": (None, "{}")}}, 422, "file: is missing"),
        ({"files": {"file": (None, "a,b")}}, 422, "file: is missing"),
        ({"files": {"file": ("a.csv", "")}}, 422, "file: is empty"),
        ({"files": {"file": ("a.csv", "x"), "other": (None, "1")}}, 422, "other: is not a part"),
        ({"files": [("file", ("a.csv", "x")), ("file", ("b.csv", "x"))]}, 422, "given once"),
        ({"files": {"file": ("a.csv", "x"), "options": (None, " " * 70_000)}}, 400, None),
    ],
)
def test_a_form_that_is_none_is_refused(
    stack: Stack, sent: dict[str, Any], status: int, detail: str | None
) -> None:
    with stack.client("wlce", "write") as client:
        answer = client.post("/v1/imports", **sent)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail is None or detail in answer.json()["detail"]


def test_who_may_not_write_is_refused_before_the_file_is_read(
    stack: Stack, home: dict[str, str], monitoring_token: str
) -> None:
    options = {"register_id": home["register"], "import_column": "use"}
    with stack.client(None) as client:
        assert send(client, PLAIN, **options).status_code == 401
        for headers in (
            token(stack, "wlce", "read"),
            token(stack, "wlce", "admin"),
            {"Authorization": f"Bearer {monitoring_token}"},
        ):
            client.headers.update(headers)
            answer = send(client, PLAIN, **options)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_token_that_only_writes_gets_no_report(stack: Stack, home: dict[str, str]) -> None:
    with stack.client(None) as writer, stack.client("wlce", "read") as reader:
        writer.headers.update(token(stack, "wlce", "write"))
        options = {"register_id": home["register"], "import_column": "made"}
        answer = send(writer, PLAIN, **options)
        assert ended(reader, answer)["report"]["written"] == 2
        again = send(writer, PLAIN, **options)
        assert (again.json()["state"], again.json()["report"]) == ("done", None)
        assert writer.get(answer.headers["location"]).status_code == 403


def test_the_last_sign_of_life_decides_what_is_lost(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    options = {"register_id": home["register"], "import_column": "use"}
    with stack.client("wlce", "write") as client:
        answer = send(client, PLAIN, **options)
        done = ended(client, answer)
        # As a gateway leaves it that is gone in the middle of the import.
        admin.execute(
            "update gateway.import set state = 'running', report = null, run = %s,"
            " alive_at = now() - interval '2 minutes' where id = %s",
            (uuid4(), done["id"]),
        )
        admin.commit()
        lost = client.get(answer.headers["location"]).json()
        assert lost["state"] == "failed"
        assert lost["error"].startswith("The gateway was stopped before the import had ended")
        again = send(client, PLAIN, **options)
        assert (again.status_code, again.json()["id"]) == (202, done["id"])
        assert ended(client, again)["report"]["unchanged"] == 2


def test_an_attempt_that_was_replaced_cannot_end_the_import(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    with stack.client("wlce", "write") as client:
        options = {"register_id": home["register"], "import_column": "use"}
        done = ended(client, send(client, PLAIN, **options))
    ended_again = admin.execute(
        "select gateway.finish_import(run, 'failed', 0, 'late', null),"
        " gateway.start_import(id, run) from gateway.import where id = %s",
        (done["id"],),
    ).fetchone()
    assert ended_again == (False, False)


def test_no_caller_reads_the_imports_of_others_in_the_database(
    stack: Stack, home: dict[str, str], admin: Admin
) -> None:
    with stack.client("wlce", "write") as client:
        options = {"register_id": home["register"], "import_column": "use"}
        done = ended(client, send(client, PLAIN, **options))
    for esco, seen in (("wlce", 1), ("hmce", 0)):
        admin.execute(
            "select set_config('app.current_esco', %s, true), set_config('role', 'flows', true)",
            (stack.contract["escos"][esco]["id"],),
        )
        found = admin.execute("select id from gateway.read_import(%s)", (done["id"],)).fetchall()
        assert len(found) == seen
        with pytest.raises(psycopg.errors.InsufficientPrivilege), admin.transaction():
            admin.execute("select from gateway.import")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), admin.transaction():
            admin.execute("select gateway.keep_imports('{}', '{}')")
        admin.rollback()


def test_head_answers_like_get(stack: Stack, home: dict[str, str]) -> None:
    with stack.client("wlce", "write") as client:
        options = {"register_id": home["register"], "import_column": "use"}
        answer = send(client, PLAIN, **options)
        ended(client, answer)
        found = client.head(answer.headers["location"])
        assert (found.status_code, found.content) == (200, b"")


def test_the_largest_file_streams_in_and_is_never_held_by_the_gateway(
    stack: Stack, home: dict[str, str]
) -> None:
    note = "x" * 2000
    start = datetime(2019, 1, 1, tzinfo=UTC)
    size, rows = 64 * 2**20, 0
    with TemporaryFile() as file, stack.client("wlce", "write") as client:
        file.write(b"time,note,use\n")
        while file.tell() < size - 4096:
            file.write(f"{start + rows * HALF_HOUR:%Y-%m-%d %H:%MZ},{note},0.5\n".encode())
            rows += 1
        file.write(b"\n" * (size - file.tell()))
        file.seek(0)
        # A first import, so that modules and pools are not measured.
        given: dict[str, Any] = {"register_id": home["register"], "import_column": "use"}
        given["dry_run"] = True
        ended(client, send(client, PLAIN, **given))
        memory = Memory(stack)

        class Watched(BytesIO):
            def read(self, count: int | None = -1, /) -> bytes:
                memory.look()
                return file.read(-1 if count is None else count)

            def fileno(self) -> int:
                return file.fileno()  # by which the client finds the size

        answer = client.post(
            "/v1/imports",
            files={"file": ("large.csv", Watched())},
            data={"options": json.dumps(given)},
            timeout=120,
        )
        memory.look()
        done = ended(client, answer)
        memory.look()
    assert (done["state"], done["size"], done["report"]["half_hours"]) == ("done", size, rows)
    assert memory.growth_mb < GROWTH_MB


@pytest.mark.parametrize("cell", ["CV1048576", "XFD1048576"])
def test_52_a_workbook_of_two_distant_cells_takes_bounded_memory(
    stack: Stack, home: dict[str, str], cell: str
) -> None:
    """It is a kilobyte, and a table of 3 GB, or of 500, when it is read."""
    with ZipFile(BytesIO(workbook({"S": [["time", "use"], [1]]}))) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    sheet = files["xl/worksheets/sheet1.xml"]
    files["xl/worksheets/sheet1.xml"] = sheet.replace('r="A2"', f'r="{cell}"')
    peak = 0

    def look() -> dict[str, Any] | None:
        nonlocal peak
        for process in psutil.Process(stack.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "app.imports.worker" in process.cmdline():
                    peak = max(peak, process.memory_info().rss)
        state: dict[str, Any] = client.get(answer.headers["location"]).json()
        return state if state["state"] in ("done", "failed") else None

    with stack.client("wlce", "write") as client:
        options = {"register_id": home["register"], "import_column": "use"}
        answer = send(client, zipped(**files), "use.xlsx", **options)
        done = wait_until(look)
    assert (done["state"], "too much memory" in done["error"]) == ("failed", True)
    assert 0 < peak < 2 * 2**30


def test_52_an_import_ends_where_its_memory_does(stack: Stack, home: dict[str, str]) -> None:
    """To print where that was took memory in turn, and the import waited for itself."""
    wide = b"time,use\n" + (b"," * 1_000_000 + b"x\n") * 30
    with another_gateway(stack, RUST_BACKTRACE="1") as own, own.client("wlce", "write") as client:
        answer = send(client, wide.decode(), register_id=home["register"], import_column="use")
        assert ended(client, answer)["state"] == "failed"
