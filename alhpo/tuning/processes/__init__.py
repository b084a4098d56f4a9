"""Trials that are trained in processes, several at a time."""

from alhpo.tuning.processes.process import TrialProcesses

__all__ = ["TrialProcesses"]
