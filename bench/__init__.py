"""Benchmarks of rap beside its peers; see docs/performance.md."""
