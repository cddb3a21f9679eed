"""The program: `python -m benchmarks`, or `benchmarks/run`, which sets up what is needed first."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import alone, document, report, servers
from benchmarks.cases import CASES, Case
from benchmarks.client import Builtin
from benchmarks.load import Load, LoadFailed, Wrk
from benchmarks.options import Options, parse
from benchmarks.rounds import Bench, Sample
from benchmarks.servers import CannotStart, Contestant
from benchmarks.streams import Streams


@dataclass
class Results:
    """All that was measured."""

    machine: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    starts: list[alone.Start] = field(default_factory=list)
    footprints: list[alone.Footprint] = field(default_factory=list)
    soaks: list[alone.Soak] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports. Exit status: 0, 1 when a measurement failed, 2 when nothing could be measured."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that what was started is ended
    try:
        if options.write:
            document.check_section(options.write, "results")
        results = _measure(options, Wrk() if options.load == "wrk" else Builtin())
        _publish(options, results)
    except (CannotStart, LoadFailed, document.NoPlace) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if results.failures else 0


def _measure(options: Options, load: Load) -> Results:
    results = Results(document.machine())
    with tempfile.TemporaryDirectory(prefix="stations-bench-") as name, servers.broker(Path(name) / "nats") as broker:
        bench = Bench(broker, Streams(broker.url), load, options.seconds, options.rounds, results.failures)
        _measure_alone(options, bench, Path(name), results)
        cases = [CASES[name] for name in options.cases if name in CASES]
        if cases:
            _measure_together(options, bench, Path(name), cases, results)
    return results


def _measure_alone(options: Options, bench: Bench, directory: Path, results: Results) -> None:
    names = options.alone_variants()
    if "start" in options.cases:
        results.starts = alone.measure_start(names, options.rounds)
    if "memory" in options.cases:
        results.footprints = alone.measure_memory(bench, directory, names)
    if "soak" in options.cases:
        results.soaks = alone.measure_soak(bench, directory, names[:1], options.soak_minutes)


def _measure_together(options: Options, bench: Bench, directory: Path, cases: list[Case], results: Results) -> None:
    wanted = [name for name in servers.VARIANTS if any(name in options.variants_of(case) for case in cases)]
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(servers.peer(directory, *one, bench.broker.url)) for one in options.peers]
        gateways = servers.start_all(stack, directory, wanted, bench.broker.url)
        for case in cases:
            print(f"measuring {case.name} ...", file=sys.stderr, flush=True)
            results.samples += bench.measure(case, _contestants(options, case, peers, gateways))


def _contestants(
    options: Options, case: Case, peers: Sequence[Contestant], gateways: Sequence[Contestant]
) -> list[Contestant]:
    asked = options.variants_of(case)
    return [*(peers if case.for_peers else ()), *(one for one in gateways if one.name in asked)]


def _publish(options: Options, results: Results) -> None:
    """Writes the JSON file, prints the tables, and replaces the document's section when all went well."""
    document.write_json(options.json, asdict(results))
    text = _markdown(options, results)
    print(text)
    print(f"\nAll samples: {options.json}", file=sys.stderr)
    for failure in results.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if options.write and not results.failures:
        document.write_section(options.write, "results", text)


def _markdown(options: Options, results: Results) -> str:
    others = report.others_share(results.samples, results.machine["cores"])
    blocks = [document.facts(results.machine, others), f"{options.rounds} rounds of {options.seconds} s each, medians."]
    peer = options.peers[0][0] if options.peers else None
    for case in CASES.values():
        if samples := [sample for sample in results.samples if sample.case == case.name]:
            blocks.append(report.case_section(case, samples, peer))
    blocks += [report.start_section(results.starts)] if results.starts else []
    blocks += [report.memory_section(results.footprints)] if results.footprints else []
    blocks += [report.soak_section(results.soaks)] if results.soaks else []
    return "\n\n".join([*blocks, *(f"**FAILED** {failure}" for failure in results.failures)])


if __name__ == "__main__":
    sys.exit(main())
