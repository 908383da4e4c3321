"""Groups of registers: the circuits and registers that each row sums, and the data it expects.

A row counts each half-hour of a register once, even if the register belongs to the row's group in
several ways (two service heads, two circuits, overlapping mappings).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple

from app.energy.intervals import HALF_HOUR, Instant, Intervals

Dimension = Literal[
    "esco", "site", "property", "feeder", "circuit", "circuit_type", "meter", "register"
]
Key = tuple[str | None, ...]


class Mapping(NamedTuple):
    """The mapping of a register to a circuit, cut to the period; `keys` name its groups.

    `selected` is false where a filter excludes the register but not its circuit.
    """

    circuit: str
    register: str
    meter: str
    first: Instant
    last: Instant
    keys: frozenset[Key]
    selected: bool = True


class Span(NamedTuple):
    """A run of half-hours, `first` up to `last` (exclusive), of registers counted in a group.

    `register` and `meter` are ids; None where the span stands for several of each.
    """

    group: int
    register: str | None
    meter: str | None
    first: Instant
    last: Instant
    registers: int = 1
    meters: int = 1


@dataclass(frozen=True, slots=True)
class MembershipRun:
    """Intervals `start` up to `stop` (exclusive) in which a group expects the same registers.

    In an interval of `n` half-hours, `registers * n + more` half-hours over all registers are
    expected.
    """

    start: int
    stop: int
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
class Sources:
    """The relations that reports read beside figures, by kind of caller, as SQL.

    `mappings` are circuits, registers and the time for which they belong together.
    `derived_registers` are those that have derived half-hours. Where mappings are `cut`, those of a
    time in which a caller sees only a part, no interval across such a cut is shown.
    """

    mappings: str
    derived_registers: str
    cut: bool


OF_TENANT = Sources("flows.circuit_register", "flows.derived_registers()", cut=False)
OF_RESIDENT = Sources("flows.own_mappings", "flows.own_derived_registers()", cut=True)


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a report in the order of their keys, and the registers that each one sums.

    Each group has a span, and the spans are in the order of the groups.
    `circuits` holds (circuits, group), ids separated by commas; None where stored sums of circuits
    cannot be used: only some registers of a circuit count, or a register would count twice.
    `meters_apart` is true when no meter belongs to a group through more than one circuit, and
    `everything` when all circuits that the caller sees are in one group. Half-hours that were
    derived are left out with `measured`, and counted apart with `derived`.
    """

    keys: Sequence[Key]
    spans: Sequence[Span]
    circuits: Sequence[tuple[str, int]] | None
    meters_apart: bool = False
    everything: bool = False
    measured: bool = False
    derived: bool = False
    sources: Sources = OF_TENANT

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def single(self) -> bool:
        """True if each group is a single circuit."""
        assert self.circuits is not None  # noqa: S101  (only used when summing circuits)
        several = self.everything or any("," in circuits for circuits, _ in self.circuits)
        return not several and len({group for _, group in self.circuits}) == len(self.circuits)

    @property
    def cuts(self) -> list[Instant]:
        """The times at which what the caller sees begins or ends, if it sees mappings in part."""
        if not self.sources.cut:
            return []
        return sorted({at for span in self.spans for at in (span.first, span.last)})

    def after(self, key: Key) -> int:
        """Return the number of the first group whose key sorts after `key`."""
        return bisect_right(self.keys, _order(key), key=_order)

    def runs(self, intervals: Intervals) -> list[list[MembershipRun]]:
        """Return the runs of each group, in order; a group's cover all intervals."""
        known: dict[object, list[MembershipRun]] = {}
        found = []
        for group, own in groupby(self.spans, key=lambda span: span.group):
            spans = list(own)
            # Of thousands of groups, most are alike.
            alike: object = group
            if len(spans) == 1:
                alike = (spans[0].first, spans[0].last, spans[0].registers, spans[0].meters)
            if alike not in known:
                known[alike] = self._runs(spans, intervals)
            found.append(known[alike])
        return found

    @staticmethod
    def _runs(spans: Sequence[Span], intervals: Intervals) -> list[MembershipRun]:
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
            _run(first, last, spans, intervals)
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
    spans, twice = _merge(
        Span(number[key], mapping.register, mapping.meter, mapping.first, mapping.last)
        for mapping in selected
        for key in mapping.keys
    )
    circuits = None if twice else _whole_circuits(everything, number)
    ways = {(key, mapping.meter, mapping.circuit) for mapping in selected for key in mapping.keys}
    apart = len({(key, meter) for key, meter, _ in ways}) == len(ways)
    return Groups(keys, spans, circuits, apart)


def assemble(
    rows: Iterable[tuple[Any, ...]], by: Sequence[Dimension], *, everything: bool
) -> Groups | None:
    """Return groups of whole circuits from rows sorted by key; None if they cannot be summed.

    A row is first, last, meters, registers, meter and register of a `Span`; its circuits, separated
    by commas (for `everything` empty); whether no meter has several of them; the group's key.
    """
    keys: list[Key] = []
    spans: list[Span] = []
    alone: list[Span] = []
    circuits: list[tuple[str, int]] = []
    apart = True
    for first, last, meters, registers, meter, register, named, own, *key in rows:
        if named is None:
            return None
        if first >= last:
            continue  # no half-hour begins in it
        group = _number(keys, tuple(key))
        span = Span(group, register, meter, first, last, registers, meters)
        (spans if register is None else alone).append(span)
        if "circuit" not in by:
            circuits.append((named, group))
        apart = apart and own
    merged, twice = _merge(alone)
    if twice:
        return None
    if "circuit" in by:
        circuits = [(str(key[by.index("circuit")]), group) for group, key in enumerate(keys)]
    spans = sorted(spans + merged, key=lambda span: span.group)
    return Groups(keys, spans, circuits, apart, everything)


def register_groups(rows: Iterable[tuple[Any, ...]]) -> Groups:
    """Return groups of registers from rows sorted by key: first, last, meter, register, the key."""
    keys: list[Key] = []
    spans, _ = _merge(
        Span(_number(keys, tuple(key)), register, meter, first, last)
        for first, last, meter, register, *key in rows
        if first < last
    )
    return Groups(keys, spans, None)


def _number(keys: list[Key], key: Key) -> int:
    """Return the number of a group whose key is the last of the keys, or is added to them."""
    if not keys or keys[-1] != key:
        keys.append(key)
    return len(keys) - 1


def _merge(spans: Iterable[Span]) -> tuple[list[Span], bool]:
    """Merge each register's spans that meet in a group, and sort them by group.

    Return also whether any overlapped.
    """
    # Sorted three times, which takes no memory for keys.
    sorted_spans = sorted(spans, key=lambda span: span.first)
    sorted_spans.sort(key=lambda span: span.register or "")
    sorted_spans.sort(key=lambda span: span.group)
    merged: list[Span] = []
    twice = False
    for span in sorted_spans:
        before = merged[-1] if merged else None
        if (
            before is None
            or (before.group, before.register) != (span.group, span.register)
            or span.first > before.last
        ):
            merged.append(span)
            continue
        twice = twice or span.first < before.last
        merged[-1] = before._replace(last=max(before.last, span.last))
    return merged, twice


def _order(key: Key) -> list[tuple[bool, str]]:
    return [(value is None, value or "") for value in key]


def _whole_circuits(
    mappings: Iterable[Mapping], number: dict[Key, int]
) -> list[tuple[str, int]] | None:
    """Return (circuit, group) pairs; None if registers of a circuit differ in their groups."""
    groups_of: dict[str, frozenset[Key]] = {}
    for mapping in mappings:
        keys = mapping.keys if mapping.selected else frozenset()
        if groups_of.setdefault(mapping.circuit, keys) != keys:
            return None
    return [(circuit, number[key]) for circuit, keys in groups_of.items() for key in keys]


def _run(first: int, last: int, spans: Sequence[Span], intervals: Intervals) -> MembershipRun:
    start, end = intervals.inside(first)[0], intervals.inside(last - 1)[1]
    present = [span for span in spans if span.first < end and span.last > start]
    together = sum(span.meters for span in present if span.meter is None)
    meters = together + len({span.meter for span in present if span.meter is not None})
    if last - first > 1 or all(span.first <= start and span.last >= end for span in present):
        return MembershipRun(first, last, meters, sum(span.registers for span in present), 0)
    seconds = sum(
        (min(span.last, end) - max(span.first, start)) * span.registers for span in present
    )
    return MembershipRun(first, last, meters, 0, seconds // HALF_HOUR)
