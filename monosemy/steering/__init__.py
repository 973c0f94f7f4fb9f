"""Steering a language model with the latents of a sparse autoencoder, and measuring what that does."""
