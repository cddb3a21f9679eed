"""The command line's options."""

from __future__ import annotations

import argparse
import fnmatch
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.servers import MAIN, VARIANTS

ALONE = {
    "start": "seconds from the start, with the embedded broker, to the first acknowledged message",
    "memory": "PSS of each variant alone: started, under traffic, with idle connections",
    "soak": "single-64 and single-1, for minutes each; the memory must not grow",
}
_RESULTS = Path(__file__).parent / "results"
_PEER_NAME = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True)
class Options:
    """What to measure, how long, and where the results go. `peers` are names and URLs or commands."""

    cases: list[str]
    variants: list[str] | None
    peers: list[tuple[str, str]]
    load: str
    rounds: int
    seconds: int
    soak_minutes: float
    json: Path
    write: Path | None

    def alone_variants(self) -> list[str]:
        """The variants that are measured with no other running."""
        return ["llhttp-1w", "stock-1w"] if self.variants is None else self.variants

    def variants_of(self, case: Case) -> list[str]:
        """The variants that are measured in the case: those asked for, else all in wide cases and the main ones."""
        return self.variants if self.variants is not None else list(VARIANTS if case.wide else MAIN)


def parse(arguments: Sequence[str] | None) -> Options:
    """Reads the command line (`None`: that of the process); ends the process when it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return _options(given)
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run",
        description="Measures the gateway, against peers if any are given, on this machine (Linux).",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cases", default="*", help="names or patterns with commas (all)")
    add("--variants", help="names or patterns with commas, or none (default: all in single-64, else the main ones)")
    add("--peer", action="append", default=[], metavar="NAME=WHERE", help="URL, or command with {port} and {nats}")
    add("--load", choices=("wrk", "builtin"), default="wrk", help="what makes the load (wrk)")
    add("--rounds", type=int, help="rounds of each case (5)")
    add("--seconds", type=int, help="seconds of a round (5)")
    add("--soak", type=float, metavar="MINUTES", help="how long each part of the soak lasts (10)")
    add("--quick", action="store_true", help="3 rounds of 2 seconds, twice half a minute of soak")
    add("--json", type=Path, metavar="FILE", help="where all samples go (benchmarks/results/<time>.json)")
    add("--write", type=Path, metavar="FILE", help="document whose results section is replaced, if nothing failed")
    return parser


def _epilog() -> str:
    cases = {name: case.meaning for name, case in CASES.items()} | ALONE
    lines = [f"  {name:<16} {meaning}" for name, meaning in cases.items()]
    return "\n".join(["cases:", *lines, "", "variants:", *(f"  {name}" for name in VARIANTS)])


def _options(given: argparse.Namespace) -> Options:
    rounds, seconds, soak = (3, 2, 0.5) if given.quick else (5, 5, 10.0)
    return Options(
        cases=_chosen(given.cases, [*CASES, *ALONE], "case"),
        variants=None if given.variants is None else _variants(given.variants),
        peers=[_peer(text) for text in given.peer],
        load=given.load,
        rounds=_at_least_one("--rounds", given.rounds, rounds),
        seconds=_at_least_one("--seconds", given.seconds, seconds),
        soak_minutes=soak if given.soak is None else given.soak,
        json=given.json or _RESULTS / time.strftime("%Y-%m-%d-%H%M%S.json"),
        write=given.write,
    )


def _variants(text: str) -> list[str]:
    return [] if text == "none" else _chosen(text, VARIANTS, "variant")


def _chosen(text: str, names: Iterable[str], kind: str) -> list[str]:
    """The names that the patterns mean, in their own order."""
    patterns = text.split(",")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no {kind} is named {pattern!r}; there are {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _peer(text: str) -> tuple[str, str]:
    name, equals, where = text.partition("=")
    if not (_PEER_NAME.fullmatch(name) and equals and where) or name in VARIANTS:
        raise ValueError(f"--peer must be NAME=URL or NAME='command with {{port}} and {{nats}}', not {text!r}")
    return name, where


def _at_least_one(option: str, given: int | None, default: int) -> int:
    if given is not None and given < 1:
        raise ValueError(f"{option} must be 1 or more")
    return given or default
