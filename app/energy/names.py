"""Names beside the keys of rows."""

from collections.abc import Sequence

import orjson
import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import key_columns
from app.energy.groups import Dimension, Groups

# Dimension → the column of its names, and the query for them: key, name.
NAME_COLUMNS: dict[Dimension, tuple[str, str]] = {
    "esco": ("esco_name", "select code as key, name from api.escos"),
    "site": ("site_code", "select id::text as key, code as name from api.sites_new"),
    "property": ("property_plot", "select id::text as key, plot as name from api.properties"),
    "feeder": ("feeder_name", "select id::text as key, name from api.feeder_registry"),
    "circuit": ("circuit_name", "select id::text as key, name from flows.circuits"),
    "meter": ("meter_name", "select serial as key, name from flows.meter_registry"),
}
# A key that is known; all of them where that is no less.
OF_KEYS = "select json_object_agg(key, name)::text as names from ({}) as named where key = any(%s)"


async def labelled_keys(
    connection: Connection,
    groups: Groups,
    by: Sequence[Dimension],
    form: Format,
    *,
    names: bool,
) -> list[pl.Series]:
    """Return the columns of the keys of groups; with `names`, each beside its names."""
    columns: list[pl.Series] = []
    for number, key in enumerate(key_columns(list(groups.keys), list(by), form)):
        columns.append(key)
        if not names or by[number] not in NAME_COLUMNS:
            continue
        label, sql = NAME_COLUMNS[by[number]]
        keys = [own[number] for own in groups.keys]
        cursor = await connection.execute(OF_KEYS.format(sql).encode(), (list({*keys} - {None}),))
        row = await cursor.fetchone() or {"names": None}
        known = orjson.loads(row["names"] or "{}")
        texts = [form.text(known.get(own)) for own in keys]
        columns.append(pl.Series(label, texts, dtype=pl.String))
    return columns


def key_names(by: Sequence[Dimension], *, names: bool) -> tuple[str, ...]:
    """Return the names of the columns of `labelled_keys`."""
    return tuple(
        name
        for dimension in by
        for name in (
            dimension,
            *(NAME_COLUMNS[dimension][:1] if names and dimension in NAME_COLUMNS else ()),
        )
    )
