"""The form of a filter's precision, as one choice."""

import math
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import ArrayLike

import lowrank_filter as lf
from experiments.continual.networks import Network

Tree = Any
Form = Literal["network", "layer", "unit", "kronecker"]
FORMS: tuple[Form, ...] = ("network", "layer", "unit", "kronecker")


class Structure(NamedTuple):
    """Diagonal plus ``rank`` directions of the network, each layer or each unit; or Kronecker factors of a layer."""

    form: Form
    rank: int = 0

    def prior(self, params: Tree, precision: ArrayLike) -> lf.Belief:
        """The belief before any data."""
        if self.form == "kronecker":
            return lf.init(params, precision, structure="kronecker")
        return lf.init(params, precision, rank=self.rank, structure=self.form)

    def bytes(self, network: Network) -> int:
        """Memory of one belief."""
        belief = jax.eval_shape(lambda key: self.prior(network.init(key), 1.0), jax.random.key(0))
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(belief))
