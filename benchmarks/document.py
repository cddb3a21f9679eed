"""Where results are kept: a JSON file with all samples, and the generated sections of a Markdown document."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proxy.brokers.embedded import find_nats_server

_PACKAGES = ("gunicorn", "gevent", "Flask", "nats-py", "uvloop", "httptools")


class NoPlace(Exception):
    """The document has no place for the section."""


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, system, versions, load average before."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "nats-server": _first_line([str(find_nats_server()), "--version"]),
        "wrk": _first_line(["wrk", "--version"]) if shutil.which("wrk") else "absent",
        "load average": os.getloadavg(),
    }


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _first_line(command: list[str]) -> str:
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10, check=False)
    return (ran.stdout.splitlines() or ["unknown"])[0].split(" Copyright")[0]


def facts(machine: dict[str, Any], others: float | None) -> str:
    """One paragraph on the machine, for people; `others` is the share of it that other programs used."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    busy = "" if others is None else f" Other programs used {others:.0%} of the machine meanwhile (median)."
    return (
        f"Measured on {machine['cores']} cores of {machine['processor']}, {machine['system']}, "
        f"Python {machine['python']}, {packages}, {machine['nats-server']}, {machine['wrk']}.{busy}"
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the results; makes the directory if it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_section(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name: begin -->` and `<!-- name: end -->`. Raises `NoPlace`."""
    path.write_text(with_section(path.read_text(), name, text))


def check_section(path: Path, name: str) -> None:
    """Sees that the section can be written. Raises `NoPlace`."""
    try:
        with_section(path.read_text(), name, "")
    except (OSError, NoPlace) as error:
        raise NoPlace(f"{path}: {error}") from None


def with_section(document: str, name: str, text: str) -> str:
    """The document with the section replaced. Raises `NoPlace` unless both marks are there, once each."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(end)
    if document.count(begin) != 1 or rest.count(end) != 1:
        raise NoPlace(f"there must be one {begin} and one {end} after it")
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"
