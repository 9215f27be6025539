"""Stand-in encoders, trained on the user's own images."""
