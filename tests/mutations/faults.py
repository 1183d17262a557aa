"""Seeded faults: a sign, an index, a missing mask, a wrong axis; and the tests that ought to see them."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One replacement in a file, and the tests to run, as pytest takes them."""

    file: str
    old: str
    new: str
    tests: str


ALGEBRA = "tests/lowrank_filter/test_algebra_properties.py tests/lowrank_filter/test_sampling.py"
UPDATE = "tests/lowrank_filter/test_update.py tests/lowrank_filter/test_conditioning.py"
GUARDED = "tests/lowrank_filter/test_guarded_update.py tests/lowrank_filter/test_evidence.py"
MASKS = "tests/lowrank_filter/test_masking.py tests/lowrank_filter/test_weights.py"
LIKELIHOODS = "tests/lowrank_filter/test_likelihoods.py"
SMOOTH = "tests/lowrank_filter/test_smooth.py tests/lowrank_filter/test_dynamax.py"
LAPLACE = "tests/lowrank_filter/test_laplace.py tests/lowrank_filter/test_structures.py"
TRUNCATION = "tests/lowrank_filter/test_truncation.py tests/lowrank_filter/test_algebra.py"
LATENT = "tests/latenttrack/test_kernels.py tests/latenttrack/test_rollout.py"
FORECAST = "tests/latenttrack/test_forecast.py tests/latenttrack/test_metrics.py"
GAUSSIAN = "tests/latenttrack/gaussian_process"
TOKENS = "tests/latenttrack/next_latent"

LOW_RANK = "lowrank_filter/algebra/diag_low_rank.py"
KRONECKER = "lowrank_filter/algebra/kronecker.py"
MODEL = "latenttrack/tracking/model.py"

FAULTS = {
    "solve-sign": Fault(LOW_RANK, "(v - w) / d, vector, low_rank", "(v + w) / d, vector, low_rank", ALGEBRA),
    "matvec-diagonal": Fault(LOW_RANK, "d * v + w, self.diag", "v + w, self.diag", ALGEBRA),
    "whiten-root": Fault(LOW_RANK, "v - w * r, scaled", "v - w, scaled", ALGEBRA),
    "logdet-sign": Fault(
        LOW_RANK, "tree.total(jnp.log, self.diag) + small", "tree.total(jnp.log, self.diag) - small", ALGEBRA
    ),
    "leverage": Fault(LOW_RANK, "jnp.maximum(1 - leverage, ", "jnp.maximum(1 + leverage, ", ALGEBRA),
    "draw-scale": Fault(LOW_RANK, "d.dtype) / jnp.sqrt(d)", "d.dtype) / d", ALGEBRA),
    "propagate-transition": Fault(LOW_RANK, "a * r * w, shrink", "r * w, shrink", ALGEBRA),
    "retrodict-square": Fault(LOW_RANK, "a * a * d, transition", "a * d, transition", f"{SMOOTH} {ALGEBRA}"),
    "gain-noise": Fault(LOW_RANK, "x - q * r * w, scaled", "x - r * w, scaled", SMOOTH),
    "shrink-square": Fault(LOW_RANK, "1 / (a * a + q * d)", "1 / (a + q * d)", ALGEBRA),
    "prior-weight": Fault(LOW_RANK, "s * s / d, scale, diag", "s / d, scale, diag", UPDATE),
    "residual-sign": Fault(LOW_RANK, "jnp.maximum(h - w, 0)", "jnp.maximum(h + w, 0)", f"{LAPLACE} {TRUNCATION}"),
    "kronecker-propagate": Fault(KRONECKER, "s / (a * a + q * s)", "s / (a * a + s)", ALGEBRA),
    "kronecker-retrodict": Fault(KRONECKER, "a * a * s / (1 + q * s)", "a * s / (1 + q * s)", f"{SMOOTH} {ALGEBRA}"),
    "kronecker-gain": Fault(KRONECKER, "a / (a * a + q * s)", "1 / (a * a + q * s)", f"{SMOOTH} {ALGEBRA}"),
    "kronecker-transpose": Fault(KRONECKER, '"uni,unj->ij"', '"uni,vnj->ij"', f"{LAPLACE} {UPDATE}"),
    "kronecker-whiten": Fault(KRONECKER, "part.into(x) * jax.lax.rsqrt", "part.into(x) / jax.lax.rsqrt", ALGEBRA),
    "krylov-order": Fault(
        "lowrank_filter/algebra/krylov.py", "vectors.T[::-1][:rank], pulled", "vectors.T[:rank], pulled", LAPLACE
    ),
    "krylov-scale": Fault("lowrank_filter/algebra/krylov.py", "v * (s * s), pulled", "v * s, pulled", LAPLACE),
    "smooth-step": Fault("lowrank_filter/kernels/smooth.py", "noise_at(step + 1)", "noise_at(step)", SMOOTH),
    "smooth-innovation": Fault(
        "lowrank_filter/kernels/smooth.py",
        "jax.tree.map(jnp.subtract, next_mean, ahead)",
        "jax.tree.map(jnp.subtract, next_mean, belief.mean)",
        SMOOTH,
    ),
    "smooth-reverse": Fault("lowrank_filter/kernels/smooth.py", "reverse=True", "reverse=False", SMOOTH),
    "line-search-cross": Fault(
        "lowrank_filter/kernels/line_search.py", "2 * t * (1 - t) * across", "t * (1 - t) * across", GUARDED
    ),
    "plain-sign": Fault(
        "lowrank_filter/kernels/update.py",
        "jax.tree.map(jnp.subtract, problem.mean, correction.step)\n    if",
        "jax.tree.map(jnp.add, problem.mean, correction.step)\n    if",
        UPDATE,
    ),
    "mask-of-targets": Fault("lowrank_filter/kernels/expansion.py", "jnp.where(columns, score, 0)", "score", MASKS),
    "weights-root": Fault(
        "lowrank_filter/kernels/expansion.py",
        "scale * jnp.sqrt(batch.weights.astype(outputs.dtype))",
        "scale * batch.weights.astype(outputs.dtype)",
        MASKS,
    ),
    "categorical-root": Fault(
        "lowrank_filter/kernels/likelihoods.py",
        "jnp.diag(jnp.sqrt(p)) - jnp.outer(p, jnp.sqrt(p))",
        "jnp.diag(jnp.sqrt(p)) - jnp.outer(jnp.sqrt(p), p)",
        LIKELIHOODS,
    ),
    "label-range": Fault(
        "lowrank_filter/kernels/likelihoods.py", "(target < outputs)", "(target <= outputs)", LIKELIHOODS
    ),
    "gaussian-normaliser": Fault(
        "lowrank_filter/kernels/likelihoods.py",
        "0.5 * (jnp.log(self._variances(output)) + LOG_2PI)",
        "0.5 * (jnp.log(self._variances(output)) - LOG_2PI)",
        LIKELIHOODS,
    ),
    "gru-gate": Fault(
        "latenttrack/algebra/recurrence.py", "update * hidden + (1 - update)", "(1 - update) * hidden + update", LATENT
    ),
    "gru-backward": Fault("latenttrack/algebra/recurrence.py", "(before - candidate) * update", "update", LATENT),
    "mixture-count": Fault(
        "latenttrack/algebra/gaussian.py",
        "logsumexp(log_densities, axis=-1) - jnp.log",
        "logsumexp(log_densities, axis=-1) + jnp.log",
        f"{LATENT} {FORECAST}",
    ),
    "divergence-spread": Fault(
        "latenttrack/algebra/gaussian.py",
        "jnp.square(mean - prior_mean) + spread",
        "jnp.square(mean - prior_mean)",
        LATENT,
    ),
    "prior-root": Fault(MODEL, "moved @ moved.T + jnp.diag", "moved.T @ moved + jnp.diag", LATENT),
    "draw-transpose": Fault(MODEL, "second @ state.root.T) @ step", "second @ state.root) @ step", LATENT),
    "missed-state": Fault(MODEL, "state.missed + 1, state.summary, mean", "state.missed, state.summary, mean", LATENT),
    "score-mask": Fault(MODEL, "jnp.where(counts, score, jnp.nan)", "score", LATENT),
    "forecast-frozen": Fault(
        "latenttrack/drivers/forecast.py",
        "return ahead(y[None], state)[0], y",
        "return ahead(nothing, state, mask=jnp.zeros(1, bool))[0], y",
        FORECAST,
    ),
    "gaussian-process-update": Fault(
        "latenttrack/gaussian_process/steps.py",
        "self.innovation**2 / (1 + self.excess)",
        "self.innovation**2",
        GAUSSIAN,
    ),
    "next-latent-head": Fault(
        "latenttrack/next_latent/objective.py", '"law": jax.lax.stop_gradient(law)', '"law": law', TOKENS
    ),
}
