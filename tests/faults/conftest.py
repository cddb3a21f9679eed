"""One cluster for all faults that leave it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nats-servers."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def lasting(request: pytest.FixtureRequest) -> Callable[[], set[int]]:
    """The servers of the cluster, which faults restart."""
    if "cluster" not in request.fixturenames:
        return set
    cluster: Cluster = request.getfixturevalue("cluster")
    return lambda: {server.pid for server in cluster.running()}
