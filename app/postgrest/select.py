"""The columns and relations that a `select` names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Brackets and commas of a select, outside of quoted names.
MARK = re.compile(r'"[^"]*"|[(),]')


@dataclass(frozen=True, slots=True)
class Embedded:
    """A relation within another, by the name that its filters have: its alias, if there is one."""

    relation: str
    name: str


def embedded(select: str) -> Iterator[tuple[Embedded, ...]]:
    """Yield each embedded relation, after those that it is embedded in."""
    for path, word, opens in words(select):
        if opens:
            yield (*path, embedded_relation(word))


def words(select: str) -> Iterator[tuple[tuple[Embedded, ...], str, bool]]:
    """Yield each word, what it is embedded in, and whether it embeds a relation itself.

    It ends at a bracket too many, which PostgREST refuses.
    """
    path: tuple[Embedded, ...] = ()
    start = 0
    for mark in MARK.finditer(select):
        if mark[0] not in ("(", ")", ","):
            continue
        word = select[start : mark.start()]
        start = mark.end()
        opens = mark[0] == "("
        if word or opens:
            yield path, word, opens
        if opens:
            path = (*path, embedded_relation(word))
        elif mark[0] == ")":
            if not path:
                return
            path = path[:-1]
    if select[start:]:
        yield path, select[start:], False


def embedded_relation(word: str) -> Embedded:
    """Return what `alias:relation!hint` names."""
    alias, _, name = word.rpartition(":")
    relation = name.partition("!")[0].strip(' ."')
    return Embedded(relation, alias.strip(' ."') or relation)
