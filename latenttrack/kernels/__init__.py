"""One step of the latent filter, its rollout and its loss."""
