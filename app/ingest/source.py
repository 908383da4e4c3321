"""Opening of files: gzip, zip and Excel workbooks are found by their first bytes, encodings too."""

import codecs
import csv
import gzip
import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import IO, Any, BinaryIO, Literal, TextIO, cast

from python_calamine import CalamineError, CalamineWorkbook

from app.ingest.faults import FormatError
from app.ingest.options import ImportOptions

CHUNK = 1 << 20
LONGEST_LINE = 32 << 20  # bytes, of a compressed file: XML may be one line
SPOOLED = 8 << 20  # bytes of a pipe or a sheet that are kept in memory, not in a temporary file
WORKBOOK = "xl/workbook.xml"
OLD_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # xls, as Excel wrote until 2003
# Files beside the data in archives of portals.
NO_DATA = (".htm", ".html", ".pdf", ".md", ".png", ".jpg", ".xsl", ".xslt", ".css", ".doc", ".docx")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(slots=True)
class SourceFile:
    """The text of a file, or its bytes if it is XML; `delimiter` if it is known to have one.

    `found` tells a person what was found out about the file.
    """

    text: TextIO
    kind: Literal["table", "xml"] = "table"
    delimiter: str | None = None
    found: list[str] = field(default_factory=list)


@contextmanager
def open_source(data: BinaryIO, options: ImportOptions, *, largest: int) -> Iterator[SourceFile]:
    """Yield the text in a file's bytes; FormatError if there is none, or more than `largest` bytes.

    `largest` bounds what comes out of a compressed file.
    """
    found: list[str] = []
    with _seekable(data) as file:
        content = _decompressed(file, options, found, largest)
        if isinstance(content, CalamineWorkbook):
            with _sheet(content, options, found) as text:
                yield SourceFile(text, "table", "\t", found)
            return
        encoding = options.encoding or _encoding(content)
        if options.encoding is None and encoding != "utf-8":
            found.append(f"encoding {encoding.removesuffix('-sig')}")
        content.seek(0)
        with io.TextIOWrapper(content, encoding=encoding) as text:
            try:
                start = text.read(200).lstrip()
            except UnicodeError:
                raise FormatError(f"the file is not {encoding} text; name its --encoding") from None
            text.seek(0)
            yield SourceFile(text, "xml" if start.startswith("<") else "table", None, found)


@contextmanager
def _seekable(data: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file that can be read again from its start: pipes are copied."""
    if data.seekable():
        yield data
        return
    with tempfile.SpooledTemporaryFile(SPOOLED) as copy:
        while chunk := data.read(CHUNK):
            copy.write(chunk)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def _decompressed(
    file: BinaryIO, options: ImportOptions, found: list[str], largest: int
) -> BinaryIO | CalamineWorkbook:
    start = file.read(len(OLD_WORKBOOK))
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        found.append("gzip")
        return _Bounded(cast("IO[bytes]", gzip.GzipFile(fileobj=file)), largest)
    if start == OLD_WORKBOOK:
        return _workbook(file)
    if not start.startswith(b"PK\x03\x04"):
        return file
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise FormatError(f"the zip file is damaged: {error}") from None
    members = [
        item
        for item in archive.infolist()
        if not item.is_dir() and not item.filename.startswith("__MACOSX/")
    ]
    if WORKBOOK in (item.filename for item in members):
        size = sum(item.file_size for item in archive.infolist())
        if size > largest:
            raise FormatError(f"the workbook has more than {largest:,} bytes")
        file.seek(0)
        return _workbook(file)
    name = _chosen_member([item.filename for item in members], options)
    found.append(f"{name} of the zip file")
    content = _Bounded(_member(archive, name), largest)
    if not name.lower().endswith((".xlsx", ".xls")):
        return content
    with content:
        return _workbook(io.BytesIO(b"".join(iter(lambda: content.read(CHUNK), b""))))


def _workbook(file: BinaryIO) -> CalamineWorkbook:
    try:
        return CalamineWorkbook.from_filelike(file)
    except CalamineError as error:
        raise FormatError(f"the workbook cannot be read: {error}") from None


def _chosen_member(names: list[str], options: ImportOptions) -> str:
    """Return the file of an archive that the options name, or the only one that can have data."""
    if options.sheet in names:
        return options.sheet or ""
    data = [name for name in names if not name.lower().endswith(NO_DATA)]
    if len(data) == 1:
        return data[0]
    some = ", ".join((data or names)[:10])
    raise FormatError(f"the zip file has {len(data)} files, name one with --sheet: {some}")


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    try:
        return archive.open(name)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise FormatError(f"the zip file cannot be read: {error}") from None


class _Bounded(io.BufferedReader):
    """A decompressed file of a bounded size, whose lines are bounded too: they are held whole."""

    def __init__(self, file: IO[bytes], largest: int) -> None:
        super().__init__(cast("Any", file), CHUNK)
        self._largest = largest
        self._line = 0  # bytes since the last line ended

    def seek(self, target: int, whence: int = 0, /) -> int:
        self._line = 0
        return super().seek(target, whence)

    def read1(self, size: int = -1, /) -> bytes:
        return self._bounded(super().read1, size)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._bounded(super().read, size)

    def _bounded(self, read: Any, size: int | None) -> bytes:
        try:
            chunk: bytes = read(CHUNK if size is None or size < 0 else size)
        except (EOFError, OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise FormatError(f"the compressed file is damaged: {error}") from None
        if self.tell() > self._largest:
            raise FormatError(f"the file has more than {self._largest:,} bytes when decompressed")
        ended = chunk.rfind(b"\n")
        self._line = len(chunk) - ended - 1 + (self._line if ended < 0 else 0)
        if self._line > LONGEST_LINE:
            raise FormatError(f"a line has more than {LONGEST_LINE:,} bytes when decompressed")
        return chunk


def _encoding(file: BinaryIO) -> str:
    """Return the encoding by a byte order mark, by zero bytes, or by trying; at last cp1252."""
    start = file.read(1000)
    for mark, name in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return name
    if start[1::2].count(0) > len(start) / 4:
        return "utf-16-le"
    if start[::2].count(0) > len(start) / 4:
        return "utf-16-be"
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(start)
        while chunk := file.read(CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


@contextmanager
def _sheet(
    workbook: CalamineWorkbook, options: ImportOptions, found: list[str]
) -> Iterator[TextIO]:
    """Yield a sheet as text separated by tabs; a row keeps its number as its line."""
    names = workbook.sheet_names
    if options.sheet is not None and options.sheet not in names:
        raise FormatError(f"there is no sheet {options.sheet!r}; there are: {', '.join(names)}")
    sheets = [workbook.get_sheet_by_name(name) for name in names]
    filled = [sheet for sheet in sheets if sheet.height]
    if options.sheet is not None:
        (chosen,) = (sheet for sheet in sheets if sheet.name == options.sheet)
    elif len(filled) == 1:
        (chosen,) = filled
    else:
        raise FormatError(f"name one of the sheets with --sheet: {', '.join(names)}")
    found.append(f"sheet {chosen.name}")
    with tempfile.SpooledTemporaryFile(SPOOLED, "w+", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        for row in chosen.to_python(skip_empty_area=False):
            writer.writerow([_cell_text(value, options) for value in row])
        text.seek(0)
        yield cast("TextIO", text)


def _cell_text(value: object, options: ImportOptions) -> str:
    """Return a cell as it would stand in a text file with these options."""
    match value:
        case datetime():
            # To the second: Excel keeps times as binary fractions of a day.
            nearest = (value + timedelta(microseconds=500_000)).replace(microsecond=0)
            return nearest.isoformat(" ")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return str(datetime.min + value)[11:19]
        case bool():
            return str(value)
        case float() | int():
            number = str(int(value)) if value == int(value) else repr(value)
            return number.replace(".", options.decimal)
    return str(value)
