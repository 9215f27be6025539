"""Building, running, checkpointing and resuming a training run."""
