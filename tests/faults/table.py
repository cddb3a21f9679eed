"""All faults, in the order of the table in docs/reliability.md."""

from __future__ import annotations

from tests.faults import broker_faults, gateway_faults, load_faults, stream_faults

FAULTS = [*broker_faults.FAULTS, *stream_faults.FAULTS, *gateway_faults.FAULTS, *load_faults.FAULTS]
