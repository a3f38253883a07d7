"""From an experiment to its folder: setting, plan, run, outcome, reports."""
