"""Belief states in a transformer: next-latent prediction (NextLat, arXiv 2511.05963).

h ─head→ p(x) … ─ψ(h, x)→ h
"""

from latenttrack.next_latent.decode import generate, speculate
from latenttrack.next_latent.dynamics import LatentDynamics
from latenttrack.next_latent.filter import LatentFilter, latent_filter
from latenttrack.next_latent.interface import Decoded, NextLatParams, SequenceModel
from latenttrack.next_latent.objective import nextlat_loss
from latenttrack.next_latent.transformer import TransformerConfig, transformer

__all__ = [
    "Decoded",
    "LatentDynamics",
    "LatentFilter",
    "NextLatParams",
    "SequenceModel",
    "TransformerConfig",
    "generate",
    "latent_filter",
    "nextlat_loss",
    "speculate",
    "transformer",
]
