"""The token of a request: `Authorization: Bearer`, or `apikey` as Supabase's clients send it."""

from collections.abc import Iterable

from app.errors import BadRequest, Unauthorized


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the token; Authorization takes precedence over apikey.

    BadRequest if either header is repeated; Unauthorized if there is none or it is not Bearer.
    """
    authorization = apikey = None
    for name, value in headers:
        if name == b"authorization":
            if authorization is not None:
                raise BadRequest("There are two Authorization headers; send one.")
            authorization = value
        elif name == b"apikey":
            if apikey is not None:
                raise BadRequest("There are two apikey headers; send one.")
            apikey = value
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("Send the token as Authorization: Bearer.")
        return token.strip().decode("latin-1")
    if apikey:
        return apikey.decode("latin-1")
    raise Unauthorized()
