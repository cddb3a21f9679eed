"""The files in `DATA_DIR`: the secret that it keeps, and what is made of files that cannot be used."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.brokers import embedded
from proxy.errors import BadSetting, BrokerAway


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """Eight that ask at once get the same 32 random bytes, and so does who comes later."""
    data_dir = tmp_path / "data"
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(embedded.kept_secret, [data_dir] * 8))
    assert secrets == {embedded.kept_secret(data_dir)}
    assert len(secrets.pop()) == 43
    assert [path.name for path in data_dir.iterdir()] == ["jwt-secret"]
    assert (data_dir / "jwt-secret").stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o777 == 0o700


def test_a_secret_that_has_been_emptied_is_refused(tmp_path: Path) -> None:
    """Nothing could be signed with it."""
    (tmp_path / "jwt-secret").touch()
    with pytest.raises(BadSetting, match=r"DATA_DIR must be a directory where secrets can be kept; .*/jwt-secret"):
        embedded.kept_secret(tmp_path)


def test_a_full_disk_leaves_no_half_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would gather, with parts of secrets in them."""

    def fill(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(BadSetting):
        embedded.kept_secret(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_each_directory_has_a_secret_of_its_own(tmp_path: Path) -> None:
    """Two gateways do not share one by chance."""
    assert embedded.kept_secret(tmp_path / "a") != embedded.kept_secret(tmp_path / "b")


def test_a_directory_of_another_user_has_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `broker.json` must not be read, nobody can say that a broker runs."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BrokerAway, match="not running"):
        embedded.address(tmp_path)
