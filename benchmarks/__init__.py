"""Reproducible comparisons: ``python -m benchmarks.NAME [--quick]``."""
