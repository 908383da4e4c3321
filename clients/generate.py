"""`python -m clients.generate URL`: write both clients' types from a gateway's document.

FLOWS_TOKEN is sent as the bearer token: it decides which operations the document has.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

CLIENTS = Path(__file__).parent
PYTHON_TYPES = Path("python/flows_client/types.py")
TYPESCRIPT_TYPES = Path("typescript/src/schema.ts")
TYPESCRIPT_GENERATOR = "openapi-typescript@7.13.0"
PYTHON_OPTIONS = (
    "--input-file-type=openapi", "--openapi-scopes=schemas",
    "--output-model-type=typing.TypedDict", "--target-python-version=3.11",
    "--use-standard-collections", "--use-union-operator", "--use-schema-description",
    "--use-field-description", "--disable-timestamp", "--enum-field-as-literal=all",
    "--formatters=builtin",
)  # fmt: skip
# They change from day to day, and belong to no type.
SAMPLES = frozenset({"example", "examples"})


def without_samples(part: Any) -> Any:
    """Return a document, or a part of one, without its examples."""
    if isinstance(part, dict):
        return {name: without_samples(of) for name, of in part.items() if name not in SAMPLES}
    return [without_samples(of) for of in part] if isinstance(part, list) else part


def generate(document: dict[str, Any], folder: Path, npx: str = "npx") -> None:
    """Write the types of both clients below a folder that is laid out as this one.

    `npx` is the command of npm that runs a package, or the folder-bound generator itself.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "openapi.json"
        file.write_text(json.dumps(without_samples(document)))
        python, typescript = folder / PYTHON_TYPES, folder / TYPESCRIPT_TYPES
        _run("datamodel-codegen", "--input", str(file), "--output", str(python), *PYTHON_OPTIONS)
        generator = [npx, "--yes", TYPESCRIPT_GENERATOR] if npx.endswith("npx") else [npx]
        _run(*generator, str(file), "--output", str(typescript))


def _run(program: str, *options: str) -> None:
    # Programs of this environment are beside its Python.
    beside = str(Path(sys.executable).parent)
    found = shutil.which(program, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise SystemExit(f"{program} is not installed: `make setup` and npm have what is needed")
    done = subprocess.run([found, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program} failed:\n{done.stderr or done.stdout}")


def main() -> None:
    """Fetch the document and write the types."""
    parser = argparse.ArgumentParser(prog="make clients")
    parser.add_argument("url", help="of the gateway, such as http://127.0.0.1:8000")
    url = parser.parse_args().url.rstrip("/") + "/openapi.json"
    token = os.environ.get("FLOWS_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    generate(httpx.get(url, headers=headers, timeout=60).raise_for_status().json(), CLIENTS)


if __name__ == "__main__":
    main()
