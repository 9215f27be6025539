"""Training an autoencoder of the project's own, by the loop of the denoiser."""
