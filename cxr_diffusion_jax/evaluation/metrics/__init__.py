"""Figures of sets of images: fidelity, diversity, privacy, utility."""
