"""The files that deploy the gateway: they hold what the README promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import ROOT, Gateway, free_port

_INSTRUCTIONS = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def _all(instruction: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in _INSTRUCTIONS if line.startswith(f"{instruction} ")]


def _result() -> list[str]:
    """The instructions of the last stage."""
    last = max(number for number, line in enumerate(_INSTRUCTIONS) if line.startswith("FROM "))
    return _INSTRUCTIONS[last:]


def _healthcheck() -> list[str]:
    command: list[str] = json.loads(_all("HEALTHCHECK")[0].partition("CMD ")[2])
    return command


def test_the_image_has_two_slim_stages_of_the_python_we_name() -> None:
    """What builds is not in the result."""
    version = (ROOT / ".python-version").read_text().strip()
    assert _all("FROM") == [f"python:{version}-slim AS build", f"python:{version}-slim"]


def test_the_result_has_no_tools_to_build_or_install_with() -> None:
    """No compiler comes in, pip goes out, and the packages come from the first stage."""
    result = "\n".join(_result())
    assert not re.search(r"apt-get|apk |gcc|pip install", result)
    assert "pip uninstall --yes" in result
    assert "COPY --from=build /venv /venv" in result


def test_the_image_runs_as_user_10001() -> None:
    """By number, so that `runAsNonRoot` can tell; after everything that needs root."""
    assert _all("USER") == ["10001"]
    assert not [line for line in _result()[_result().index("USER 10001") :] if line.startswith(("RUN", "COPY", "ADD"))]


def test_the_image_holds_what_the_gateway_imports() -> None:
    """Everything copied exists, and .dockerignore lets it through."""
    sources = {word for line in _all("COPY") if not line.startswith("--from") for word in line.split()[:-1]}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == allowed == {"requirements.txt", "wsgi.py", "gunicorn.conf.py", "proxy", "schemas"}
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_writes_no_bytecode_and_listens_on_all_addresses() -> None:
    """A read-only file system is fine; 127.0.0.1 of a container reaches nobody."""
    settings = dict(word.split("=", 1) for word in _all("ENV")[0].split())
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    assert settings["HTTP_HOST"] == "0.0.0.0"
    assert "DATA_DIR" not in settings, "the refusal of platforms whose disk forgets depends on it"


def test_image_and_procfile_start_the_same() -> None:
    """gunicorn reads gunicorn.conf.py in its working directory."""
    assert json.loads(_all("CMD")[0]) == ["gunicorn", "wsgi:app"]
    assert (ROOT / "Procfile").read_text() == "web: gunicorn wsgi:app\n"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HTTP_PORT", "PORT"])
def test_the_health_check_asks_the_gateway(gateway: Callable[..., Gateway], tmp_path: Path, variable: str) -> None:
    """Healthy while it answers, unhealthy when nothing does."""
    assert "/monitoring/status" in " ".join(_healthcheck())
    port = str(free_port())
    running = gateway({variable: port, "DATA_DIR": str(tmp_path / "kept")}, app="tests.standin:app").start()
    check = [sys.executable, *_healthcheck()[1:]]
    env = {variable: port, "http_proxy": "http://127.0.0.1:1"}
    assert subprocess.run(check, env=env, timeout=10).returncode == 0
    running.stop()
    assert subprocess.run(check, env=env, timeout=10, capture_output=True).returncode != 0


@pytest.mark.parametrize("script", ["run", "test", "check", "setup", "faults"])
def test_scripts_are_executable_and_sound(script: str) -> None:
    """They stop at the first failure."""
    path = ROOT / "scripts" / script
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True, timeout=10)
