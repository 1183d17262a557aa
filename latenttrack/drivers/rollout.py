"""A long stream through a model, with the parameters as they are."""

from pathlib import Path

from jaxtyping import Array, Bool, Float, Key

from latenttrack import stream_checks
from latenttrack.interface import Outputs, Params, State, StreamModel
from lowrank_filter.common import checks
from lowrank_filter.common.pieces import scan


def rollout(
    model: StreamModel,
    params: Params,
    key: Key[Array, ""],
    xs: Float[Array, "T x_dim"],
    ys: Float[Array, "T y_dim"],
    state: State | None = None,
    *,
    samples: int = 32,
    mask: Bool[Array, " T"] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
) -> tuple[State, Outputs]:
    """Predict, score, then update, at each step: ``model.rollout``, in pieces that are saved where asked for.

    Args:
        model: any object with ``initial_state`` and ``rollout``; see :class:`StreamModel`.
        params, key: of the model; every piece has the same key, as :func:`build`'s models want it, whose noise follows
            from their state.
        xs, ys, mask: the stream; a masked target is a missing observation.
        state: where to start; by default the model's initial state.
        samples: K components of each prediction.
        checkpoint: a folder; state, position and predictions so far are saved there after each piece, in the
            background, and the same call goes on from there, bit for bit. Not within ``jax.jit``, nor with host
            callbacks in the model, which differ from process to process.
        checkpoint_every: steps in a piece; what is written each time grows with the predictions so far.

    Returns:
        The last state, and :class:`Outputs` of all steps.

    Raises:
        RuntimeError: another run is using the checkpoint folder.
        TypeError: ``checkpoint`` within a traced function.
        ValueError: shapes or options are wrong; the folder holds another run (the message shows what differs), or no
            checkpoint that can be read. One that cannot is named in a warning and the one before it is used.

    Examples:
        >>> model = lt.build(lt.Config(latent_dim=2, hidden_dim=3, prior_samples=2), x_dim=1, y_dim=1)
        >>> params, xs = model.init(jax.random.key(0)), jnp.zeros((5, 1))
        >>> state, outputs = lt.rollout(model, params, jax.random.key(1), xs, xs, samples=2)
        >>> outputs.mean.shape, outputs.log_prob.shape
        ((5, 2, 1), (5,))
    """
    stream_checks.model(model)
    key = checks.key("key", key)
    xs, ys, mask = stream_checks.stream(xs, ys, mask)
    checks.count("samples", samples, minimum=1)
    checks.count("checkpoint_every", checkpoint_every, minimum=1)
    checks.folder("checkpoint", checkpoint)
    state = model.initial_state(params) if state is None else state
    if checkpoint is None:
        return model.rollout(params, key, xs, ys, state, samples, mask)

    def advance(fixed: tuple, state: State, part: tuple) -> tuple[State, Outputs]:
        (params, key), (xs, ys, mask) = fixed, part
        return model.rollout(params, key, xs, ys, state, samples, mask)

    return scan(
        *(advance, (params, key), state, (xs, ys, mask)),
        every=checkpoint_every,
        folder=checkpoint,
        identity={"samples": samples},
        report=lambda done, outputs: None,
    )
