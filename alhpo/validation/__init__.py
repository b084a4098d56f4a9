"""Validation schemes, weights against selection bias, and which configuration is best."""
