"""Parts that several operations repeat become components, so that the document is small."""

from collections import Counter
from typing import Any

import orjson

Part = dict[str, Any]
# A part of an operation: the list or object that holds it, its place there, and its name.
SharedSpot = tuple[Any, int | str, str]


def with_shared_parts(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with references to the parameters and responses that it repeats.

    These components are named after the first operation that has them: `getEnergy.timezone`.
    """
    document = orjson.loads(orjson.dumps(document))
    parameters: list[SharedSpot] = []
    responses: list[SharedSpot] = []
    for item in document["paths"].values():
        for operation in item.values():
            name = operation["operationId"]
            for number, parameter in enumerate(listed := operation.get("parameters", [])):
                if "$ref" not in parameter:
                    _drop_repeated_description(parameter)
                    parameters.append((listed, number, f"{name}.{parameter['name']}"))
            for status, response in (answers := operation["responses"]).items():
                if "$ref" not in response:
                    responses.append((answers, status, f"{name}.{status}"))
    document["components"]["parameters"] |= _share("parameters", parameters)
    document["components"]["responses"] |= _share("responses", responses)
    return document


def _share(kind: str, places: list[SharedSpot]) -> dict[str, Part]:
    """Replace the parts that are found repeatedly by references; return these parts by name."""
    texts = [orjson.dumps(holder[key], option=orjson.OPT_SORT_KEYS) for holder, key, _ in places]
    counts = Counter(texts)
    names: dict[bytes, str] = {}
    shared: dict[str, Part] = {}
    for text, (holder, key, name) in zip(texts, places, strict=True):
        if counts[text] > 1:
            if text not in names:
                names[text] = name
                shared[name] = holder[key]
            holder[key] = {"$ref": f"#/components/{kind}/{names[text]}"}
    return shared


def _drop_repeated_description(parameter: Part) -> None:
    schema = parameter.get("schema", {})
    if "description" in parameter and schema.get("description") == parameter["description"]:
        del schema["description"]
