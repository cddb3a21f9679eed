"""Samples into medians and ratios, and these into Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.alone import Footprint, Soak, Start
from benchmarks.cases import Case
from benchmarks.rounds import Sample

Cell = str
_NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """The medians of a server's rounds in one case; memory is the most of all rounds. `None`: not known.

    CPU times in microseconds a message (a request, where it stores none), latency in milliseconds, memory in MiB.
    `speed` and `slowness` are the medians over the rounds of requests a second and p99, divided by those of the first
    peer in the same round.
    """

    server: str
    requests: float
    messages: float
    speed: float | None
    p50: float
    p99: float
    slowness: float | None
    server_us: float | None
    broker_us: float | None
    largest_mib: float | None
    together_mib: float | None
    refused: int
    broken: int


def rows(samples: Sequence[Sample], peer: str | None) -> list[Row]:
    """One row for each server of one case, in the order in which they ran."""
    names = list(dict.fromkeys(sample.server for sample in samples))
    reference = {sample.round: sample for sample in samples if sample.server == peer}
    return [_row([sample for sample in samples if sample.server == name], reference) for name in names]


def _row(samples: Sequence[Sample], reference: dict[int, Sample]) -> Row:
    pairs = [(sample, reference[sample.round]) for sample in samples if sample.round in reference]
    return Row(
        server=samples[0].server,
        requests=statistics.median(map(_requests, samples)),
        messages=statistics.median(sample.messages / sample.answers.seconds for sample in samples),
        speed=_median(_ratio(_requests(mine), _requests(other)) for mine, other in pairs),
        p50=statistics.median(sample.answers.p50_us for sample in samples) / 1000,
        p99=statistics.median(sample.answers.p99_us for sample in samples) / 1000,
        slowness=_median(_ratio(mine.answers.p99_us, other.answers.p99_us) for mine, other in pairs),
        server_us=_median(_each(sample, sample.server_cpu) for sample in samples),
        broker_us=_median(_each(sample, sample.broker_cpu) for sample in samples),
        largest_mib=_most(sample.largest_mib for sample in samples),
        together_mib=_most(sample.together_mib for sample in samples),
        refused=sum(sample.answers.refused for sample in samples),
        broken=sum(sample.answers.broken for sample in samples),
    )


def _requests(sample: Sample) -> float:
    return sample.answers.good / sample.answers.seconds


def _each(sample: Sample, cpu: float | None) -> float | None:
    count = sample.messages or sample.answers.good
    return None if cpu is None or not count else cpu / count * 1e6


def _ratio(mine: float, other: float) -> float | None:
    return mine / other if other else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median(values: Iterable[float | None]) -> float | None:
    return statistics.median(known) if (known := _known(values)) else None


def _most(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)


def others_share(samples: Sequence[Sample], cores: int) -> float | None:
    """How much of the machine other programs used while we measured; the median. `None` without samples."""
    return _median(sample.others_cpu / (sample.seconds * cores) for sample in samples)


# ---- Markdown ------------------------------------------------------------------------------------------------------

_COLUMNS: dict[str, Callable[[Row], Cell]] = {
    "server": lambda row: row.server,
    "requests/s": lambda row: f"{row.requests:,.0f}",
    "messages/s": lambda row: f"{row.messages:,.0f}",
    "x peer": lambda row: _figure(row.speed, 2),
    "p50 ms": lambda row: f"{row.p50:.2f}",
    "p99 ms": lambda row: f"{row.p99:.2f}",
    "p99 x peer": lambda row: _figure(row.slowness, 2),
    "server us": lambda row: _figure(row.server_us, 1),
    "broker us": lambda row: _figure(row.broker_us, 1),
    "memory MiB": lambda row: f"{_figure(row.largest_mib, 0)} / {_figure(row.together_mib, 0)}",
    "errors": lambda row: str(row.refused + row.broken),
}


def case_section(case: Case, samples: Sequence[Sample], peer: str | None) -> str:
    """The heading and table of one case."""
    lines = table(list(_COLUMNS), [[show(row) for show in _COLUMNS.values()] for row in rows(samples, peer)])
    notes = []
    if unchecked := sorted({sample.server for sample in samples if sample.stored is None}):
        notes.append(f"Stored messages were not counted for {', '.join(unchecked)}.")
    if case.idle:
        held = min(sample.idle for sample in samples)
        fewer = "" if held == case.idle else f" (fewer than {case.idle:,}: RLIMIT_NOFILE allows no more)"
        notes.append(f"Idle connections: {held:,}{fewer}; at the end {_open(samples)} of them were open.")
    return section(f"{case.name}: {case.meaning}", [lines, *notes])


def _open(samples: Sequence[Sample]) -> str:
    least = min(sample.idle_open for sample in samples)
    return "all" if least == min(sample.idle for sample in samples) else f"{least:,}"


def start_section(starts: Sequence[Start]) -> str:
    """The table of the start times."""
    lines = [
        [start.server, *(f"{figure:.2f}" for figure in (statistics.median(start.seconds), *_ends(start.seconds)))]
        for start in starts
    ]
    heading = "start: with the embedded broker, to the first acknowledged message"
    return section(heading, [table(["server", "seconds", "fastest", "slowest"], lines)])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def memory_section(footprints: Sequence[Footprint]) -> str:
    """The table of the memory of each variant alone."""
    idle = max((one.idle for one in footprints), default=0)
    heads = ["server", "started", "single-64", f"with {idle:,} idle connections"]
    lines = [[one.server, *map(_pair, (one.fresh, one.loaded, one.with_idle))] for one in footprints]
    return section("memory: PSS in MiB of the largest process / all, each variant alone", [table(heads, lines)])


def soak_section(soaks: Sequence[Soak]) -> str:
    """The table of the soak."""
    heads = ["server", "case", "minutes", "messages", "requests/s", "errors", "worker PSS", "worker", "broker"]
    lines = [
        [
            one.server,
            one.case,
            f"{one.minutes:g}",
            f"{one.stored:,}",
            f"{one.answers.good / one.answers.seconds:,.0f}",
            str(one.answers.refused + one.answers.broken),
            _course(one.worker_pss_mib),
            _course(one.worker_mib),
            _course(one.broker_mib),
        ]
        for one in soaks
    ]
    return section("soak: anonymous memory in MiB at start, middle and end of a long run", [table(heads, lines)])


def _pair(sizes: tuple[float, float]) -> Cell:
    return f"{sizes[0]:.0f} / {sizes[1]:.0f}"


def _course(sizes: tuple[float, float, float]) -> Cell:
    return ", ".join(f"{size:.0f}" for size in sizes)


def _figure(value: float | None, digits: int) -> Cell:
    return _NOTHING if value is None else f"{value:,.{digits}f}"


def table(heads: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    ruler = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ruler, *lines))


def section(heading: str, blocks: Sequence[str]) -> str:
    """A heading and what stands under it, blank lines between."""
    return "\n\n".join([f"### {heading}", *blocks])
