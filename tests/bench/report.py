"""Figures of benchmarks, with units and limits, as a table or as JSON."""

import json
import operator
import sys
from dataclasses import asdict, dataclass

COMPARISONS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Figure:
    """A measured value; `met` is None if it has no limit."""

    bench: str
    name: str
    value: float
    unit: str
    limit: str | None
    met: bool | None


class Report:
    """Collects figures; `bench` is the name of the module that is running."""

    def __init__(self) -> None:
        self.bench = ""
        self.figures: list[Figure] = []

    def figure(self, name: str, value: float, unit: str, *, limit: str | None = None) -> None:
        """Add a value; `limit` is `<= number` or `>= number` in the same unit."""
        met = None
        if limit:
            sign, bound = limit.split()
            met = COMPARISONS[sign](value, float(bound))
        self.figures.append(Figure(self.bench, name, value, unit, limit, met))
        print(f"  {name}: {value:.4g} {unit}", file=sys.stderr, flush=True)

    def ratio(self, name: str, value: float, reference: float, *, limit: str | None = None) -> None:
        """Add the ratio value / reference."""
        self.figure(name, value / reference, "×", limit=limit)

    @property
    def failed(self) -> bool:
        """True if any limit was missed."""
        return any(figure.met is False for figure in self.figures)

    def as_json(self) -> str:
        """Return all figures as a JSON list of objects."""
        return json.dumps([asdict(figure) for figure in self.figures], indent=2)

    def as_table(self) -> str:
        """Return a text table with one line per figure."""
        width = max((len(figure.name) for figure in self.figures), default=0)
        lines = []
        for figure in self.figures:
            verdict = {
                None: "",
                True: f"  ok ({figure.limit})",
                False: f"  MISSED ({figure.limit})",
            }
            value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.3g}"
            lines.append(
                f"{figure.bench:8} {figure.name:{width}} {value:>10} {figure.unit:6} "
                f"{verdict[figure.met]}".rstrip()
            )
        return "\n".join(lines)
