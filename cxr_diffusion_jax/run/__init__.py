"""A run: its config, dataset card, parameters and checkpoints."""
