"""Groups of registers: the circuits and registers that each row sums, and the data it expects.

A row counts each half-hour of a register once, even if the register belongs to the row's group in
several ways (two service heads, two circuits, overlapping mappings).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal
from uuid import UUID

from app.energy.intervals import HALF_HOUR, Instant, Intervals

Dimension = Literal[
    "esco", "site", "property", "feeder", "circuit", "circuit_type", "meter", "register"
]
Key = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """The mapping of a register to a circuit, cut to the period; `keys` name its groups.

    `selected` is false where a filter excludes the register but not its circuit.
    """

    circuit: UUID
    register: UUID
    meter: UUID
    first: Instant
    last: Instant
    keys: frozenset[Key]
    selected: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """A run of half-hours, `first` up to `last` (exclusive), of a register counted in a group."""

    group: int
    register: UUID
    meter: UUID
    first: Instant
    last: Instant


@dataclass(frozen=True, slots=True)
class Era:
    """Intervals `first` up to `last` (exclusive) in which a group expects the same registers.

    In an interval of `n` half-hours, `registers * n + more` half-hours over all registers are
    expected.
    """

    first: int
    last: int
    meters: int
    registers: int
    more: int

    def needed(self, expected: int) -> int:
        """Return the half-hours over all registers due in an interval of `expected` half-hours."""
        return self.registers * expected + self.more

    def complete(self, expected: int, register_intervals: int) -> bool:
        """Return whether `register_intervals` are all that an interval's registers should have."""
        return 0 < self.needed(expected) <= register_intervals


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a report in the order of their keys, and the registers that each one sums.

    `circuits` holds (circuit, group), or None where stored sums of circuits cannot be used: only
    some registers of a circuit count, or a register would count twice. `meters_apart` is true when
    no meter belongs to a group through more than one circuit.
    """

    keys: Sequence[Key]
    spans: Sequence[Span]
    circuits: Sequence[tuple[UUID, int]] | None
    meters_apart: bool = False
    _spans_of: dict[int, list[Span]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def single(self) -> bool:
        """True if each group is a single circuit."""
        assert self.circuits is not None  # noqa: S101  (only used when summing circuits)
        return len({group for _, group in self.circuits}) == len(self.circuits)

    def of(self, group: int) -> list[Span]:
        """Return the spans of one group."""
        if not self._spans_of:
            for span in self.spans:
                self._spans_of.setdefault(span.group, []).append(span)
        return self._spans_of[group]

    def after(self, key: Key) -> int:
        """Return the number of the first group whose key sorts after `key`."""
        return bisect_right(self.keys, _order(key), key=_order)

    def eras(self, group: int, intervals: Intervals) -> list[Era]:
        """Return the eras of a group, in order; together they cover all intervals."""
        spans = self.of(group)
        count = len(intervals)
        cuts = {0, count}
        for span in spans:
            start, end = max(span.first, intervals.first), min(span.last, intervals.last)
            if start >= end:
                continue
            first, last = intervals.index(start), intervals.index(end - HALF_HOUR)
            cuts |= {first, last + 1}
            if start > intervals.inside(first)[0]:
                cuts.add(first + 1)
            if end < intervals.inside(last)[1]:
                cuts.add(last)
        return [
            _era(first, last, spans, intervals)
            for first, last in pairwise(sorted(cut for cut in cuts if cut <= count))
        ]


def gather(mappings: Iterable[Mapping]) -> Groups:
    """Put mappings into groups; overlapping spans of a register in a group are merged."""
    everything = list(mappings)
    selected = [mapping for mapping in everything if mapping.selected]
    keys = sorted(
        {key for mapping in selected for key in mapping.keys},
        key=_order,
    )
    number = {key: group for group, key in enumerate(keys)}
    times: dict[tuple[int, UUID], list[Mapping]] = {}
    for mapping in selected:
        for key in mapping.keys:
            times.setdefault((number[key], mapping.register), []).append(mapping)
    spans: list[Span] = []
    twice = False
    for (group, register), found in times.items():
        found.sort(key=lambda mapping: mapping.first)
        merged: list[Span] = []
        for mapping in found:
            if merged and mapping.first < merged[-1].last:
                twice = True
            if merged and mapping.first <= merged[-1].last:
                before = merged.pop()
                first, last = before.first, max(before.last, mapping.last)
            else:
                first, last = mapping.first, mapping.last
            merged.append(Span(group, register, mapping.meter, first, last))
        spans += merged
    circuits = None if twice else _whole_circuits(everything, number)
    ways = {(key, mapping.meter, mapping.circuit) for mapping in selected for key in mapping.keys}
    apart = len({(key, meter) for key, meter, _ in ways}) == len(ways)
    return Groups(keys, spans, circuits, apart)


def _order(key: Key) -> list[tuple[bool, str]]:
    return [(value is None, value or "") for value in key]


def _whole_circuits(
    mappings: Iterable[Mapping], number: dict[Key, int]
) -> list[tuple[UUID, int]] | None:
    """Return (circuit, group) pairs; None if registers of a circuit differ in their groups."""
    groups_of: dict[UUID, frozenset[Key]] = {}
    for mapping in mappings:
        keys = mapping.keys if mapping.selected else frozenset()
        if groups_of.setdefault(mapping.circuit, keys) != keys:
            return None
    return [(circuit, number[key]) for circuit, keys in groups_of.items() for key in keys]


def _era(first: int, last: int, spans: list[Span], intervals: Intervals) -> Era:
    start, end = intervals.inside(first)[0], intervals.inside(last - 1)[1]
    present = [span for span in spans if span.first < end and span.last > start]
    meters = len({span.meter for span in present})
    if last - first > 1 or all(span.first <= start and span.last >= end for span in present):
        return Era(first, last, meters, len(present), 0)
    seconds = sum(min(span.last, end) - max(span.first, start) for span in present)
    return Era(first, last, meters, 0, seconds // HALF_HOUR)
