"""Options of an import as JSON: those of the command line, by their names with underscores."""

import re
from typing import Annotated, Any

import orjson
from pydantic import Field, StringConstraints, ValidationError

from app.errors import Unprocessable, fault
from app.ingest.options import ImportOptions

# Names of options that are other words on the command line.
OTHER_NAMES = {"register": "register_id"}
OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)\b")

ProfileName = Annotated[str, StringConstraints(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]


class ImportRequest(ImportOptions):
    """The options of an import by HTTP."""

    # A profile of the server's files is for the command line alone.
    profile: ProfileName | None = Field(
        None, description="Profile of the file's origin, as esb-hdf; found by default."
    )
    dry_run: bool = Field(
        default=False,
        description="Report what would be written, with a preview, and write nothing.",
    )


def parse_request(text: str | bytes) -> ImportRequest:
    """Return the options in a JSON object; Unprocessable that names each mistake."""
    try:
        given = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise mistake("options", f"is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise mistake("options", "is not a JSON object")
    # A value of null is the default, as on the command line an option that is left out.
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return ImportRequest(**given)
    except ValidationError as error:
        mistakes = [
            fault(
                "body",
                ".".join(["options", *map(str, item["loc"])]),
                item["input"] if isinstance(item["input"], str | int) else None,
                in_json(item["msg"].removeprefix("Value error, ")),
            )
            for item in error.errors()
        ]
        raise Unprocessable.naming(*mistakes) from None


def as_json(request: ImportRequest) -> dict[str, Any]:
    """Return the options that were given, as a JSON object from which they can be made again."""
    return request.model_dump(mode="json", exclude_unset=True)


def in_json(message: str) -> str:
    """Return a message with options named as in JSON: `time_column` for `--time-column`."""

    def name(found: re.Match[str]) -> str:
        return OTHER_NAMES.get(found[1], found[1].replace("-", "_"))

    return OPTION.sub(name, message)


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of the options, without references."""
    schema = ImportRequest.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolved(definitions[node["$ref"].rpartition("/")[2]])
            if "prefixItems" in node:  # of one kind, which more programs understand as items
                kind, *_ = node["prefixItems"]
                node = {key: of for key, of in node.items() if key != "prefixItems"}
                node["items"] = kind
            return {
                key: in_json(value) if key == "description" else resolved(value)
                for key, value in node.items()
                if not (key == "default" and value is None)
            }
        return [resolved(item) for item in node] if isinstance(node, list) else node

    found: dict[str, Any] = resolved(schema)
    return found


def mistake(part: str, message: str) -> Unprocessable:
    """Return the error for a part of the form."""
    return Unprocessable.naming(fault("body", part, None, message))
