"""Brings about all faults in their long form and writes the tables of docs/reliability.md: `./scripts/faults`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import document
from tests.faults import report
from tests.faults.cluster import Cluster
from tests.faults.durability import Cost, costs
from tests.faults.scene import Fault, cluster_for, play
from tests.faults.table import FAULTS
from tests.servers import ROOT

_DOCUMENT = ROOT / "docs" / "reliability.md"
_COST_SECONDS = 10.0


def main() -> int:
    """Runs what was asked for; 0 when nothing was lost, doubled, late or a lie."""
    options = _parser().parse_args()
    chosen = [fault for fault in FAULTS if not options.only or any(word in fault.name for word in options.only)]
    if not options.print:
        document.check_section(_DOCUMENT, "faults")
    with tempfile.TemporaryDirectory(dir=options.directory) as path:
        rows, wrong = _faults(chosen, Path(path), long=not options.short)
        found = [] if options.only else list(_costs(Path(path)))
    if not options.print and not options.only:
        document.write_section(_DOCUMENT, "machine", document.facts(document.machine(), None))
        document.write_section(_DOCUMENT, "faults", report.faults(rows))
        document.write_section(_DOCUMENT, "sync", report.costs(found))
    for name, what in wrong.items():
        _say(f"NOT AS PROMISED: {name}: {what}")
    return bool(wrong)


def _faults(chosen: list[Fault], directory: Path, *, long: bool) -> tuple[list[str], dict[str, object]]:
    """A row for each fault, and what was not as promised."""
    rows, wrong = [], dict[str, object]()
    shared = Cluster(directory / "cluster")
    try:
        shared.start()
        for number, fault in enumerate(chosen):
            try:
                with cluster_for(fault, shared, directory / f"own-{number}") as cluster:
                    outcome = play(fault, cluster, directory / f"gateway-{number}", long=long)
            except AssertionError as error:
                rows.append(report.failed(fault, error))
                wrong[fault.name] = error
                shared.heal()
            else:
                rows.append(report.row(outcome))
                wrong |= {fault.name: outcome.wrong} if outcome.wrong else {}
            _say(rows[-1])
    finally:
        shared.stop()
    return rows, wrong


def _costs(directory: Path) -> Iterator[Cost]:
    for cost in costs(directory, _COST_SECONDS):
        _say(str(cost))
        yield cost


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="faults whose names have one of these in them")
    parser.add_argument("--short", action="store_true", help="the short form, as in the tests")
    parser.add_argument("--print", action="store_true", help="write no document")
    parser.add_argument("--directory", help="where brokers keep their data meanwhile; a disk, for the cost of syncing")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
