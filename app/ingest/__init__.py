"""Import of energy from files, in the order in which a file passes through the modules.

`source` opens and decodes it · `table` cuts it into rows · `layouts` find times and values in the
rows · `values` reads numbers and units, `times` reads times · `clocks` puts wall-clock times into
UTC · `half_hours` sums or spreads them · `checks` recognise what cannot be half-hourly energy ·
`load` writes all or nothing · `summary` is the report. `pipeline` puts these together, `options`
are the user's. Rows travel as Polars frames of a bounded number of rows, however long the file.
"""
