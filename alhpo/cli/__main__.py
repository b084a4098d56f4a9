"""``python -m alhpo.cli``."""

from alhpo.cli import run_main

run_main()
