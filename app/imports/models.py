"""Bodies of `/v1/imports`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from app.ingest.summary import ImportSummary


class Import(BaseModel):
    """An import of a file: its state, and its report when it has ended."""

    id: UUID
    state: Literal["waiting", "running", "done", "failed"] = Field(
        description="`done`: all rows are written. `failed`: none is, for the reason in `error`."
    )
    file_name: str | None
    size: int = Field(description="Size of the file in bytes.")
    options: dict[str, Any] = Field(description="The options that were given.")
    rows_read: int = Field(description="Rows of the file that have been read so far.")
    error: str | None = Field(description="Reason for which nothing was written.")
    report: ImportSummary | None = Field(
        description="Outcome of the import, as `flows import --json` prints it; the first 1,000"
        " refused rows with their lines. Tokens without the scope read get none."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
