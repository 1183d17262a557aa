"""LatentTrack: a recurrent latent state that generates the weights of a predictor (arXiv 2602.00458)."""
