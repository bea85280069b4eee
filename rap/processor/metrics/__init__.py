"""Metrics of calls."""
