"""Compiling definitions: what can be compiled, what is told of the rest, and that nothing gets out or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from proxy.errors import BadSchema, Overloaded, Unavailable
from proxy.validators import MAX_DEFINITION_BYTES, protoc
from tests.servers import ROOT, Gateway, NatsServer

GOOD = 'syntax = "proto3"; message M {}'
IMPORTS = ["/etc/passwd", "../x.proto", "other.proto", "schema.proto", "./google/protobuf/any.proto", "", "compiled"]
IMPORTS += ["google/protobuf/../../schema.proto", "google/protobuf/nope.proto", "google/protobuf/compiler/plugin.proto"]
IMPORTS += ["google//protobuf/any.proto", "google\\\\protobuf\\\\any.proto", "GOOGLE/protobuf/any.proto"]


def _importing(path: str, kind: str = "", syntax: str = 'syntax = "proto3";') -> str:
    return f'{syntax}\nimport {kind} "{path}";\nmessage M {{}}'


def test_a_definition_becomes_a_descriptor_set() -> None:
    """The definition is its last file, with the fixed name; nothing else is in it."""
    definition = "syntax = 'proto3'; package shop; message Order { int64 id = 1; } message Refund {}"
    files = FileDescriptorSet.FromString(protoc.compiled(definition)).file
    assert [(file.name, file.package) for file in files] == [("schema.proto", "shop")]
    assert [message.name for message in files[0].message_type] == ["Order", "Refund"]


def test_well_known_types_can_be_imported() -> None:
    """Every one that is let through is there, and comes along."""
    imports = "".join(f'import "{path}";' for path in protoc._WELL_KNOWN)
    files = FileDescriptorSet.FromString(protoc.compiled(f"syntax = 'proto3'; {imports} message M {{}}")).file
    assert {file.name for file in files} > protoc._WELL_KNOWN
    assert files[-1].name == "schema.proto"


@pytest.mark.parametrize("kind", ["", "public", "weak", "option"])
@pytest.mark.parametrize("path", IMPORTS)
def test_other_imports_are_refused_before_protoc_runs(path: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kind of import it is; the answer has the place."""
    monkeypatch.setattr(protoc, "_CHILD", Path("/nowhere"))
    with pytest.raises(BadSchema, match=r"^line 2, column \d+: only the well-known types"):
        protoc.compiled(_importing(path, kind))


@pytest.mark.parametrize(
    "text",
    [
        "import'/etc/passwd';",
        'import/**/"/etc/passwd";',
        'import// x\n"/etc/passwd";',
        '/* " */ import "/etc/passwd"; /* " */',
        '// \'\nimport "/etc/passwd";',
        'import "google/protobuf/any" ".proto";',
        'import "google/protobuf/any.proto" "/../x";',
        'import "google/protobuf/any.prot\\157";',
        'import "google/protobuf/any.proto',
    ],
)
def test_imports_cannot_hide(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind comments, quotes, escapes, strings in pieces."""
    monkeypatch.setattr(protoc, "_CHILD", Path("/nowhere"))
    with pytest.raises(BadSchema, match="only the well-known types"):
        protoc.compiled(f'syntax = "proto3"; {text} message M {{}}')


@pytest.mark.parametrize(
    "text",
    [
        '// import "/etc/passwd";\nmessage M {}',
        '/* import "/etc/passwd"; */ message M {}',
        'message M { optional string s = 1 [default = "import \\"x\\";"]; }',
        "message M { optional int32 import = 1; } message import {} message N { optional import public = 2; }",
    ],
)
def test_what_looks_like_an_import_is_none(text: str) -> None:
    """In comments and strings, and where it is a name."""
    assert protoc.compiled(f'syntax = "proto2"; {text}')


@pytest.mark.parametrize("kind", ["", "public"])
@pytest.mark.parametrize("path", [path for path in IMPORTS if "plugin" not in path])
def test_protoc_finds_nothing_else_either(path: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first guard away: its path has the well-known types and the definition, which cannot import itself."""
    monkeypatch.setattr(protoc, "_refuse_imports", lambda _: None)
    with pytest.raises(BadSchema) as caught:
        protoc.compiled(_importing(path, kind))
    assert "root:" not in caught.value.message


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (GOOD[:-1], "line 1, column 31: Reached end of input in message definition (missing '}')."),
        ('syntax = "proto3";\nmessage M { Nope x = 1; }', 'line 2, column 13: "Nope" is not defined.'),
        (
            "syntax = 'proto3'; message M { int32 a = 1;\nint32 b = 1; }",
            "line 2, column 11: Field number 1 has already",
        ),
        ("syntax = 'proto3'; enum E { A = 1; }", "line 1, column 33: The first enum value must be zero"),
        ("syntax = 'proto4';", 'Unrecognized syntax identifier "proto4"'),
        ("nonsense", "line 1, column 1: Expected top-level statement"),
        ("message M {" * 1_000, "Reached maximum recursion limit for nested messages."),
        ("syntax = 'proto3'; message " + "M" * 100_000 + " {}", "Name too long."),
        ("\x00", "line 1, column 1: Invalid control characters"),
        ("\udc80", "lone surrogate"),
    ],
)
def test_what_does_not_compile_is_told_with_its_place(definition: str, message: str) -> None:
    """In protoc's words, without a path."""
    with pytest.raises(BadSchema) as caught:
        protoc.compiled(definition)
    assert message in caught.value.message
    assert not any(word in caught.value.message for word in ("schema.proto", "/tmp", "grpc", str(ROOT)))


def test_warnings_are_no_complaints() -> None:
    """An import that is not used is fine, and not in the answer about something else."""
    with pytest.raises(BadSchema) as caught:
        protoc.compiled(_importing("google/protobuf/any.proto") + "\nmessage M {}")
    assert caught.value.message == 'line 4, column 9: "M" is already defined.'


@pytest.mark.parametrize("filling", ["'\\\"", '"\\\'"', "/*", "'", 'import "', "import ", "{", "\\"])
def test_large_definitions_are_searched_for_imports_in_little_time(filling: str) -> None:
    """However they are meant."""
    began = time.process_time()
    with contextlib.suppress(BadSchema):
        protoc._refuse_imports(filling * (MAX_DEFINITION_BYTES // len(filling)))
    assert time.process_time() - began < 5


def test_few_complaints_are_told() -> None:
    """One mistake can lead to thousands."""
    with pytest.raises(BadSchema) as caught:
        protoc.compiled("syntax = 'proto3'; message M {" + "".join(f"X x{n} = {n};" for n in range(1, 5_000)) + "}")
    assert caught.value.message.count("is not defined") == 5


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts another program in protoc's place: what it writes to `compiled` is the result."""

    def put(text: str) -> Path:
        program = tmp_path / "child.py"
        program.write_text(textwrap.dedent(text))
        monkeypatch.setattr(protoc, "_CHILD", program)
        return tmp_path

    return put


def test_protoc_is_alone(child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the definition alone, no environment, no argument; and the directory goes away."""
    monkeypatch.setenv("JWT_SECRET", "secret")
    child("""
        import json, os, sys
        seen = [os.getcwd(), sorted(os.listdir()), dict(os.environ), sys.argv[1:], os.path.realpath("/proc/self/fd/0")]
        open("compiled", "w").write(json.dumps(seen))
    """)
    directory, files, environment, arguments, stdin = json.loads(protoc.compiled(GOOD))
    assert not Path(directory).exists()
    assert files == ["messages", "schema.proto"]
    assert set(environment) <= {"LC_CTYPE"}  # Python's own doing
    assert (arguments, stdin) == ([], "/dev/null")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("import time; time.sleep(60)", BadSchema, "takes too long"),
        ("import os; os.abort()", BadSchema, "cannot be compiled within the limits"),
        ("raise SystemExit(1)", BadSchema, "cannot be compiled within the limits"),
        ("open('compiled', 'w').write('x' * 600_000)", BadSchema, "compiles to more than 524288 bytes"),
        ("pass", Unavailable, "No such file"),
        ("raise SystemExit(70)", Unavailable, "grpcio-tools"),
    ],
)
def test_failures_are_told(
    text: str, error: type[Exception], message: str, child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, a hang, too large a result, none."""
    child(text)
    monkeypatch.setattr(protoc, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(error, match=message):
        protoc.compiled(GOOD)


def test_protoc_limits_itself() -> None:
    """Memory, CPU time, files and dumps."""
    script = f"""
        import resource, runpy
        child = runpy.run_path({str(protoc._CHILD)!r})
        child["limit"]()
        print([resource.getrlimit(getattr(resource, name))[0] for name in child["_LIMITS"]])
        print(resource.getrlimit(resource.RLIMIT_CPU)[1])
        try:
            bytearray(1 << 30)
        except MemoryError:
            print("no")
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [str([512 << 20, 5, 8 << 20, 0]), "5", "no"]


def test_so_many_compile_at_once(child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads wait for a place."""
    log = child("").joinpath("log")
    child(f"""
        import time
        log = open({str(log)!r}, "a", buffering=1)
        log.write("+\\n"); time.sleep(0.1); log.write("-\\n")
        open("compiled", "w").write("x")
    """)
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(protoc.compiled, [GOOD] * 6)) == [b"x"] * 6
    running = [sum(1 if line == "+" else -1 for line in log.read_text().split()[: n + 1]) for n in range(12)]
    assert max(running) <= protoc.MAX_AT_ONCE
    assert running[-1] == 0


def test_who_finds_no_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After waiting; it is safe to repeat."""
    monkeypatch.setattr(protoc, "WAIT_SECONDS", 0.05)
    with protoc._places, protoc._places, pytest.raises(Overloaded, match="too many"):
        protoc.compiled(GOOD)
    assert protoc.compiled(GOOD)


def test_places_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of the definition."""
    monkeypatch.setattr(protoc, "WAIT_SECONDS", 0)
    for _ in range(protoc.MAX_AT_ONCE + 1):
        with pytest.raises(BadSchema):
            protoc.compiled("nonsense")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], None]:
    """Sets the two directories that are tried."""

    def put(first: object, second: object) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(first))
        monkeypatch.setattr(protoc, "_MEMORY", str(second))

    return put


def test_shared_memory_serves_where_nothing_else_can_be_written(
    tmp_path: Path, temporary: Callable[[Any, Any], None]
) -> None:
    """As in a container whose file system is read-only."""
    (tmp_path / "file").touch()
    temporary(tmp_path / "file", tmp_path)
    assert protoc.compiled(GOOD)
    assert os.listdir(tmp_path) == ["file"]


def test_without_any_place_the_error_says_so(tmp_path: Path, temporary: Callable[[Any, Any], None]) -> None:
    """It is not the definition's fault."""
    temporary(tmp_path / "a", tmp_path / "b")
    with pytest.raises(Unavailable, match=r"TMPDIR"):
        protoc.compiled(GOOD)


@pytest.mark.slow
def test_greenlets_go_on_meanwhile() -> None:
    """Under gevent's patches, as in a worker: others run, and no more than allowed compile at once."""
    script = f"""
        from gevent import monkey
        monkey.patch_all()
        import gevent, sys
        sys.path.insert(0, {str(ROOT)!r})
        from proxy.validators import protoc
        ticks = 0
        def tick():
            global ticks
            while True:
                ticks += 1
                gevent.sleep(0.005)
        ticking = gevent.spawn(tick)
        jobs = [gevent.spawn(protoc.compiled, {GOOD!r}) for _ in range(4)]
        gevent.joinall(jobs, timeout=30, raise_error=True)
        assert all(job.value for job in jobs)
        assert ticks >= 5, ticks
        ticking.kill()
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], check=True, timeout=60)


APP = f"""
from proxy.app import create_app
from proxy.validators import protoc

app = create_app()

@app.get("/compiled")
def compiled():
    return protoc.compiled({GOOD!r})
"""


@pytest.mark.slow
def test_a_worker_compiles_and_serves_meanwhile(
    gateway: Callable[..., Gateway], broker: NatsServer, tmp_path: Path
) -> None:
    """The real one, with its loop in a thread beside it: others have their answers first."""
    (tmp_path / "compiling.py").write_text(APP)
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "WEB_CONCURRENCY": "1"}
    served = gateway(env, app="compiling:app").start()
    with ThreadPoolExecutor(3) as threads:
        compiling = [threads.submit(served.get, "/compiled") for _ in range(3)]
        meanwhile = 0
        while not all(job.done() for job in compiling):
            assert served.get("/monitoring/status")[0] == 200
            meanwhile += 1
    assert {job.result() for job in compiling} == {(200, protoc.compiled(GOOD))}
    assert meanwhile >= 3
