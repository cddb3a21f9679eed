"""Where the time goes: a profile of one worker under load. `python -m benchmarks.profile --help`.

With py-spy on PATH (`pip install py-spy`) it samples all threads of the worker from outside. Without it, cProfile runs
inside the worker: slower, blind to the asyncio thread, and only roughly right where greenlets switch.
"""

from __future__ import annotations

import argparse
import pstats
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import document, report, servers
from benchmarks.cases import CASES, Case
from benchmarks.load import Load, LoadFailed, Wrk
from benchmarks.measure import cpu_seconds
from benchmarks.rounds import prove
from benchmarks.servers import VARIANTS, CannotStart, Contestant
from benchmarks.streams import Streams
from tests.servers import ROOT

_LINES = 25
_PARTS = 12
_SAMPLES_A_SECOND = 250
_WARM_UP_SECONDS = 2
_LAST = "_shutdown"  # cProfile puts on it, as the last to return, the time of the loops, which never do
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)")

Costs = Counter[tuple[str, str]]  # part and function -> samples or seconds


@dataclass(frozen=True)
class Plan:
    """What to profile, and where files of the run go."""

    directory: Path
    nats_url: str
    variant: str
    case: Case
    seconds: int
    load: Load

    def gateway(
        self, app: str = "wsgi:app", changes: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Contestant]:
        """The gateway that is profiled; its files are in `directory`."""
        settings = {"BROKER_URL": self.nats_url, "JWT_SECRET": secrets.token_urlsafe(32), **(changes or {})}
        return servers.gateway(self.directory / self.variant, self.variant, settings, app)

    def run(self, contestant: Contestant, seconds: int) -> None:
        """Sends the case's requests for so long."""
        requests = self.case.requests(servers.tokens(contestant.url, self.case.identities))
        prove(contestant, requests[0])
        self.load.run(contestant.url, requests, self.case.connections, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Profiles, and prints the tables or writes them into the document. Exit status: 0, 2 when it could not."""
    options = _parser().parse_args(arguments)
    try:
        if options.write:
            document.check_section(options.write, "profile")
        text = _profile(CASES[options.case], options.variant, options.seconds)
        print(text)
        if options.write:
            document.write_section(options.write, "profile", text)
    except (CannotStart, LoadFailed, document.NoPlace, subprocess.SubprocessError) as error:
        print(f"profile: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--case", choices=CASES, default="single-64")
    parser.add_argument("--variant", choices=VARIANTS, default="llhttp-1w")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--write", type=Path, metavar="FILE", help="document whose profile section is replaced")
    return parser


def _profile(case: Case, variant: str, seconds: int) -> str:
    profiler, note = _sample, "Samples of all threads by py-spy, without waiting."
    if not shutil.which("py-spy"):
        profiler, note = _count, "By cProfile, which does not see the asyncio thread; install py-spy for that."
    load = Wrk()
    with tempfile.TemporaryDirectory(prefix="stations-profile-") as name, servers.broker(Path(name) / "nats") as broker:
        Streams(broker.url).make(case.stations)
        costs = profiler(Plan(Path(name), broker.url, variant, case, seconds, load))
    return _markdown(f"`{variant}`, {case.name}: {case.meaning}. {note}", costs)


def _sample(plan: Plan) -> Costs:
    """Costs in samples, by py-spy."""
    output = plan.directory / "samples.txt"
    with plan.gateway() as contestant:
        plan.run(contestant, _WARM_UP_SECONDS)
        worker = max(contestant.pids(), key=lambda pid: cpu_seconds([pid]))
        command = ["py-spy", "record", "--format", "raw", "--full-filenames", "--output", str(output)]
        command += ["--rate", str(_SAMPLES_A_SECOND), "--duration", str(plan.seconds), "--pid", str(worker)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
            plan.run(contestant, plan.seconds + _WARM_UP_SECONDS)
    if spy.returncode:
        raise CannotStart(f"py-spy has ended with status {spy.returncode} (it may need root, or ptrace_scope 0)")
    return read_samples(output.read_text())


def read_samples(text: str) -> Costs:
    """Self time from lines `frame;frame;frame count`; the last frame is where the time went."""
    costs: Costs = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if found := _FRAME.fullmatch(stack.rpartition(";")[2]):
            costs[part(found["file"]), found["function"]] += int(count)
    return costs


def _count(plan: Plan) -> Costs:
    """Costs in microseconds, by cProfile inside the worker."""
    output = plan.directory / "profile.out"
    with plan.gateway("benchmarks.profiled:app", {"PROFILE_OUTPUT": str(output)}) as contestant:
        plan.run(contestant, plan.seconds)
    costs: Costs = Counter()
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(str(output)).stats.items():  # type: ignore[attr-defined]
        if function != _LAST:
            costs[part(file), function] += round(own * 1e6)
    return costs


def part(file: str) -> str:
    """What a file belongs to: a module of ours, an installed package, or Python itself."""
    path = Path(file)
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1].removesuffix(".py")
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return "Python"


def _markdown(heading: str, costs: Costs) -> str:
    parts: Counter[str] = Counter()
    for (name, _), cost in costs.items():
        parts[name] += cost
    total = parts.total() or 1
    by_part = [[name, f"{cost / total:.1%}"] for name, cost in parts.most_common(_PARTS)]
    by_function = [
        [f"`{function}`", name, f"{cost / total:.1%}"] for (name, function), cost in costs.most_common(_LINES)
    ]
    return "\n\n".join(
        [
            heading,
            report.table(["part", "own time"], by_part),
            report.table(["function", "of", "own time"], by_function),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
