"""Outputs for strategies: predictions, passes with dropout, networks trained for a query."""
