"""Trials that are trained in processes, several at a time."""
