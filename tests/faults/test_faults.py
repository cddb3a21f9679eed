"""Each fault in its short form: what was acknowledged is in the stream, once; and no answer was a lie, or late."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.scene import Fault, cluster_for, play
from tests.faults.table import FAULTS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.run.__name__)
def test_a_fault_costs_no_acknowledged_message(fault: Fault, cluster: Cluster, tmp_path: Path) -> None:
    """Nothing lost, doubled or misstated; expected statuses alone, none too late; recovery and memory in bounds."""
    with cluster_for(fault, cluster, tmp_path / "own") as brokers:
        outcome = play(fault, brokers, tmp_path / "gateway")
    assert outcome.wrong == {}
    assert outcome.verdict.acknowledged
