"""Shapes in which real files come: encodings, workbooks, archives, headers, times, numbers."""

import csv
import gzip
import io
import struct
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.ingest.faults import FormatError
from tests.ingest.text import staged

PLAIN = "time,use\n2024-05-01 00:00,0.1\n2024-05-01 00:30,0.25\n"
EXPECTED = [("04-30 23:00", 0.1), ("04-30 23:30", 0.25)]


def read(content: str | bytes, **given: Any) -> list[tuple[str, float]]:
    """Return the half-hours of a file with the columns time and use, without refused rows."""
    options = {"import_column": "use", "time_column": "time", "timezone": "Europe/London"} | given
    found = staged(content, **options)
    assert not found.refused
    return found.imports


def found(content: str | bytes, **given: Any) -> list[str]:
    """Return what was found out about a file."""
    options = {"import_column": "use", "time_column": "time", "timezone": "Europe/London"} | given
    return staged(content, **options).summary.found


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\ntime;use\n2024-05-01 00:00;0.1\n2024-05-01 00:30;0.25\n",
        "sep=,\n" + PLAIN,
        "Consumption of home 7\nprinted,2024-05-02\n\n" + PLAIN,
        " time , use \n2024-05-01 00:00 , 0.1\n2024-05-01 00:30 ,0.25 \n",
        "Time,USE\n2024-05-01 00:00,0.1\n2024-05-01 00:30,0.25\n",
        "time,use,\n2024-05-01 00:00,0.1,\n2024-05-01 00:30,0.25,\n",
        "time,use\n2024-05-01 00:00,0.1,\n2024-05-01 00:30,0.25,,\n",
        "time,use,\n2024-05-01 00:00,0.1\n2024-05-01 00:30,0.25\n",
        "time|use\n2024-05-01 00:00|0.1\n2024-05-01 00:30|0.25\n",
        '"time"\t"use"\n"2024-05-01 00:00"\t"0.1"\n"2024-05-01 00:30"\t"0.25"\n',
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.removesuffix("\n"),
        PLAIN + "\n\n,\n",
        "time,use\n2024-05-01T00:00:00+01:00,0.1\n2024-05-01T00:30:00.000+01:00,0.25\n",
        "time,use\n2024-04-30T23:00:00Z,0.1\n2024-04-30T23:30:00Z,0.25\n",
        "time,use\n20240501T0000,0.1\n20240501T0030,0.25\n",
        "time,use\n1714518000,0.1\n1714519800,0.25\n",
        "time,use\n1714518000000,0.1\n1714519800000,0.25\n",
        "time,use\n45413,0.1\n45413.0208333333,0.25\n",
        "time,use\n2024-04-30 24:00,0.1\n2024-05-01 00:30,0.25\n",
    ],
)
def test_shapes_of_text_are_read_without_being_named(text: str) -> None:
    assert read(text) == EXPECTED


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (
            "day,time,use\n2024-05-01,00:00,0.1\n2024-05-01,00:30,0.25\n",
            {"date_column": "day"},
        ),
        (
            "day,time,use\n30/04/2024,24:00,0.1\n01/05/2024,00:30,0.25\n",
            {"date_column": "day", "time_format": "%d/%m/%Y %H:%M"},
        ),
        (
            "time,use\n01-May-2024 12:00 AM,0.1\n01-May-2024 12:30 AM,0.25\n",
            {"time_format": "%d-%b-%Y %I:%M %p"},
        ),
        ("time,use\n1714518000,0.1\n1714519800,0.25\n", {"time_format": "unix"}),
        ("time,use\n1714518000000,0.1\n1714519800000,0.25\n", {"time_format": "unix-ms"}),
        ("time,use\n45413.0,0.1\n45413.0208333333,0.25\n", {"time_format": "excel"}),
        ("time;use\n2024-05-01 00:00;0,1\n2024-05-01 00:30;0,25\n", {"decimal": ","}),
    ],
)
def test_shapes_of_text_are_read_when_named(text: str, given: dict[str, Any]) -> None:
    assert read(text, **given) == EXPECTED


@pytest.mark.parametrize("label", ["start", "end"])
@pytest.mark.parametrize("part", [" to ", " - ", "/"])
def test_an_interval_in_one_cell_is_its_start_whatever_the_label(part: str, label: str) -> None:
    times = ["2024-05-01 00:00", "2024-05-01 00:30", "2024-05-01 01:00"]
    if part == "/":
        times = [time.replace(" ", "T") for time in times]
    rows = "".join(
        f"{part.join(times[n : n + 2])},{use}\n" for n, use in enumerate(("0.1", "0.25"))
    )
    assert read("time,use\n" + rows, label=label) == EXPECTED
    assert len(staged("time,use\nx - y 1,1\n", import_column="use", timezone="UTC").refused) == 1


def test_a_word_for_an_unknown_value_may_stand_at_any_time() -> None:
    text = PLAIN + "2024-05-01 01:00,0\n2024-05-01 01:30,0\n2024-05-01 01:41:07.0000000,Null\n"
    given = {"import_column": "use", "timezone": "Europe/London"}
    assert (staged(text, **given).refused, staged(text, **given).summary.unknown) == ([], 1)
    (row,) = staged(text.replace("Null", "0"), **given).refused
    assert row.reason.endswith("is not on the hour or half-hour")


def test_thousands_are_parted_only_as_named() -> None:
    text = "time;use\n2024-05-01 00:00;1.234,5\n2024-05-01 00:30;1234567,5\n"
    given = {"decimal": ",", "thousands": ".", "unit": "Wh"}
    assert [kwh for _, kwh in read(text, **given)] == [1.2345, 1234.5675]
    spaced = "time;use\n2024-05-01 00:00;1 234.5\n2024-05-01 00:30;1 234 567.5\n"
    assert [kwh for _, kwh in read(spaced, thousands=" ", unit="Wh")] == [1.2345, 1234.5675]
    unnamed = staged(text, import_column="use", timezone="UTC", decimal=",").refused
    assert [row.reason for row in unnamed] == ["'1.234,5' is not a number"]
    wrong = staged("time;use\n2024-05-01;1.23\n", import_column="use", timezone="UTC", **given)
    assert [row.reason for row in wrong.refused] == ["'1.23' is not a number"]


def test_words_for_an_unknown_value_leave_a_gap_and_are_counted() -> None:
    text = PLAIN + "2024-05-01 01:00,NULL\n2024-05-01 01:30,-\n2024-05-01 02:00,nada\n"
    given = {"import_column": "use", "timezone": "Europe/London"}
    first = staged(text, **given)
    assert [row.reason for row in first.refused] == ["'nada' is not a number"]
    second = staged(text, null=("-", "null", "Nada"), **given)
    assert (second.imports, second.summary.unknown) == (EXPECTED, 3)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8-sig", ["encoding utf-8"]),
        ("utf-16", ["encoding utf-16"]),
        ("utf-16-le", ["encoding utf-16-le"]),
        ("utf-16-be", ["encoding utf-16-be"]),
        ("cp1252", ["encoding cp1252"]),
    ],
)
def test_an_encoding_is_found_and_said(encoding: str, said: list[str]) -> None:
    content = PLAIN.replace("use", "énergie").encode(encoding)
    assert read(content, import_column="énergie") == EXPECTED
    assert found(content, import_column="énergie")[:1] == said


def test_an_encoding_is_named() -> None:
    content = PLAIN.replace("use", "мощность").encode("cp1251")
    assert read(content, import_column="мощность", encoding="cp1251") == EXPECTED
    with pytest.raises(FormatError, match="the file is not utf-8 text; name its --encoding"):
        read(content, import_column="мощность", encoding="utf-8")
    with pytest.raises(FormatError, match="--encoding: 'rot13' is no encoding known"):
        read(content, encoding="rot13")


def zipped(**members: str | bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_archives_are_unpacked() -> None:
    assert read(gzip.compress(PLAIN.encode())) == EXPECTED
    packed = zipped(**{"use.csv": PLAIN, "__MACOSX/._use.csv": "x"})
    assert read(packed) == EXPECTED
    assert found(packed)[0] == "use.csv of the zip file"
    with pytest.raises(FormatError, match=r"has 2 files, name one with --sheet: a\.csv, b\.csv"):
        read(zipped(**{"a.csv": PLAIN, "b.csv": PLAIN}))
    both = zipped(**{"a.csv": PLAIN.replace("0.1", "9"), "b.csv": PLAIN, "about.HTML": "<p>"})
    assert read(both, sheet="b.csv") == EXPECTED
    assert read(zipped(**{"use.csv": PLAIN, "about.HTML": "<p>", "use.pdf": "x"})) == EXPECTED


@pytest.mark.parametrize("pack", [gzip.compress, lambda content: zipped(**{"a": content.decode()})])
def test_a_damaged_or_huge_archive_is_refused(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = PLAIN + "2024-05-01 01:00,1\n" * 300_000
    with pytest.raises(FormatError, match=r"damaged|cannot be read"):
        read(pack(rows.encode())[:-2000])
    monkeypatch.setattr("tests.ingest.text.LARGEST_BYTES", 4_000_000)
    with pytest.raises(FormatError, match="more than 4,000,000 bytes when decompressed"):
        read(pack(rows.encode()))


@pytest.mark.parametrize("pack", [gzip.compress, lambda content: zipped(**{"a": content.decode()})])
def test_an_archive_of_one_endless_line_is_refused(
    pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is held whole, and compressed it is nothing: 1 MB may be a line of 1 GB."""
    monkeypatch.setattr("app.ingest.source.LONGEST_LINE", 3_000_000)
    with pytest.raises(FormatError, match="a line has more than 3,000,000 bytes"):
        read(pack(PLAIN.encode() + b"0" * 5_000_000))
    rows = PLAIN.encode() + (b" " * 2_000_000 + b"\n") * 2
    assert read(pack(rows)) == EXPECTED


def workbook(sheets: dict[str, list[list[Any]]]) -> bytes:
    """Return a workbook as Excel writes one, by hand: numbers, dates as serials, texts."""
    names, files = list(sheets), {}
    for number, name in enumerate(names, start=1):
        rows = []
        for at, row in enumerate(sheets[name], start=1):
            cells = []
            for column, value in zip("ABCDEF", row, strict=False):
                if isinstance(value, datetime):
                    serial = (value - datetime(1899, 12, 30)) / timedelta(days=1)
                    cells.append(f'<c r="{column}{at}" s="1"><v>{serial!r}</v></c>')
                elif isinstance(value, str):
                    text = f"<is><t>{value}</t></is>"
                    cells.append(f'<c r="{column}{at}" t="inlineStr">{text}</c>')
                elif value is not None:
                    cells.append(f'<c r="{column}{at}"><v>{value!r}</v></c>')
            rows.append(f'<row r="{at}">{"".join(cells)}</row>')
        files[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(rows)}</sheetData></worksheet>'
        )
    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(names, 1)
    )
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{RELATION}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(names) + 1)
    )
    styles = f'<Relationship Id="rId99" Type="{RELATION}/styles" Target="styles.xml"/>'
    files |= {
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATION}">'
        f"<sheets>{listed}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        f"{related}{styles}</Relationships>",
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><cellXfs><xf numFmtId="0"/>'
        '<xf numFmtId="22"/></cellXfs></styleSheet>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="rId1"'
        f' Type="{RELATION}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
    }
    return zipped(**files)


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
TIMES = [datetime(2024, 5, 1), datetime(2024, 5, 1, 0, 30)]


def test_a_workbook_is_read_by_the_name_of_its_sheet() -> None:
    filled: list[list[Any]] = [
        ["A title"],
        ["time", "use"],
        *([t, kwh] for t, kwh in zip(TIMES, (0.1, 0.25), strict=True)),
    ]
    one = workbook({"Data": filled, "Empty": []})
    assert read(one) == EXPECTED
    assert found(one)[:2] == ["sheet Data", "header in line 2"]
    assert read(one, decimal=",") == EXPECTED
    two = workbook({"Notes": [["nothing"]], "Data": filled})
    assert read(two, sheet="Data") == EXPECTED
    with pytest.raises(FormatError, match="name one of the sheets with --sheet: Notes, Data"):
        read(two)
    with pytest.raises(FormatError, match="there is no sheet 'data'; there are: Notes, Data"):
        read(two, sheet="data")


def old_workbook(rows: list[list[str | float]]) -> bytes:
    """Return a workbook as Excel wrote it until 2003: BIFF8 records in a compound file."""

    def record(kind: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack("<HH", kind, len(body)) + body

    def text(value: str) -> bytes:
        return struct.pack("<HB", len(value), 0) + value.encode("latin-1")

    sheet = record(0x809, struct.pack("<HHHHII", 0x600, 0x10, 0, 0, 0, 0))
    for at, row in enumerate(rows):
        for column, value in enumerate(row):
            place = struct.pack("<HHH", at, column, 0)
            if isinstance(value, str):
                sheet += record(0x204, place, text(value))
            else:
                sheet += record(0x203, place, struct.pack("<d", value))
    sheet += record(0x0A)
    start = record(0x809, struct.pack("<HHHHII", 0x600, 5, 0, 0, 0, 0))
    bound = len(start) + 4 + 8 + 4 + 4
    stream = start + record(0x85, struct.pack("<IBBBB", bound, 0, 0, 4, 0), b"Data") + record(0x0A)
    # Streams of 4,096 bytes and more lie in sectors of 512 bytes: the table, the directory, it.
    stream = (stream + sheet).ljust(4096, b"\0")
    count = -(-len(stream) // 512)
    stream = stream.ljust(count * 512, b"\0")
    end, free = 0xFFFFFFFE, 0xFFFFFFFF
    table = [0xFFFFFFFD, end, *range(3, count + 2), end]

    def entry(name: str, kind: int, child: int, first: int, size: int) -> bytes:
        title = (name + "\0").encode("utf-16-le") if name else b""
        head = title.ljust(64, b"\0") + struct.pack("<HBB", len(title), kind, 1)
        return head + struct.pack("<III36xIQ", free, free, child, first, size)

    directory = [entry("Root Entry", 5, 1, end, 0), entry("Workbook", 2, free, 2, len(stream))]
    directory += [entry("", 0, free, 0, 0)] * 2
    head = bytes.fromhex("d0cf11e0a1b11ae1").ljust(24, b"\0")
    head += struct.pack(
        "<HHHHH6xIIIIIIIIII", 0x3E, 3, 0xFFFE, 9, 6, 0, 1, 1, 0, 4096, end, 0, end, 0, 0
    )
    return b"".join(
        [
            head.ljust(512, b"\xff"),
            struct.pack(f"<{len(table)}I", *table).ljust(512, b"\xff"),
            *directory,
            stream,
        ]
    )


def test_a_workbook_of_old_excel_is_read_also_in_a_zip_file() -> None:
    times = ["2024-05-01 00:00", "2024-05-01 00:30"]
    rows: list[list[str | float]] = [
        ["A title"],
        ["time", "use"],
        [times[0], 0.1],
        [times[1], 0.25],
    ]
    old = old_workbook(rows)
    assert read(old) == EXPECTED
    assert found(old)[:2] == ["sheet Data", "header in line 2"]
    packed: dict[str, str | bytes] = {"use.xls": old, "about.html": "<p>"}
    assert read(zipped(**packed)) == EXPECTED
    new = workbook({"Data": [[*row] for row in rows]})
    assert read(zipped(**{"use.xlsx": new})) == EXPECTED
    with pytest.raises(FormatError, match="the workbook cannot be read"):
        read(old[:600])


def test_times_of_a_workbook_are_exact_for_a_year_and_lines_are_its_rows() -> None:
    start = datetime(2024, 1, 1)
    rows = [[start + n * timedelta(minutes=30), 0.5] for n in range(366 * 48)]
    content = workbook({"Data": [["time", "use"], *rows, [datetime(2025, 1, 1), -1]]})
    year = staged(content, import_column="use", timezone="UTC")
    assert [row["timestamp"].replace(tzinfo=None) for row in year.rows] == [at for at, _ in rows]
    assert [row.line for row in year.refused] == [len(rows) + 2]


def test_a_signed_column_is_import_and_export() -> None:
    text = "time,use\n2024-05-01T00:00Z,0.5\n2024-05-01T00:30Z,-0.25\n2024-05-01T01:00Z,0\n"
    given = {"import_column": "use", "timezone": "UTC"}
    rows = staged(text, sign="import", **given).rows
    assert [(row["import"], row["export"]) for row in rows] == [(0.5, 0), (0, 0.25), (0, 0)]
    rows = staged(text, sign="export", **given).rows
    assert [(row["import"], row["export"]) for row in rows] == [(0, 0.5), (0.25, 0), (0, 0)]
    (refused,) = staged(text, **given).refused
    assert "--sign" in refused.reason


def test_rows_are_chosen_by_their_values() -> None:
    text = "time,home,use\n" + "".join(
        f"2024-05-01T0{hour}:00Z,{home},{value}\n2024-05-01T0{hour}:30Z,{home},{value}\n"
        for home, value in (("a", 1), ("b", 2), ("c", 3))
        for hour in range(2)
    )
    given = {"import_column": "use", "timezone": "UTC"}
    chosen = staged(text, where=["home=b"], **given)
    assert [kwh for _, kwh in chosen.imports] == [2] * 4
    assert (chosen.summary.read, chosen.summary.ignored) == (12, 8)
    both = staged(text, where=["home=b", "home=c"], serial_column="home", **given)
    assert [(row["key"], row["import"]) for row in both.rows] == [("b", 2)] * 4 + [("c", 3)] * 4
    with pytest.raises(FormatError, match="no column 'house'"):
        staged(text, where=["house=b"], **given)


LONG = "time,meter,kind,value\n" + "".join(
    f'2024-10-27 {time},="0012",{kind},{value}\n'
    for kind, value in (("A+ (kWh)", 1), ("A- (Wh)", 500), ("Q1", 7))
    for time in ("00:30", "01:00", "01:30", "01:00", "01:30", "02:00")
)


def test_a_long_format_has_a_row_for_each_quantity() -> None:
    given: dict[str, Any] = {
        "timezone": "Europe/London", "quantity_column": "kind", "value_column": "value",
        "serial_column": "meter",
    }  # fmt: skip
    with pytest.raises(FormatError, match=r"the quantity 'A\+ \(kWh\)' is not known: --quantity"):
        staged(LONG, **given)
    quantities = ["A+ (kWh)=import", "A- (Wh)=export:Wh", "q1=skip"]
    long = staged(LONG, quantity=quantities, **given)
    assert not long.refused
    assert [(row["import"], row["export"]) for row in long.rows] == [(1, None), (None, 0.5)] * 6
    assert (long.summary.read, long.summary.ignored) == (18, 6)
    assert {row["key"] for row in long.rows} == {"0012"}
    assert len(set(long.starts)) == 6


def test_words_of_a_quality_mark_estimates() -> None:
    text = "time,use,state\n2024-05-01T00:00Z,1,Real\n2024-05-01T00:30Z,2,Estimated\n"
    options = {"import_column": "use", "quality_column": "state", "estimated": ["estimated"]}
    assert [row["estimated"] for row in staged(text, **options).rows] == [False, True]


def test_a_file_of_many_frames_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    start = datetime(2022, 1, 1, tzinfo=UTC)
    rows = [
        (f"{start + n * timedelta(minutes=30):%Y-%m-%d %H:%M}Z", f"{n % 400 / 1000}")
        for n in range(20_000)
    ]
    text = io.StringIO()
    csv.writer(text).writerows([("time", "use"), *rows])
    whole = staged(text.getvalue(), import_column="use").rows
    monkeypatch.setattr("app.ingest.table.BLOCK", 10_000)
    parts = staged(text.getvalue(), import_column="use")
    assert len(parts.frames) > 20
    assert parts.rows == whole
