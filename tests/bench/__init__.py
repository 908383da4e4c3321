"""`make bench` measures a running stack (`ONLY=rest`: one module, `JSON=1`: as JSON).

A module of this folder that has `run(stack, report)` is a benchmark:

    def run(stack: Stack, report: Report) -> None:
        report.figure("one read", 1.2, "ms", limit="<= 5")
        report.ratio("gateway / direct", measured, reference, limit=">= 0.7")

`stack` is the tests' own (`stack.contract` has URLs, tokens and the database), with demo data. A
figure with a limit that it misses is marked in the table and makes the command exit with 1.
"""
