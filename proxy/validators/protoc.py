"""Compiles `.proto` definitions, when they are registered: protoc in a process of its own, within limits.

The definition goes into a file with a fixed name, in a directory that is new and empty; nothing of it, and nothing of
ours that varies, is on a command line or in an environment. What runs there is `proxy/validators/protoc_child.py`.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from proxy.errors import BadSchema, Overloaded, Unavailable
from proxy.validators.protoc_child import UNAVAILABLE

MAX_COMPILED_BYTES = 512 * 1024
MAX_AT_ONCE = 2
WAIT_SECONDS = 10.0
TIMEOUT_SECONDS = 10.0
_MAX_TOLD = 5
_MAX_MESSAGES_BYTES = 64 * 1024
_CHILD = Path(__file__).with_name("protoc_child.py")
_MEMORY = "/dev/shm"  # noqa: S108 - where a container's file system is read-only, this often is not

# Made when a worker first meets protobuf, so under gevent it is a semaphore of greenlets.
_places = threading.BoundedSemaphore(MAX_AT_ONCE)

# Comments are skipped first, strings taken whole, so that neither hides an import nor shows a false one.
_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|\Z)|\s+|(?P<text>"(?:\\[^\n]|[^"\\\n])*"?|'(?:\\[^\n]|[^'\\\n])*'?)|(?P<word>\w+)|(?P<other>.)""",
    re.DOTALL,
)
# Each alternative matches what it began, so the time is linear: a string that is not closed ends with its line.
_WELL_KNOWN = frozenset(
    f"google/protobuf/{name}.proto"
    for name in (
        *("any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct", "timestamp"),
        *("type", "wrappers", "cpp_features", "go_features", "java_features"),
    )
)
_COMPLAINT = re.compile(r"schema\.proto:(?:(\d+):(\d+):)? *(?!warning:)(\S.*)")


def compiled(definition: str) -> bytes:
    """The serialized `FileDescriptorSet` of a definition, with all that it imports; the definition is its last file.

    For greenlets and threads, never for the loop; takes 20 seconds at most, and mostly a tenth of one. Raises
    `BadSchema` with line and column, `Overloaded`, and `Unavailable` when there is no place for temporary files.
    """
    source = _source(definition)
    _refuse_imports(definition)
    if not _places.acquire(timeout=WAIT_SECONDS):
        raise Overloaded("too many protobuf definitions are being compiled; try again later")
    try:
        with _temporary() as directory:
            return _run(Path(directory), source)
    finally:
        _places.release()


def _source(definition: str) -> bytes:
    try:
        return definition.encode()
    except UnicodeEncodeError:
        raise BadSchema("the definition holds a lone surrogate") from None


def _refuse_imports(definition: str) -> None:
    """Refuses imports of anything but the well-known types. protoc would not find it, but it need not even look."""
    words = (match for match in _TOKEN.finditer(definition) if match.lastgroup)
    before = ""  # the words that make a string the path of an import
    for word in words:
        text = word.group()
        if before and text[0] in "\"'":
            following = next(words, word).group()
            if text[1:-1] not in _WELL_KNOWN or following != ";":  # strings in a row are one path
                raise _bad_import(definition, word.start())
        before = _words_before_a_path(before, text)


def _words_before_a_path(before: str, word: str) -> str:
    if word == "import":
        return word
    return f"{before} {word}" if before == "import" and word in ("public", "weak", "option") else ""


def _bad_import(definition: str, at: int) -> BadSchema:
    line, column = definition.count("\n", 0, at) + 1, at - definition.rfind("\n", 0, at)
    return BadSchema(f'line {line}, column {column}: only the well-known types, "google/protobuf/...", can be imported')


def _temporary() -> tempfile.TemporaryDirectory[str]:
    """A new directory that goes away at the end of its block, in the first place that can be written to."""
    for parent in (None, _MEMORY):
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(prefix="stations-protoc-", dir=parent, ignore_cleanup_errors=True)
    raise Unavailable(
        "protobuf definitions cannot be compiled: neither the directory for temporary files (TMPDIR) "
        f"nor {_MEMORY} can be written to"
    )


def _run(directory: Path, source: bytes) -> bytes:
    """What protoc makes of the source."""
    try:
        (directory / "schema.proto").write_bytes(source)
        with (directory / "messages").open("wb") as messages:
            status = _status(directory, messages.fileno())
        return _outcome(directory, status)
    except OSError as error:
        raise Unavailable(f"protobuf definitions cannot be compiled: {error.strerror}") from error


def _status(directory: Path, messages: int) -> int | None:
    """How protoc ended; None when it took too long."""
    try:
        return subprocess.run(  # noqa: S603 - no part of it comes from outside
            [sys.executable, "-I", str(_CHILD)],
            cwd=directory,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            timeout=TIMEOUT_SECONDS,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def _outcome(directory: Path, status: int | None) -> bytes:
    if status == UNAVAILABLE:
        raise Unavailable("protobuf definitions cannot be compiled: the package grpcio-tools does not work here")
    if status:
        raise BadSchema(_complaints(directory) or "the definition cannot be compiled within the limits for protoc")
    if status is None:
        raise BadSchema("the definition takes too long to compile")
    with (directory / "compiled").open("rb") as file:
        result = file.read(MAX_COMPILED_BYTES + 1)
    if len(result) > MAX_COMPILED_BYTES:
        raise BadSchema(f"the definition compiles to more than {MAX_COMPILED_BYTES} bytes")
    return result


def _complaints(directory: Path) -> str:
    """What protoc says about the definition; lines about anything else name files of this machine."""
    with (directory / "messages").open("rb") as file:
        lines = file.read(_MAX_MESSAGES_BYTES).decode(errors="replace").splitlines()
    found = [match.groups() for match in map(_COMPLAINT.fullmatch, lines) if match]
    return "; ".join(
        f"line {line}, column {column}: {what[:300]}" if line else what[:300]
        for line, column, what in found[:_MAX_TOLD]
    )
