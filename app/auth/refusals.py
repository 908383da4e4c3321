"""Errors of the OAuth endpoints, as RFC 6749 §5.2 defines them."""

from typing import Any


class OAuthError(Exception):
    """An error response as defined by RFC 6749 §5.2, with further members of its body."""

    def __init__(
        self, error: str, description: str, status: int = 400, retry: int = 0, **members: Any
    ) -> None:
        super().__init__(description)
        self.error = error
        self.status = status
        self.retry = retry
        self.members = members
