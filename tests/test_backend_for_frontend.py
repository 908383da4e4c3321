"""The backend of examples/: what it does when what the provider said holds no longer."""

import asyncio
import time
from importlib import import_module
from pathlib import Path

import pytest
from fastapi import HTTPException

FOLDER = Path(__file__).parents[1] / "examples" / "backend-for-frontend"


def test_an_id_token_that_has_ended_is_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    server = import_module("server")
    settings = server.Settings("http://nowhere.example", "a", "b", "c", "d", "e")
    ended = server.Session(time.time() + 60, id_token="x", id_token_ends_at=time.time() - 1)
    with pytest.raises(HTTPException) as refusal:
        asyncio.run(server.Gateway(settings).token(ended))
    assert refusal.value.status_code == 401
