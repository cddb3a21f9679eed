"""Benchmarks of the gateway: `benchmarks/run --help`. What they measure and how: `docs/performance.md`."""
