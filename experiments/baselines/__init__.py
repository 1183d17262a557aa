"""Models of a stream to compare a latent filter with, all behind the interface of ``latenttrack.StreamModel``."""
