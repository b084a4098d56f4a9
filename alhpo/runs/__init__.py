"""Runs and tunings of labelled pools: their settings, the order of a cycle, their records."""
