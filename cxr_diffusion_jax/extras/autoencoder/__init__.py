"""Training an autoencoder of grey X-rays with the loop of the denoiser."""
