"""Import of energy from files, in the order in which a file passes through the modules.

`source` opens and decodes it · `profiles` know files of known origins · `layouts` name the forms of
files: `rows` and `days` of a `table`, `nem` and `espi`; each makes `cells` · `times` and `values`
read the texts in cells · `clocks` puts wall-clock times into UTC · `half_hours` sums or spreads
· `checks` recognise what cannot be half-hourly energy, `bounds` what nobody believes · `registers`
finds those of the file's keys · `load` writes all or nothing · `summary` is the report, `preview`
that of a dry run. `pipeline` puts these together, `options` are the user's. Cells travel as Polars
frames of a bounded number of rows, however long the file.
"""
