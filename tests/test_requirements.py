"""The pinned requirements are complete, have hashes, and install on every Python that we promise."""

from __future__ import annotations

import re
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.servers import ROOT

_OLDEST = re.findall(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text())[0]


def _lines(file: str) -> list[str]:
    """The requirements of a file, one a line, with their hashes behind them."""
    text = re.sub(r"\s*#.*", "", (ROOT / file).read_text()).replace("\\\n", " ")
    return [line for line in text.splitlines() if line]


def _requirements(file: str) -> dict[str, Requirement]:
    requirements = [Requirement(line.partition(" --hash")[0]) for line in _lines(file) if not line.startswith("-")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def _applies(requirement: Requirement, **environment: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "", **environment})


_RUN, _DEV = _requirements("requirements.txt"), _requirements("requirements-dev.txt")
_ALL = {**_RUN, **_DEV}
_HERE = [name for name, requirement in _ALL.items() if _applies(requirement)]


@pytest.mark.parametrize("name", _HERE)
def test_a_package_is_pinned_and_installed_so(name: str) -> None:
    """What runs here is what the file says, with one exact version."""
    assert str(_ALL[name].specifier) == f"=={distribution(name).version}"


@pytest.mark.parametrize("name", _HERE)
def test_what_a_package_needs_is_pinned_too(name: str) -> None:
    """On the oldest Python as well; what only tests need stays out of the image."""
    pins = _RUN if name in _RUN else _ALL
    for needed in map(Requirement, distribution(name).requires or []):
        if _applies(needed) or _applies(needed, python_version=_OLDEST, python_full_version=f"{_OLDEST}.0"):
            assert canonicalize_name(needed.name) in pins, needed


@pytest.mark.parametrize("name", _HERE)
def test_a_package_installs_on_the_oldest_python(name: str) -> None:
    """A pin that needs a newer one breaks the first command of the README there."""
    versions = distribution(name).metadata["Requires-Python"]
    assert SpecifierSet(versions or "").contains(f"{_OLDEST}.0")


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_line_is_a_package_with_hashes(file: str) -> None:
    """One is enough for pip to demand them of all; an option, as that of another index, is not there."""
    for line in _lines(file):
        assert re.fullmatch(r"[\w.-]+==[^ ]+( ; [^\\]*?)?( +--hash=sha256:[0-9a-f]{64})+ *", line), line


@pytest.mark.parametrize(("source", "pins"), [("requirements.in", _RUN), ("requirements-dev.in", _ALL)])
def test_what_is_asked_for_is_pinned(source: str, pins: dict[str, Requirement]) -> None:
    """The files of hashes are those that belong to what is asked for."""
    for name, requirement in _requirements(source).items():
        assert name in pins
        assert requirement.specifier.contains(str(pins[name].specifier).removeprefix("==")), name


def test_both_files_pin_the_same() -> None:
    """What the gateway runs on is what is tested."""
    assert all(_RUN[name].specifier == _DEV[name].specifier for name in _RUN.keys() & _DEV.keys())


def test_the_pins_are_made_for_the_oldest_python() -> None:
    """Otherwise what only that one needs would be missing."""
    assert f'python-version = "{_OLDEST}"' in (ROOT / "pyproject.toml").read_text()
