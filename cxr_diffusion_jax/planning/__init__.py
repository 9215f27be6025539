"""Plans a run: memory, FLOPs, traffic and time on machines that are not here."""
