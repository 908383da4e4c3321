"""The routes of `/v1/imports`: a partner's files into the registers of its ESCO."""

import asyncio
import hashlib
import os
from typing import Annotated, Any
from uuid import UUID, uuid4

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.datastructures import UploadFile

from app.app_state import ServicesDep
from app.auth.deps import Caller
from app.db.principal import RESIDENT, Principal
from app.errors import BadRequest, Forbidden, NotFound, TooLarge
from app.imports.importer import Importer, ImportRun
from app.imports.models import Import
from app.imports.options import ImportRequest, as_json, mistake, parse_request, request_schema
from app.imports.records import NewImport, begin_import, read_import
from app.openapi.own import SCOPE_MARK

OPTIONS_BYTES = 64 * 2**10
LONGEST_FILE_NAME = 255
EXAMPLE = {
    "register_id": "e4b61855-d5f6-5584-b44a-b2267f125525",
    "import_column": "use",
    "export_column": "made",
    "timezone": "Europe/London",
    "label": "end",
    "dry_run": True,
}
EXAMPLE_FILE = "time,use,made\n2026-11-20 00:30,0.1,0\n2026-11-20 01:00,0.2,0.05\n"
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "A text of separated columns with a header, a workbook"
                        " (xlsx, xls), NEM12, NEM13 or Green Button, also in gzip or zip. The"
                        f" example's options read a file like this:\n\n```\n{EXAMPLE_FILE}```",
                    },
                    # Swagger UI fills its form from this, not from the example below.
                    "options": request_schema() | {"examples": [EXAMPLE]},
                },
            },
            "encoding": {"options": {"contentType": "application/json"}},
            "example": {"file": EXAMPLE_FILE, "options": EXAMPLE},
        }
    },
}
LOCATION = {"Location": {"description": "Path of the import.", "schema": {"type": "string"}}}

router = APIRouter(prefix="/v1", tags=["imports"])


async def _writer(caller: Caller) -> Principal:
    if "write" not in caller.scopes or caller.role != "flows":
        raise Forbidden("This needs a token with the scope write.")
    return caller


async def _importer(request: Request) -> Importer:
    importer: Importer = request.app.state.importer
    return importer


Writer = Annotated[Principal, Depends(_writer)]
ImporterDep = Annotated[Importer, Depends(_importer)]


@router.post(
    "/imports",
    summary="Import a file",
    status_code=202,
    openapi_extra={"requestBody": BODY, SCOPE_MARK: "write"},
    responses={
        200: {
            "model": Import,
            "description": "There is an import of the same file with the same options already.",
            "headers": LOCATION,
        },
        202: {"description": "The import waits for its turn, or runs.", "headers": LOCATION},
    },
)
async def create_import(
    request: Request,
    response: Response,
    services: ServicesDep,
    importer: ImporterDep,
    caller: Writer,
) -> Import:
    """Write the energy in a file into registers of the caller's ESCO: all rows, or none.

    The import runs in the background; `GET /v1/imports/{id}` tells its progress and its report.
    Sending the same file with the same options again finds the same import, and runs it again only
    if it has failed. Imports of an ESCO run one after the other. Options are those of the command
    line, `flows import`.
    """
    with importer.room(caller):
        file, options = await _form(request, services.settings.imports.max_file_bytes)
        given, name, size = as_json(options), _file_name(file), file.size or 0
        try:
            descriptor, digest = await asyncio.to_thread(take_over, file, given)
        finally:
            await request.close()
        try:
            new = NewImport(uuid4(), digest, name, size, given)
            import_id, begun = await begin_import(services.pool, caller, new)
        except BaseException:
            os.close(descriptor)
            raise
        if begun:
            importer.submit(ImportRun(import_id, new.run, caller, descriptor, given))
        else:
            os.close(descriptor)
            response.status_code = 200
    reads = "read" in caller.scopes
    row = await read_import(services.pool, caller, import_id, to_writer=not reads)
    if row is None:
        raise NotFound("There is no such import.")
    if not reads:
        row |= {"report": None}
    response.headers["Location"] = f"/v1/imports/{import_id}"
    return Import(**row)


@router.get("/imports/{id}", summary="Progress and report of an import")
async def get_import(
    services: ServicesDep,
    caller: Caller,
    import_id: Annotated[UUID, Path(alias="id", description="The import.")],
) -> Import:
    """Return the state of an import of the caller's ESCO; imports are kept for thirty days."""
    if caller.role == RESIDENT:
        raise Forbidden("Imports are not shown to residents.")
    row = await read_import(services.pool, caller, import_id)
    if row is None:
        raise NotFound("There is no such import.")
    return Import(**row)


# HEAD answers like GET without the body (RFC 9110 §9.3.2), so it is not documented twice.
router.add_api_route(
    "/imports/{id}", get_import, methods=["HEAD"], response_model=Import, include_in_schema=False
)


async def _form(request: Request, most: int) -> tuple[UploadFile, ImportRequest]:
    """Return the file, which starlette writes to a temporary one as it comes, and the options."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise BadRequest("Send multipart/form-data with the parts file and options.")
    form = await request.form(max_files=2, max_fields=2, max_part_size=OPTIONS_BYTES)
    unknown = [name for name in form if name not in ("file", "options")]
    if unknown:
        raise mistake(unknown[0], "is not a part of this form; its parts are file and options")
    for name in ("file", "options"):
        if len(form.getlist(name)) > 1:
            raise mistake(name, "must be given once")
    file, options = form.get("file"), form.get("options", "")
    if not isinstance(file, UploadFile):
        raise mistake("file", "is missing; send the file as a part with a file name")
    if not file.size:
        raise mistake("file", "is empty")
    if file.size > most:
        raise TooLarge(f"At most {most} bytes are accepted.")
    if isinstance(options, UploadFile):
        # Browsers send a part that has a media type as a file.
        text = await options.read(OPTIONS_BYTES + 1)
        if len(text) > OPTIONS_BYTES:
            raise mistake("options", f"has more than {OPTIONS_BYTES} bytes")
        return file, _storable(parse_request(text))
    return file, _storable(parse_request(options))


def _storable(options: ImportRequest) -> ImportRequest:
    if b"\\u0000" in orjson.dumps(as_json(options)):
        raise mistake("options", "contain a character that cannot be stored")
    return options


def take_over(file: UploadFile, options: dict[str, Any]) -> tuple[int, str]:
    """Return a descriptor of the temporary file, and the SHA-256 of its content and options."""
    file.file.seek(0)
    content = hashlib.file_digest(file.file, "sha256").digest()  # type: ignore[arg-type]
    told = orjson.dumps(options, option=orjson.OPT_SORT_KEYS)
    # A file that is still in memory is written to the disk when its descriptor is asked for.
    return os.dup(file.file.fileno()), hashlib.sha256(content + told).hexdigest()


def _file_name(file: UploadFile) -> str | None:
    name = (file.filename or "").replace("\0", "").encode("utf-8", "replace").decode()
    return name[:LONGEST_FILE_NAME] or None
