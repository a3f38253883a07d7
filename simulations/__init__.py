"""Experiments, one TOML each, and the benchmarks of the library's rooms."""
