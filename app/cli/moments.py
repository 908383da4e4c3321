"""Moments as options give them."""

from datetime import UTC, datetime

from app.cli.output import fail


def parse_moment(option: str, text: str) -> datetime:
    """Return a moment in UTC from ISO 8601 with an offset; else exit, naming the option."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise fail(f"{option}: {text!r} is not a time like 2026-11-24T12:30:00Z") from None
    if moment.tzinfo is None:
        raise fail(f"{option}: {text} has no offset; write {text}Z for UTC")
    return moment.astimezone(UTC)
