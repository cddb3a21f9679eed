"""The benchmarks run, count what is stored, and find out a server that lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import alone, document, ingest, measure, options, profile, report
from benchmarks.cases import CASES, event, protobuf
from benchmarks.load import Answers
from benchmarks.rounds import Sample, in_turn
from tests.servers import ROOT

_LIAR = """
import http.server, sys

class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Liar).serve_forever()
"""

_MAPS = """
import mmap, os, sys
from benchmarks.measure import anonymous_mib

print(anonymous_mib(os.getpid()))
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    assert not any(mapped[:: mmap.PAGESIZE])
    print(anonymous_mib(os.getpid()))
with mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
    own.write(bytes(len(own)))
    print(anonymous_mib(os.getpid()))
"""


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=100, check=False
    )


def _sample(server: str, number: int, good: int, **values: Any) -> Sample:
    known = {"server_cpu": 1.0, "broker_cpu": 0.5, "largest_mib": 50.0, "together_mib": 70.0, "stored": good}
    answers = Answers(good, 0, 0, 2.0, 1000, values.pop("p99_us", 4000))
    return Sample("single-64", server, number, answers, good, others_cpu=0.4, seconds=2.0, **{**known, **values})


@pytest.mark.slow
def test_a_run_measures_the_gateway_and_counts_the_stored_messages(tmp_path: Path) -> None:
    """One short round of two cases with the client of our own; tables, JSON and the document's section come out."""
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    ran = _run(
        *("--load", "builtin", "--rounds", "1", "--seconds", "1", "--cases", "single-16,batch-10"),
        *("--variants", "stock-1w", "--json", str(results), "--write", str(page)),
    )
    assert ran.returncode == 0, ran.stderr
    samples = json.loads(results.read_text())["samples"]
    assert [sample["case"] for sample in samples] == ["single-16", "batch-10"]
    assert all(sample["stored"] == sample["messages"] > 0 for sample in samples)
    assert "### batch-10" in ran.stdout
    assert page.read_text() == f"before\n<!-- results: begin -->\n{ran.stdout}<!-- results: end -->\nafter\n"


@pytest.mark.slow
def test_a_server_that_answers_without_storing_fails(tmp_path: Path) -> None:
    """Every 200 must be a message in the stream."""
    liar = tmp_path / "liar.py"
    liar.write_text(_LIAR)
    ran = _run(
        *("--load", "builtin", "--rounds", "1", "--seconds", "1", "--cases", "single-1", "--variants", "none"),
        *("--peer", f"liar={sys.executable} {liar} {{port}}", "--json", str(tmp_path / "results.json")),
    )
    assert ran.returncode == 1
    assert "FAILED single-1: liar: " in ran.stderr
    assert "and 0 are stored" in ran.stderr


def test_without_wrk_it_says_what_to_install(tmp_path: Path) -> None:
    """Nothing is started before that is known."""
    ran = _run("--cases", "single-1", PATH=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "wrk is not installed: `apt install wrk`" in ran.stderr


def test_a_document_without_a_place_for_results_is_refused_at_once(tmp_path: Path) -> None:
    """Not after an hour of measuring."""
    ran = _run("--load", "builtin", "--cases", "single-1", "--write", str(tmp_path / "absent.md"))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "absent.md" in ran.stderr


@pytest.mark.slow
def test_each_kind_of_message_is_taken_by_the_broker(capsys: pytest.CaptureFixture[str]) -> None:
    """What `ingest` sends is stored, or it says so; a line of its table for each kind."""
    assert ingest.main(["--rounds", "1", "--batches", "20"]) == 0
    assert [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]] == [
        kind.meaning for kind in ingest.KINDS
    ]


def test_ratios_compare_rounds_and_not_medians() -> None:
    """A round in which the machine was slow for all does not count against one server."""
    counts = {"other": (1000, 100, 2000), "mine": (500, 50, 3000)}
    samples = [_sample(name, number, good) for name, goods in counts.items() for number, good in enumerate(goods)]
    other, mine = report.rows(samples, "other")
    assert (other.speed, mine.speed) == (1.0, 0.5)
    assert (mine.requests, mine.server_us, mine.broker_us) == (250.0, 2000.0, 1000.0)


def test_no_server_comes_after_the_same_one_in_every_round() -> None:
    """What one leaves undone in the broker slows the next."""
    turns = [name for number in range(4) for name in in_turn("ab", number + 1)]
    assert "".join(turns) == "abbaabba"


def test_what_is_not_known_of_a_peer_is_left_open() -> None:
    """A peer that runs elsewhere has no processes to look at."""
    unknown = {"server_cpu": None, "broker_cpu": None, "largest_mib": None, "together_mib": None, "stored": None}
    text = report.case_section(CASES["single-64"], [_sample("other", 1, 1000, **unknown)], None)
    assert "| other | 500 | 500 | - | 1.00 | 4.00 | - | - | - | - / - | 0 |" in text
    assert "Stored messages were not counted for other." in text


def test_a_section_is_replaced_between_its_marks() -> None:
    """The rest of the document stays."""
    text = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    assert document.with_section(text, "x", "new") == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"


@pytest.mark.parametrize("text", ["", "<!-- x: begin -->", "<!-- x: end --><!-- x: begin -->"])
def test_a_document_without_the_marks_is_left_alone(text: str) -> None:
    """Better than to write the section somewhere."""
    with pytest.raises(document.NoPlace):
        document.with_section(text, "x", "new")


@pytest.mark.parametrize("name", ["results", "profile"])
def test_the_document_has_its_sections(name: str) -> None:
    """`--write docs/performance.md` finds its place."""
    page = (ROOT / "docs" / "performance.md").read_text()
    assert "new" in document.with_section(page, name, "new")


def test_cpu_and_memory_of_a_process_are_read() -> None:
    """Of this one: it has used some of both."""
    assert measure.cpu_seconds([os.getpid()]) > 0
    assert measure.pss_mib(os.getpid()) > 1


def test_memory_of_files_is_not_of_the_process_own(tmp_path: Path) -> None:
    """Libraries that others run too would make a soak's memory look smaller, and grow when the others end."""
    path = tmp_path / "library"
    path.write_bytes(bytes(32 << 20))
    ran = subprocess.run(  # a process of its own, in which nothing else comes or goes
        [sys.executable, "-c", _MAPS, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    before, with_file, with_own = map(float, ran.stdout.split())
    assert with_file < before + 16
    assert with_own > before + 16


@pytest.mark.parametrize(("end", "grown"), [(50.0, False), (56.0, False), (58.0, True)])
def test_a_soak_tells_growth_from_noise(end: float, *, grown: bool) -> None:
    """A tenth and 2 MiB; what the libraries are shared with does not count."""
    answers = Answers(1, 0, 0, 2.0, 1000, 4000)
    soak = alone.Soak("ours", "single-1", 10, answers, 1, (40.0, 50.0, 60.0), (50.0, 80.0, end), (1.0, 1.0, 1.0))
    assert soak.has_grown is grown


def test_a_process_that_ended_is_an_error() -> None:
    """Else a worker that died under load would look cheap."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(measure.ProcessEnded):
        measure.cpu_seconds([process.pid])


@pytest.mark.parametrize("body", [event(), protobuf()])
def test_bodies_have_the_size_that_the_case_says(body: bytes) -> None:
    """The report says 100 bytes."""
    assert len(body) == 100


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cases", "nothing"], "no case is named 'nothing'"),
        (["--variants", "fast"], "no variant is named 'fast'"),
        (["--peer", "x"], "--peer must be NAME=URL"),
        (["--peer", "a b=./a"], "--peer must be NAME=URL"),
        (["--peer", "llhttp-1w=./a"], "--peer must be NAME=URL"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a line that says what is wrong."""
    with pytest.raises(SystemExit) as ended:
        options.parse(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_peer_has_a_name_as_variants_have() -> None:
    """With hyphens, and a command that may have an equals sign too."""
    assert options.parse(["--peer", "go-ids=./peer -a=b {port} {nats}"]).peers == [
        ("go-ids", "./peer -a=b {port} {nats}")
    ]


def test_own_time_goes_to_the_last_frame_of_a_stack() -> None:
    """Lines of a function are one; frames of ours are named by module, others by package."""
    here, there = ROOT / "proxy" / "edge.py", "/lib/site-packages/gevent/hub.py"
    text = f"run ({there}:1);a ({here}:2) 3\nrun ({there}:1);a ({here}:4) 2\nrun ({there}:9) 1\n"
    assert profile.read_samples(text) == {("proxy/edge.py", "a"): 5, ("gevent", "run"): 1}
