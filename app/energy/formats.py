"""Rows as JSON, CSV and NDJSON: one template per format, filled with encoded values.

Numbers are passed on as PostgreSQL writes them, so kWh stay exact.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from app.energy.parameters import FormatName
from app.errors import NotAcceptable

MEDIA_TYPES: dict[FormatName, str] = {
    "json": "application/json",
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
}
# Characters at which spreadsheets take the content of a cell for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Format:
    """A text format: encodes values, and gives the template that rows are written with."""

    name: FormatName

    @property
    def media_type(self) -> str:
        """The value of the Content-Type header."""
        return MEDIA_TYPES[self.name] + ("; charset=utf-8" if self.name == "csv" else "")

    @property
    def missing(self) -> str:
        """The text that stands for a missing value."""
        return "" if self.name == "csv" else "null"

    def text(self, value: str | None) -> str:
        """Return a string as it is written in this format; None is a missing value."""
        if value is None:
            return self.missing
        if self.name != "csv":
            return orjson.dumps(value).decode()
        if value.startswith(FORMULA_STARTS):
            value = "'" + value  # by which a spreadsheet knows a text
        written = io.StringIO()
        csv.writer(written).writerow([value])  # quotes the ends of lines that are its own
        return written.getvalue().removesuffix("\r\n")

    def number(self, value: object) -> str:
        """Return a number unchanged, a decimal as PostgreSQL wrote it; None is a missing value."""
        return self.missing if value is None else str(value)

    def truth(self, value: bool) -> str:
        """Return true or false as text."""
        return "true" if value else "false"

    def value(self, value: Any) -> str:
        """Encode any JSON value; in CSV, lists and objects are JSON within a field."""
        if value is None or isinstance(value, str):
            return self.text(value)
        written = orjson.dumps(value, default=str).decode()
        is_nested = self.name == "csv" and isinstance(value, list | dict)
        return self.text(written) if is_nested else written

    @property
    def brackets(self) -> tuple[str, str]:
        """The texts before and after the fields of a row."""
        return ("", "") if self.name == "csv" else ("{", "}")

    def fields(self, columns: Sequence[str], place: str = "%s") -> str:
        """Return a row's fields as a `%` template that takes one encoded value per column."""
        if self.name == "csv":
            return ",".join([place] * len(columns))
        return ",".join(f'"{column}":{place}' for column in columns)

    def labels(self, columns: Sequence[str]) -> str:
        """Return the same as `fields`, for plain text that needs quotes but no escaping."""
        return self.fields(columns, "%s" if self.name == "csv" else '"%s"')

    def sql(self, columns: Sequence[str]) -> str:
        """Return SQL that writes the fields of a row; all columns are numbers."""
        *names, end = self.fields(columns).split("%s")
        parts = [
            f"'{name}' || coalesce({column}::text, '{self.missing}')"
            for name, column in zip(names, columns, strict=True)
        ]
        return " || ".join([*parts, f"'{end}'"] if end else parts)

    def template(self, columns: Sequence[str]) -> str:
        """Return a whole row, without separator, as a `%` template with one value per column."""
        return self.fields(columns).join(self.brackets)

    def head(self, members: dict[str, Any], columns: Sequence[str]) -> str:
        """Return the text before the rows: the members of the JSON object, or CSV's header line."""
        if self.name == "json":
            return orjson.dumps(members).decode()[:-1] + ',"rows":['
        return ",".join(columns) + "\r\n" if self.name == "csv" else ""

    def between(self) -> str:
        """Return the separator of two rows."""
        return {"json": ",\n", "csv": "\r\n", "ndjson": "\n"}[self.name]

    def tail(self, members: dict[str, Any], *, empty: bool) -> str:
        """Return the text after the rows; `members` appear in JSON only."""
        if self.name == "json":
            return (
                "]"
                + "".join(f',"{k}":{orjson.dumps(v).decode()}' for k, v in members.items())
                + "}"
            )
        return "" if empty else self.between()


def negotiate(request: Request, asked: FormatName | None) -> Format:
    """Return the format to answer in: `format=`, else the Accept header's favourite, else JSON.

    Raise the 406 problem when the header accepts none. Source: RFC 9110 §12.5.1, by which the most
    specific range that matches a type decides.
    """
    if asked:
        return Format(asked)
    ranges = dict(_ranges(request.headers.get("accept") or "*/*"))
    if not ranges:
        return Format("json")
    qualities: dict[FormatName, float] = {
        name: next(
            (ranges[r] for r in (media, media.split("/")[0] + "/*", "*/*") if r in ranges), 0.0
        )
        for name, media in MEDIA_TYPES.items()
    }
    best = max(qualities, key=qualities.__getitem__)  # the first wins a tie
    if not qualities[best]:
        raise NotAcceptable(f"Served are {', '.join(MEDIA_TYPES.values())}.")
    return Format(best)


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield (media range, quality) of an Accept header; ranges that cannot be read are skipped."""
    for part in accept.lower().split(","):
        media, *parameters = (word.strip() for word in part.split(";"))
        weights = [word[2:] for word in parameters if word.startswith("q=")] or ["1"]
        with suppress(ValueError):
            if "/" in media:
                yield media, min(float(weights[0]), 1.0)


def file_name(*words: object) -> str:
    """Return the words joined as a file name for downloads: letters, digits and a few marks."""
    name = "_".join(str(word) for word in words if word)
    return "".join(
        letter if letter.isalnum() and letter.isascii() else "-" if letter not in "._-" else letter
        for letter in name
    )
