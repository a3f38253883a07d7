"""Hazards of a real fleet, run over real processes, and what became of the run under each."""
