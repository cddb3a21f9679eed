"""What drives a server: `wrk`, or (for a try where it is absent) the client in `client.py`. Both tell the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TIMEOUT_SECONDS = 15

_SCRIPT = """\
wrk.method = "POST"
local sent = {{
{requests}}}
local texts, turn = {{}}, 0

function init(args)
  for at, one in ipairs(sent) do
    texts[at] = wrk.format("POST", one.path, one.headers, one.body)
  end
end

function request()
  turn = turn % #texts + 1
  return texts[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"completed": %d, "refused": %d, "broken": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d}}\\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50), latency:percentile(99)))
end
"""


class LoadFailed(Exception):
    """The program that makes the load is absent, or has failed."""


@dataclass(frozen=True)
class Request:
    """A POST, unless it says otherwise; `path` begins with a slash."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"


@dataclass(frozen=True)
class Answers:
    """What came back: all answers, those with a status above 399, failed connections, and the latency."""

    completed: int
    refused: int
    broken: int
    seconds: float
    p50_us: int
    p99_us: int

    @property
    def good(self) -> int:
        """Requests answered with success."""
        return self.completed - self.refused


class Load(Protocol):
    """Sends requests in turn over keep-alive connections, one at a time on each."""

    def run(self, url: str, requests: Sequence[Request], connections: int, seconds: int) -> Answers:
        """Sends for so long and tells what came back. Raises `LoadFailed`."""


class Wrk:
    """Load made by `wrk`, one thread of it. Requests on their way at the end are cut off and not counted."""

    def __init__(self) -> None:
        program = shutil.which("wrk")
        if program is None:
            raise LoadFailed(
                "wrk is not installed: `apt install wrk`, `brew install wrk` or https://github.com/wg/wrk; "
                "or try `--load builtin`, which is too slow for figures that count"
            )
        self._program = program

    def run(self, url: str, requests: Sequence[Request], connections: int, seconds: int) -> Answers:
        """See `Load.run`."""
        with tempfile.TemporaryDirectory(prefix="stations-wrk-") as directory:
            script = Path(directory) / "requests.lua"
            script.write_text(_SCRIPT.format(requests="".join(map(_lua_request, requests))))
            command = [self._program, "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_SECONDS}s"]
            return self._read([*command, "-s", str(script), url], seconds + 4 * TIMEOUT_SECONDS)

    def _read(self, command: list[str], within: int) -> Answers:
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=within, check=True)
            return Answers(**json.loads(ran.stdout.splitlines()[-1]))
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            raise LoadFailed(f"wrk has failed: {error} {getattr(error, 'stderr', None) or ''}") from None


def _lua_request(request: Request) -> str:
    headers = ", ".join(f"[{_lua(name)}] = {_lua(value)}" for name, value in request.headers.items())
    return f"  {{path = {_lua(request.path)}, headers = {{{headers}}}, body = {_lua(request.body)}}},\n"


def _lua(text: str | bytes) -> str:
    """A Lua string; bytes that could mean something there are written as numbers."""
    data = text.encode() if isinstance(text, str) else text
    return (
        '"'
        + "".join(chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\{byte:03d}" for byte in data)
        + '"'
    )
