"""Files of every layout beside COPY of the same half-hours into the same table.

FLOWS_BENCH_LAYOUTS (default 200000) is the number of half-hours of a file, of twenty registers.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import psycopg

from app.ingest.options import read_options
from app.ingest.pipeline import import_data
from tests.bench.history import History
from tests.bench.report import Report
from tests.conftest import Stack
from tests.databases import new_database

HALF_HOURS = int(os.environ.get("FLOWS_BENCH_LAYOUTS", "200000"))
# Files are read in blocks of four million characters, some 70,000 rows, so a smaller file than the
# tenth of this says nothing of how memory grows.
HALF_HOURS_OF_MEMORY = 1_000_000
REGISTERS = 20
DAYS = HALF_HOURS // REGISTERS // 48
START = datetime(2022, 1, 1, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)
COPY = 'copy flows.register_interval_hh (register_id, "timestamp", import_kwh) from stdin'

Admin = psycopg.Connection[Any]
Writer = Callable[[UUID, int], Iterator[str]]


def kwh(day: int, number: int) -> str:
    """Return the energy of a half-hour, with three digits."""
    return f"{(day * 48 + number) % 997 / 1000:.3f}"


def starts(day: int) -> list[datetime]:
    """Return the starts of a day's half-hours."""
    return [START + timedelta(days=day) + n * HALF_HOUR for n in range(48)]


def as_copy(register: UUID, day: int) -> Iterator[str]:
    for n, start in enumerate(starts(day)):
        yield f"{register}\t{start}\t{kwh(day, n)}\n"


def as_rows(register: UUID, day: int) -> Iterator[str]:
    for n, start in enumerate(starts(day)):
        yield f"{start:%Y-%m-%d %H:%M},{register},{kwh(day, n)}\n"


def as_long(register: UUID, day: int) -> Iterator[str]:
    for n, start in enumerate(starts(day)):
        yield f"{start:%Y-%m-%d %H:%M},{register},import,{kwh(day, n)}\n"


def as_days(register: UUID, day: int) -> Iterator[str]:
    values = ",".join(kwh(day, n) for n in range(48))
    yield f"{START + timedelta(days=day):%Y-%m-%d},{register},{values}\n"


def as_nem12(register: UUID, day: int) -> Iterator[str]:
    if day == 0:
        yield f"200,{register},E1,1,E1,N1,{register.hex[:8]},kWh,30,\n"
    values = ",".join(kwh(day, n) for n in range(48))
    yield f"300,{START + timedelta(days=day):%Y%m%d},{values},A,,,20250101000000,\n"


def as_espi(register: UUID, day: int) -> Iterator[str]:
    reading = f"{SERVICE}/RetailCustomer/1/UsagePoint/{register}/MeterReading/1"
    if day == 0:
        yield entry(reading, "<espi:MeterReading/>", f"{SERVICE}/ReadingType/1")
    values = "".join(
        "<espi:IntervalReading><espi:timePeriod><espi:duration>1800</espi:duration>"
        f"<espi:start>{start.timestamp():.0f}</espi:start></espi:timePeriod>"
        f"<espi:value>{float(kwh(day, n)) * 1000:.0f}</espi:value></espi:IntervalReading>"
        for n, start in enumerate(starts(day))
    )
    block = f"<espi:IntervalBlock>{values}</espi:IntervalBlock>"
    yield entry(f"{reading}/IntervalBlock/{day}", block)


def entry(address: str, content: str, related: str = "") -> str:
    """Return an entry of a feed, with a link to another."""
    link = f'<link rel="related" href="{related}"/>' if related else ""
    return f'<entry><link rel="self" href="{address}"/>{link}<content>{content}</content></entry>\n'


SERVICE = "https://utility.example/espi/1_1/resource"
READING_TYPE = (
    "<espi:ReadingType><espi:flowDirection>1</espi:flowDirection><espi:intervalLength>1800"
    "</espi:intervalLength><espi:powerOfTenMultiplier>0</espi:powerOfTenMultiplier>"
    "<espi:uom>72</espi:uom></espi:ReadingType>"
)
HEADERS = {
    "rows": "time,register,use\n",
    "long": "time,register,kind,use\n",
    "days": "date,register," + ",".join(map(str, range(1, 49))) + "\n",
    "nem12": "100,NEM12,202501010900,MDP1,RETAILER\n",
    "espi": '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:espi="http://naesb.org/espi">\n'
    + entry(f"{SERVICE}/ReadingType/1", READING_TYPE),
}
ENDS = {"nem12": "900\n", "espi": "</feed>\n"}
LAYOUTS: dict[str, tuple[Writer, dict[str, Any]]] = {
    "rows": (as_rows, {"register_column": "register", "import_column": "use", "timezone": "UTC"}),
    "long": (
        as_long,
        {"register_column": "register", "quantity_column": "kind", "value_column": "use",
         "timezone": "UTC"},
    ),
    "days": (as_days, {"layout": "days", "register_column": "register", "timezone": "UTC"}),
    "nem12": (as_nem12, {"register_column": "nmi", "layout": "nem12"}),
    "espi": (as_espi, {"register_column": "usage_point", "layout": "espi"}),
}  # fmt: skip


def run(stack: Stack, report: Report) -> None:
    """Time each layout and a COPY of the same rows, and compare the memory of two sizes."""
    with (
        new_database(stack.contract["database_url"], migrated=True) as url,
        psycopg.connect(url, autocommit=True) as admin,
    ):
        history = History(admin, "layouts", 1, REGISTERS)
        admin.execute("analyze")
        registers = [history.id("register", n) for n in range(1, REGISTERS + 1)]
        report.figure("half-hours of a file", 48.0 * DAYS * REGISTERS, "rows")
        copied = min(_copy(admin, registers) for _ in range(2))
        for name, (write, options) in LAYOUTS.items():
            text = HEADERS[name] + _text(write, registers, DAYS) + ENDS.get(name, "")
            seconds = min(_import(admin, text, options) for _ in range(2))
            limit = ">= 0.5" if name == "rows" else None
            report.ratio(f"{name}, of COPY into the same table", copied, seconds, limit=limit)
        _memory(url, registers, report)


def _text(write: Writer, registers: list[UUID], days: int) -> str:
    return "".join(
        line for register in registers for day in range(days) for line in write(register, day)
    )


def _empty(admin: Admin) -> None:
    for table in ("register_interval_hh", "register_extent", "change"):
        admin.execute(f"truncate flows.{table}".encode())


def _copy(admin: Admin, registers: list[UUID]) -> float:
    _empty(admin)
    lines = _text(as_copy, registers, DAYS).encode()
    started = time.perf_counter()
    with admin.cursor().copy(COPY) as copy:
        for begin in range(0, len(lines), 65536):
            copy.write(lines[begin : begin + 65536])
    return time.perf_counter() - started


def _import(admin: Admin, text: str, options: dict[str, Any]) -> float:
    _empty(admin)
    data = BytesIO(text.encode())
    started = time.perf_counter()
    summary = import_data(admin, data, read_options(**options))
    seconds = time.perf_counter() - started
    assert summary.written == 48 * DAYS * REGISTERS, summary.refused[:3]
    return seconds


def _memory(url: str, registers: list[UUID], report: Report) -> None:
    """Report how much more memory a large file takes than a tenth of it."""
    whole, peaks = HALF_HOURS_OF_MEMORY // REGISTERS // 48, []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        for days in (whole // 10, whole):
            file.write_text(HEADERS["rows"] + _text(as_rows, registers, days))
            options = "--register-column register --import-column use --timezone UTC --dry-run"
            command = [sys.executable, "-m", "app.cli", "import", str(file), *options.split()]
            child = subprocess.Popen(
                command,
                env=os.environ | {"FLOWS_DATABASE_ADMIN_URL": url},
                stdout=subprocess.DEVNULL,
            )
            peak = 0.0
            while child.poll() is None:
                peak = max(peak, _peak(child.pid))
                time.sleep(0.02)
            assert child.returncode == 0
            peaks.append(peak)
    report.figure("memory of 100,000 rows", peaks[0], "MB")
    report.figure("memory of 1,000,000 rows beyond that", peaks[1] - peaks[0], "MB", limit="<= 40")


def _peak(pid: int) -> float:
    """Return the most memory that a running process has had, MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
