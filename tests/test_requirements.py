"""The pinned requirements are complete, and install on every Python that we promise."""

from __future__ import annotations

import re
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.servers import ROOT

_OLDEST = re.findall(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text())[0]


def _pins(file: str) -> dict[str, Requirement]:
    lines = (ROOT / file).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def _applies(requirement: Requirement, **environment: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "", **environment})


_RUN = _pins("requirements.txt")
_ALL = {**_RUN, **_pins("requirements-dev.txt")}
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
