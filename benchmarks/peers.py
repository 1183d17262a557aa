"""Other people's filters and curvatures, where they can be imported; nothing here depends on them.

To compare against one, make it importable (PYTHONPATH, or pip where it is published): rebayes, rebayes-mini, bong and
the LR-LGF authors' code are not on the package index; laplax is.
"""

import importlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from experiments.continual.online.interface import Online

Stream = Callable[[Array, Array, Array], Array]


def available(module: str) -> Any | None:
    """The module, or None where it cannot be imported with this version of JAX."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a peer's import does
        print(f"{module}: not compared, it cannot be imported here ({type(error).__name__}: {error})")
        return None


def rebayes_lofi(network: Callable, *, rank: int, noise: float, prior: float, variance: float) -> Stream | None:
    """rebayes' LO-FI with a diagonal, its predict and update in a scan (its own scan discards the prediction)."""
    lofi = available("rebayes.low_rank_filter.lofi")
    if lofi is None:
        return None

    def run(mean: Array, x: Array, y: Array) -> Array:
        agent = lofi.RebayesLoFiDiagonal(
            dynamics_weights=1.0,
            dynamics_covariance=noise,
            emission_mean_function=network,
            emission_cov_function=lambda params, x: variance * jnp.eye(y.shape[1]),
            memory_size=rank,
        )

        def step(belief: Any, example: tuple[Array, Array]) -> tuple[Any, None]:
            return agent.update_state(agent.predict_state(belief), *example), None

        return jax.lax.scan(step, agent.init_bel(mean, 1 / prior), (x, y))[0].mean

    return run


def bong_dlr(network: Callable, *, rank: int, noise: float, prior: float, variance: float) -> Stream | None:
    """bong's linearised diagonal-plus-low-rank filter with the full Fisher matrix."""
    bong = available("bong.src.bong")
    if bong is None:
        return None

    def run(mean: Array, x: Array, y: Array) -> Array:
        agent = bong.dlrg_bong(
            mean,
            1 / prior,
            log_likelihood=None,
            emission_mean_function=network,
            emission_cov_function=lambda params, x: variance * jnp.eye(y.shape[1]),
            process_noise=noise,
            linplugin=True,
            rank=rank,
        )

        def step(belief: Any, example: tuple[Array, Array]) -> tuple[Any, None]:
            return agent.update(jax.random.key(0), agent.predict(belief), *example), None

        return jax.lax.scan(step, agent.init(), (x, y))[0].mean

    return run


def rebayes_mini(network: Callable, rank: int, settings: Mapping[str, Mapping[str, float]]) -> dict[str, Online]:
    """The authors' LO-FI, LRKF, HiLoFi and LoLoFi for labels as Gaussians of the same moments, where they import."""
    names = ("low_rank_filter", "low_rank_filter_revised", "low_rank_last_layer")
    lofi, lrkf, last_layer = (available(f"rebayes_mini.methods.{name}") for name in names)
    if lofi is None or lrkf is None or last_layer is None:
        return {}

    def probabilities(params: Any, x: Array) -> Array:
        body, head = params["params"]["body"], params["params"]["last_layer"]
        return jax.nn.softmax(network({"params": {"body": body, "head": head}}, x[None])[0])

    def around(epsilon: float) -> Callable[[Array], Array]:
        return lambda p: jnp.diag(p) - jnp.outer(p, p) + epsilon * jnp.eye(len(p))

    def online(agent: Any, **start: Any) -> Online:
        def init(params: Any, first: Any) -> Any:
            parts = params["params"]
            return agent.init_bel({"params": {"body": parts["body"], "last_layer": parts["head"]}}, **start)

        def update(state: Any, x: Array, y: Array) -> tuple[Any, Array]:
            target = jax.nn.one_hot(y[0], len(agent.predict_fn(state, x[0])))
            return agent.update(agent.predict(state), target, x[0]), jnp.zeros((), bool)

        return Online(
            init,
            lambda state, x: agent.predict_fn(state, x[0])[None],
            update,
            lambda state, key, x: agent.sample_fn(key, state)(x[0])[None],
        )

    def parts(name: str, rank_last: int | None) -> Online:
        noise, epsilon = settings[name]["process_noise"], settings[name]["epsilon"]
        return online(last_layer.LowRankLastLayer(probabilities, around(epsilon), rank, noise, noise, rank_last))

    noise, epsilon = settings["lrkf"]["process_noise"], settings["lrkf"]["epsilon"]
    plain = settings["lofi_stream"]
    return {
        # Its draws build a matrix [D, D].
        "LO-FI, authors": online(
            lofi.LowRankPrecisionFilter(probabilities, around(plain["epsilon"]), plain["process_noise"], rank),
            cov=1 / plain["precision"],
        )._replace(draw=None),
        "LRKF, authors": online(lrkf.LowRankCovarianceFilter(probabilities, around(epsilon), noise, rank)),
        "HiLoFi, authors": parts("hilofi", None),
        # Its draws take as many directions as the last layer has parameters.
        "LoLoFi, authors": parts("lolofi", rank)._replace(draw=None),
    }


def laplax_eigenvalues(
    network: Callable, params: Any, x: Array, rank: int, exact: np.ndarray
) -> dict[str, Callable[[Any, Array, Array], Array]]:
    """laplax' Lanczos and LOBPCG, jitted, as shipped and with as many iterations as 1e-3 takes."""
    names = ("laplax.curv.ggn", "laplax.curv.lanczos", "laplax.curv.lobpcg", "laplax.util.flatten")
    ggn, lanczos, lobpcg, flattening = map(available, names)
    if ggn is None or lanczos is None or lobpcg is None or flattening is None:
        return {}
    flatten, unflatten = flattening.create_pytree_flattener(params)
    size = flatten(params).size

    def eigenvalues(method: Callable, vectors: int) -> Callable:
        def run(params: Any, x: Array, y: Array) -> Array:
            product = ggn.create_ggn_mv(
                lambda input, params: network(params, input[None])[0],
                params,
                {"input": x, "target": y},
                loss_fn="cross_entropy",
                num_curv_samples=1,
                num_total_samples=1,
            )
            flat = flattening.wrap_function(product, input_fn=unflatten, output_fn=flatten)
            terms = method(
                flat, key=jax.random.key(0), layout=size, rank=vectors, calc_dtype=jnp.float32, return_dtype=jnp.float32
            )
            return terms.S

        return jax.jit(run)

    found = {"laplax Lanczos, 20 iterations": eigenvalues(lanczos.lanczos_lowrank, rank)}
    labels = jnp.zeros(len(x), int)
    for vectors in range(rank + 5, 4 * rank, 5):
        accurate = eigenvalues(lanczos.lanczos_lowrank, vectors)
        values = np.sort(np.asarray(accurate(params, x, labels)))[::-1][:rank]
        if np.abs(values / exact - 1).max() < 1e-3:
            found[f"laplax Lanczos, {vectors} iterations"] = accurate
            break
    found["laplax LOBPCG"] = eigenvalues(lobpcg.lobpcg_lowrank, rank)
    return found


def authors_update(network: Callable, params: Any, rank: int) -> Callable[[Any, Array, Array], Any] | None:
    """The LR-LGF authors' task update: Jacobians and Hessians of a batch, then a truncated SVD on the host."""
    module = available("utils.DiagLowRank")
    if module is None:
        return None
    flat, unravel = ravel_pytree(params)
    module.GlobalRegistry.set_config(types.SimpleNamespace(LAMBDA_INIT=1.0))

    @jax.jit
    def ggn(theta: Array, x: Array) -> tuple[Array, Array]:
        def outputs(theta: Array, image: Array) -> Array:
            return network(unravel(theta), image[None])[0]

        logits = jax.vmap(outputs, in_axes=(None, 0))(theta, x)
        hessian = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(jax.nn.softmax(logits))
        return jax.vmap(jax.jacrev(outputs), in_axes=(None, 0))(theta, x), hessian

    def run(params: Any, x: Array, y: Array) -> Any:
        jacobians, hessians = ggn(ravel_pytree(params)[0], x)
        belief = module.Diag_LowRank(flat.size, rank)
        belief.add_low(np.asarray(jacobians), np.asarray(hessians), 1.0, 0)
        return belief.Pi_t[1]

    return run
