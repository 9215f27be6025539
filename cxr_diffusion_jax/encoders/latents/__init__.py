"""Latent columns of autoencoders."""
