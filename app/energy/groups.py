"""Groups of registers: which circuits and registers count into which row, and what is expected.

A row counts each half-hour of a register once, on however many ways (two service heads, two
circuits, overlapping mappings) the register belongs to the row's group.
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
    """A register mapped to a circuit for a time, cut to the period; `keys` are its groups'.

    `selected` is false where a filter leaves the register out of a circuit that is not left out.
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
    """Half-hours of a register that count into a group."""

    group: int
    register: UUID
    meter: UUID
    first: Instant
    last: Instant


@dataclass(frozen=True, slots=True)
class Era:
    """Intervals `first` up to `last` in which the same registers are expected of a group.

    Of an interval with `n` half-hours, `registers * n + more` register half-hours are expected.
    """

    first: int
    last: int
    meters: int
    registers: int
    more: int

    def needed(self, expected: int) -> int:
        """The register half-hours that an interval of `expected` half-hours should have."""
        return self.registers * expected + self.more

    def complete(self, expected: int, register_intervals: int) -> bool:
        """Whether an interval of `expected` half-hours has all of its registers' half-hours."""
        return 0 < self.needed(expected) <= register_intervals


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of an answer in the order of their keys, and what counts into each.

    `circuits` (circuit, group) is None where a circuit's sums cannot be used as they are: only some
    of its registers count, or one register would count twice. `meters_apart`: no meter counts into
    a group by more than one circuit.
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
        """Whether each group is one circuit."""
        assert self.circuits is not None  # noqa: S101  (asked of sums by circuit alone)
        return len({group for _, group in self.circuits}) == len(self.circuits)

    def of(self, group: int) -> list[Span]:
        """The spans of one group."""
        if not self._spans_of:
            for span in self.spans:
                self._spans_of.setdefault(span.group, []).append(span)
        return self._spans_of[group]

    def after(self, key: Key) -> int:
        """The first group whose key comes after this one."""
        return bisect_right(self.keys, _order(key), key=_order)

    def eras(self, group: int, intervals: Intervals) -> list[Era]:
        """What is expected of a group in each interval, in runs of equal intervals."""
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
    """Put mappings into groups; a register's overlapping times in a group become one."""
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
    """Pair circuits with groups; None where the registers of one are not all in the same groups."""
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
