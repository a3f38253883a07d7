"""``python -m fedprune.cli``."""

from fedprune.cli.main import main

main()
