"""Experiments: baselines, estimates, and tables of results."""
