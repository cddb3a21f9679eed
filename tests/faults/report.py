"""The tables of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable

from tests.faults.durability import Cost
from tests.faults.scene import Fault, Outcome

_FAULTS = (
    "| fault | sent | acknowledged | unknown | lost | doubled | lies | longest answer s | recovery s | memory MiB |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)
_COSTS = (
    "| servers | synced | load | messages/s | p50 ms | p99 ms |",
    "| --- | --- | --- | ---: | ---: | ---: |",
)


def row(outcome: Outcome) -> str:
    """A line of the table of faults. Memory is that of the gateway's workers, before and at its peak."""
    verdict, ledger = outcome.verdict, outcome.ledger
    counts = [verdict.sent, verdict.acknowledged, verdict.unknown]
    counts += [len(verdict.lost), len(verdict.doubled), len(verdict.lies) + len(verdict.strange)]
    figures = [
        f"{ledger.longest:.1f}",
        f"{outcome.recovery:.1f}",
        f"{outcome.memory[0]:.0f} / {max(outcome.memory):.0f}",
    ]
    return _line([outcome.fault.name, *(f"{count:,}" for count in counts), *figures])


def failed(fault: Fault, why: BaseException) -> str:
    """A line for a fault that could not be brought about, or was not got over."""
    return _line([fault.name, f"not measured: {why!r}", *[""] * 8])


def faults(rows: Iterable[str]) -> str:
    """The table of faults."""
    return "\n".join([*_FAULTS, *rows])


def costs(found: Iterable[Cost]) -> str:
    """The table of what syncing costs."""
    return "\n".join([*_COSTS, *map(_cost, found)])


def _cost(cost: Cost) -> str:
    synced = "before each ack" if cost.interval == "always" else f"every {cost.interval} s"
    load = f"{cost.senders} senders, " + ("single messages" if cost.batch == 1 else f"batches of {cost.batch}")
    return _line([cost.servers, synced, load, f"{cost.rate:,.0f}", f"{cost.p50 * 1e3:.1f}", f"{cost.p99 * 1e3:.1f}"])


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
