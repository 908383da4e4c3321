"""Refusals of the API."""

from typing import Any

import httpx


class FlowsError(Exception):
    """A refusal: `code` is stable, the message says what to change, `request_id` is for support."""

    def __init__(self, answer: httpx.Response) -> None:
        found: dict[str, Any] = {}
        if "json" in answer.headers.get("content-type", ""):
            body = answer.json()
            found = body if isinstance(body, dict) else {}
        self.status = answer.status_code
        self.code: str | None = found.get("code") or found.get("error")
        self.request_id: str | None = answer.headers.get("x-request-id")
        message = (
            found.get("detail") or found.get("message") or found.get("error_description")
            or found.get("title") or answer.reason_phrase
        )  # fmt: skip
        super().__init__(f"{self.status} {self.code or ''}: {message}".replace(" :", ":"))


def checked(answer: httpx.Response) -> httpx.Response:
    """Return an answer that is none of a refusal; FlowsError otherwise."""
    if answer.is_error:
        answer.read()
        raise FlowsError(answer)
    return answer
