"""Docstrings and comments on database objects state things: none begins with What, Which, …

The style of docstrings otherwise is held by ruff's pydocstyle rules (pyproject.toml).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUESTION = re.compile(r"(What|Which|Whether|How)\b", re.IGNORECASE)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Strings of SQL ('…', with '' for a quote) and of JSON within them ("…").
SQL_STRING = re.compile(r"'((?:[^']|'')*)'")
JSON_STRING = re.compile(r'"([^"]*)"')
SQL_COMMENT = re.compile(r"--.*")


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring of a Python file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def descriptions(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each string of an SQL file: comments on objects are among them."""
    sql = SQL_COMMENT.sub("", file.read_text())
    for found in SQL_STRING.finditer(sql):
        line = sql.count("\n", 0, found.start()) + 1
        yield line, found[1]
        yield from ((line, inner[1]) for inner in JSON_STRING.finditer(found[1]))


def questions(texts: Iterator[tuple[int, str]], file: Path) -> list[str]:
    """Return the texts that begin with a question word, with their places."""
    place = file.relative_to(ROOT)
    return [f"{place}:{line}: {text[:60]}" for line, text in texts if QUESTION.match(text)]


def test_no_docstring_begins_with_a_question_word() -> None:
    files = [file for room in ("app", "docs", "tests") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert not [found for file in files for found in questions(docstrings(file), file)]


def test_no_comment_on_a_database_object_begins_with_a_question_word() -> None:
    files = [*(ROOT / "sql" / "objects").rglob("*.sql")]
    assert len(files) > 20
    assert not [found for file in files for found in questions(descriptions(file), file)]


def test_the_rule_finds_what_it_is_for(tmp_path: Path) -> None:
    module, schema = tmp_path / "module.py", tmp_path / "schema.sql"
    module.write_text('"""A module."""\n\ndef f():\n    """Whether it is found."""\n')
    schema.write_text(
        "-- What a comment of the file's own says is not published.\n"
        "comment on table t is 'The rows that don''t move.';\n"
        "comment on column t.a is 'How far it is off, s.';\n"
        """select '{"b": "Which one it is."}'::jsonb;\n"""
    )
    assert [line for line, text in docstrings(module) if QUESTION.match(text)] == [4]
    assert [line for line, text in descriptions(schema) if QUESTION.match(text)] == [3, 4]
