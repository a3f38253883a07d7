"""Benchmarks: each prints a table beside its peers and writes its figures to results/."""
