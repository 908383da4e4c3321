"""Answers for the parts of Supabase that the gateway does not have: 404, and what is there instead.

Supabase's clients ask for them below the URL of the tables, so a plain 404 would seem a wrong URL.
"""

from fastapi import APIRouter

from app.errors import NotFound

# Prefix → what the gateway has instead.
ABSENT = {
    "auth": "Clients get a token from POST /auth/token and pass it as the key.",
    "realtime": "Ask again for what changed: rows have times, and /v1 has updated_since and ETags.",
    "storage": "There are no files.",
    "functions": "The database's functions are below /rest/v1/rpc.",
    "graphql": "Related rows come with select=…,relation(…) below /rest/v1.",
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

router = APIRouter(include_in_schema=False)


def _add(prefix: str, instead: str) -> None:
    async def absent() -> None:
        raise NotFound(f"Supabase's {prefix} is not part of this service. {instead}")

    for path in (f"/{prefix}/v1", f"/{prefix}/v1/{{path:path}}"):
        router.add_api_route(path, absent, methods=METHODS, name=f"absent_{prefix}")


for name, sentence in ABSENT.items():
    _add(name, sentence)
