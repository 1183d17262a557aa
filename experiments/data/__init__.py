"""Image sets the experiments learn from: located or downloaded, verified, and scaled to [0, 1]."""
