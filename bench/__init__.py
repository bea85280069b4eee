"""Benchmarks of rap and of comparable libraries; see docs/performance.md."""
