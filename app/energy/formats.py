"""Formats of responses: their names and media types, and the choice by `format` and `Accept`."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request

from app.energy.parameters import MOST_PARQUET_ROWS, MOST_ROWS, FormatName, refuse
from app.errors import NotAcceptable

MEDIA_TYPES: dict[FormatName, str] = {
    "json": "application/json",
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
    "columns": "application/vnd.flows.columns+json",
}
# The most rows of a response that is held in memory as a whole; the others are streamed.
MOST: dict[FormatName, int] = {
    "json": MOST_ROWS, "columns": MOST_ROWS, "parquet": MOST_PARQUET_ROWS,
}  # fmt: skip
# Characters at which spreadsheets take the content of a cell for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Format:
    """A format of responses; `local_times` writes times for spreadsheets, in CSV."""

    name: FormatName
    local_times: bool = False

    @property
    def media_type(self) -> str:
        """The value of the Content-Type header."""
        return MEDIA_TYPES[self.name] + ("; charset=utf-8" if self.name == "csv" else "")

    @property
    def extension(self) -> str:
        """The ending of a downloaded file's name."""
        return "json" if self.name == "columns" else self.name

    @property
    def has_members(self) -> bool:
        """True if a body has members beside its rows, such as the period and totals."""
        return self.name in ("json", "columns")

    @property
    def has_texts(self) -> bool:
        """True if times are written as local texts; False where they have a type of their own."""
        return self.name not in ("parquet", "arrow")

    @property
    def has_pages(self) -> bool:
        """True if a response may be cut into pages of rows."""
        return self.name not in ("columns", "parquet")

    @property
    def most_rows(self) -> int | None:
        """The most rows of a response; None if it is streamed, however long."""
        return MOST.get(self.name)

    def check_pages(self, asked: Mapping[str, object]) -> None:
        """Raise Unprocessable for a page of a format that has none: parameter → its value."""
        for name, value in asked.items():
            if value is not None and not self.has_pages:
                raise refuse(name, value, f"must not be given: {self.name} has no pages")

    def text(self, value: str | None) -> str | None:
        """Return a text as it is written: in CSV, one that a spreadsheet would run is defused."""
        if self.name == "csv" and value and value.startswith(FORMULA_STARTS):
            return "'" + value  # by which a spreadsheet knows a text
        return value


def negotiate(request: Request, asked: FormatName | None) -> Format:
    """Return the format to answer in: `format=`, else the Accept header's favourite, else JSON.

    Raise the 406 problem when the header accepts none. Source: RFC 9110 §12.5.1, by which the most
    specific range that matches a type decides.
    """
    if asked:
        return Format(asked)
    accept = request.headers.get("accept")
    if accept is None or accept == "*/*":
        return Format("json")
    ranges = dict(_ranges(accept))
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
