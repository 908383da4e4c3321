"""Docstrings and comments make statements: none begins with What, Which, Whether or How.

The style of docstrings is checked by ruff's pydocstyle rules as well (pyproject.toml).
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUESTION = re.compile(r"(What|Which|Whether|How)\b", re.IGNORECASE)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Strings of SQL ('…', with '' for a quote) and of JSON within them ("…").
SQL_STRING = re.compile(r"'((?:[^']|'')*)'")
JSON_STRING = re.compile(r'"([^"]*)"')
SQL_COMMENT = re.compile(r"--(.*)")
Texts = Iterator[tuple[int, str]]


def python_texts(file: Path) -> Texts:
    """Yield (line, text) of each docstring and each comment of a Python file."""
    source = file.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield from first_lines(
        (token.start[0], token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokens
        if token.type == tokenize.COMMENT
    )


def sql_texts(file: Path) -> Texts:
    """Yield (line, text) of each comment and string of a SQL file; strings hold object comments."""
    source = file.read_text()
    lines = enumerate(map(SQL_COMMENT.search, source.splitlines()), start=1)
    yield from first_lines(
        (line, found[1].strip(), not found.string[: found.start()].strip())
        for line, found in lines
        if found
    )
    sql = SQL_COMMENT.sub("", source)
    for found in SQL_STRING.finditer(sql):
        line = sql.count("\n", 0, found.start()) + 1
        yield line, found[1]
        yield from ((line, inner[1]) for inner in JSON_STRING.finditer(found[1]))


def first_lines(comments: Iterator[tuple[int, str, bool]]) -> Texts:
    """Yield (line, text) of comments, without lines that continue the comment above.

    `comments` are (line, text, alone); a comment is alone if no code precedes it on its line.
    """
    previous = 0
    for line, text, alone in comments:
        if not alone or line != previous + 1:
            yield line, text
        previous = line if alone else 0


def questions(texts: Texts, file: Path) -> list[str]:
    """Return the texts that begin with a question word, with their places."""
    place = file.relative_to(ROOT)
    return [f"{place}:{line}: {text[:60]}" for line, text in texts if QUESTION.match(text)]


def test_no_docstring_or_comment_begins_with_a_question_word() -> None:
    files = [file for folder in ("app", "docs", "tests") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert not [found for file in files for found in questions(python_texts(file), file)]


def test_no_comment_in_the_database_begins_with_a_question_word() -> None:
    files = [*(ROOT / "sql" / "objects").rglob("*.sql")]
    assert len(files) > 20
    assert not [found for file in files for found in questions(sql_texts(file), file)]


def test_a_text_that_begins_with_a_question_word_is_found(tmp_path: Path) -> None:
    module, schema = tmp_path / "module.py", tmp_path / "schema.sql"
    module.write_text('"""A module."""\n\ndef f():\n    """Whether it is found."""\n    # How.\n')
    schema.write_text(
        "-- A comment on the file itself, whose second line may begin with\n"
        "-- which word it likes.\n"
        "comment on table t is 'The rows that don''t move.';\n"
        "comment on column t.a is 'How far it is off, s.';\n"
        """select '{"b": "Which one it is."}'::jsonb; -- what it returns\n"""
    )
    assert [line for line, text in python_texts(module) if QUESTION.match(text)] == [4, 5]
    assert {line for line, text in sql_texts(schema) if QUESTION.match(text)} == {4, 5}
