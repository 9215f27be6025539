"""Sampling: requests, conditions, generation, editing, sweeps."""
