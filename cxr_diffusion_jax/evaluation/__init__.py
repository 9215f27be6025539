"""Measuring generated images: judges, metrics, statistics, comparison of runs."""
