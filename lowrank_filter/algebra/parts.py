"""Precisions made of one for each part of the parameters, and parameters that are in none."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lowrank_filter.algebra import blocks, full_matrix, kronecker, saving, tree
from lowrank_filter.algebra.correction import PredictedFirst, correction
from lowrank_filter.algebra.diag_low_rank import DiagLowRank
from lowrank_filter.algebra.example_gradients import Columns, Stack
from lowrank_filter.algebra.partition import layout
from lowrank_filter.algebra.precision import Correction, Curvature, Misfit, Precision, Projection
from lowrank_filter.algebra.structures import (
    NAMES,
    Dense,
    Diagonal,
    Frozen,
    KroneckerFactored,
    LowRank,
    Structure,
    is_structure,
)
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import Policy
from lowrank_filter.common import checks
from lowrank_filter.common.registered import registered

_FROZEN = -1


@dataclasses.dataclass(frozen=True)
class Membership:
    """Which parameters belong to which part. Static and hashable.

    A part's vector is the whole tree with None in place of what is not in it, so that paths stay what they are. A
    vector of *learned* parameters has None where they are frozen.

    Attributes:
        structure: of the parameters' tree, a None in it counted as a leaf.
        owners: for each leaf the number of its part, −1 where it is frozen.
        shapes, dtypes: of the leaves.
    """

    structure: Any
    owners: tuple[int, ...]
    shapes: tuple[Any, ...]
    dtypes: tuple[Any, ...]

    def __reduce__(self) -> tuple:
        """By an example of the structure, since JAX's own description of one cannot be saved whole."""
        example = jax.tree.unflatten(self.structure, range(len(self.owners)))
        return _restored, (example, self.owners, self.shapes, self.dtypes)

    def __deepcopy__(self, _: Any) -> Self:
        """Nothing in it changes."""
        return self

    @property
    def frozen(self) -> bool:
        """Whether some parameters are."""
        return any(o == _FROZEN and s is not None for o, s in zip(self.owners, self.shapes, strict=True))

    def like(self) -> Tree:
        """The shapes of the parameters."""
        shapes = [
            None if s is None else jax.ShapeDtypeStruct(s, d) for s, d in zip(self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, shapes)

    def pick(self, vector: Tree, part: int) -> Tree:
        """One part of a vector."""
        return self._where(vector, lambda owner: owner == part)

    def learned(self, vector: Tree) -> Tree:
        """What is not frozen of a vector."""
        return self._where(vector, lambda owner: owner != _FROZEN)

    def still(self, vector: Tree) -> Tree:
        """What is frozen of a vector."""
        return self._where(vector, lambda owner: owner == _FROZEN)

    def join(self, parts: Sequence[Tree]) -> Tree:
        """A vector of learned parameters from its parts."""
        leaves = [self.structure.flatten_up_to(part) for part in parts]
        owned = [None if o == _FROZEN else leaves[o][n] for n, o in enumerate(self.owners)]
        return jax.tree.unflatten(self.structure, owned)

    def filled(self, learned: Tree, whole: Tree) -> Tree:
        """A vector of learned parameters with the frozen ones of another."""
        pairs = zip(self.structure.flatten_up_to(learned), self.structure.flatten_up_to(whole), strict=True)
        return jax.tree.unflatten(self.structure, [b if a is None else a for a, b in pairs])

    def _where(self, vector: Tree, wanted: Callable[[int], bool]) -> Tree:
        leaves = self.structure.flatten_up_to(vector)
        return jax.tree.unflatten(
            self.structure, [leaf if wanted(owner) else None for leaf, owner in zip(leaves, self.owners, strict=True)]
        )


def _restored(example: Tree, *rest: Any) -> Membership:
    return Membership(jax.tree.structure(example), *rest)


@registered
@dataclasses.dataclass(frozen=True)
class Parts(PredictedFirst):
    """P with the precision of each part on its diagonal and nothing beside them; frozen parameters are in none.

    Attributes:
        parts: a precision for each part.
        membership: which parameters they are; static.
    """

    parts: tuple[Precision, ...]
    membership: Membership = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        """Its size and kinds, no numbers."""
        return f"Parts({', '.join(map(repr, self.parts))}{', some frozen' if self.membership.frozen else ''})"

    @property
    def rank(self) -> int:
        """The number of directions of all parts together."""
        return sum(part.rank for part in self.parts)

    def in_structure(self, name: str, value: Tree, like: Tree) -> tuple[Any, ...]:
        """What each part makes of it."""
        return tuple(part.in_structure(name, value, own) for part, own in self._with(like))

    def check_dynamics(self, name: str, value: Tree, like: Tree) -> None:
        """What a part has no room for."""
        for part, own in self._with(like):
            check = getattr(part, "check_dynamics", None)
            if check is not None:
                check(name, value, own)

    def check(self, vector: Tree | None = None, *, positive: bool = True, name: str = "vector") -> None:
        """Parts that are precisions, and a vector shaped like all parameters."""
        for part in self.parts:
            part.check(positive=positive)
        if vector is not None:
            checks.same_shapes(name, vector, self.membership.like())

    def matvec(self, vector: Tree) -> Tree:
        """P v of each part."""
        return self.membership.join([part.matvec(own) for part, own in self._with(vector)])

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """The sum over the parts."""
        return _sum(part.quadratic(own) for part, own in self._with(vector))

    def solve(self, vector: Tree) -> Tree:
        """P⁻¹ v of each part."""
        return self.membership.join([part.solve(own) for part, own in self._with(vector)])

    def whiten(self, vector: Tree) -> Tree:
        """R v of each part."""
        return self.membership.join([part.whiten(own) for part, own in self._with(vector)])

    def logdet(self) -> Float[Array, ""]:
        """The sum over the parts."""
        return _sum(part.logdet() for part in self.parts)

    def logdet_over(self, before: Self) -> Float[Array, ""]:
        """The sum over the parts."""
        return _sum(part.logdet_over(old) for part, old in zip(self.parts, before.parts, strict=True))

    def inverse_diagonal(self) -> Tree:
        """Of each part."""
        return self.membership.join([part.inverse_diagonal() for part in self.parts])

    def draw(self, key: Key[Array, ""], count: int) -> Tree:
        """Independent draws for each part."""
        keys = jax.random.split(key, len(self.parts))
        return self.membership.join([part.draw(k, count) for part, k in zip(self.parts, keys, strict=True)])

    def propagate(self, noise: Any, transition: Any) -> Self:
        """Each part."""
        return self._replaced(p.propagate(q, a) for p, q, a in zip(self.parts, noise, transition, strict=True))

    def retrodict(self, noise: Any, transition: Any) -> Self:
        """Each part."""
        return self._replaced(p.retrodict(q, a) for p, q, a in zip(self.parts, noise, transition, strict=True))

    def smoothing_gain(self, vector: Tree, noise: Any, transition: Any) -> Tree:
        """Of each part."""
        dynamics = zip(self._with(vector), noise, transition, strict=True)
        return self.membership.join([part.smoothing_gain(own, q, a) for (part, own), q, a in dynamics])

    def project(self, columns: Columns, *, noise: Any = None, transition: Any = None) -> Projection:
        """All together."""
        if len(self.parts) == 1:
            return self.parts[0].project(columns, **_of_one(noise, transition))
        return super().project(columns, noise=noise, transition=transition)

    def covariances(self, columns: Columns) -> Float[Array, "B n n"]:
        """As its one part has them, or of whitened columns."""
        return self.parts[0].covariances(columns) if len(self.parts) == 1 else super().covariances(columns)

    def condition(
        self,
        columns: Columns,
        target: Float[Array, " n"],
        *,
        noise: Any = None,
        transition: Any = None,
        projection: Projection | None = None,
    ) -> tuple[Self, Self, Correction, Misfit]:
        """Data couple the parts: the correction is that of all together. Each part takes its rows of the columns."""
        if len(self.parts) == 1:
            dynamics = _of_one(noise, transition)
            kept, site, step, misfit = self.parts[0].condition(columns, target, **dynamics, projection=projection)
            return self._replaced((kept,)), self._replaced((site,)), step, misfit
        return super().condition(columns, target, noise=noise, transition=transition, projection=projection)

    def _condition(self, columns: Columns, target: Float[Array, " n"]) -> tuple[Self, Self, Correction, Misfit]:
        stack, nothing = columns.stack(), jnp.zeros_like(target)
        each = (part.condition(Stack(own), nothing) for part, own in self._with(stack))
        kept, sites, _, misfits = zip(*each, strict=True)
        return self._replaced(kept), self._replaced(sites), correction(self, stack, target), _together(misfits)

    def approximate(self, curvature: Curvature, *, iterations: int | None) -> tuple[Self, Misfit]:
        """Each part's diagonal block of the curvature."""

        def within(number: int) -> Curvature:
            if len(self.parts) == 1:
                return curvature
            return curvature.within(functools.partial(self.membership.pick, part=number), self.membership.filled)

        each = (part.approximate(within(number), iterations=iterations) for number, part in enumerate(self.parts))
        sites, misfits = zip(*each, strict=True)
        return self._replaced(sites), _together(misfits)

    def add(self, other: Self, *, reference: Self | None = None) -> tuple[Self, Misfit]:
        """The sum of each part."""
        measures = (None,) * len(self.parts) if reference is None else reference.parts
        each = zip(self.parts, other.parts, measures, strict=True)
        sums, misfits = zip(*(part.add(added, reference=measure) for part, added, measure in each), strict=True)
        return self._replaced(sums), _together(misfits)

    def truncate(self, rank: int | None = None, *, reference: Self | None = None) -> Self:
        """There is nothing to truncate: a part's rank is its structure's."""
        return self

    def _with(self, vector: Tree) -> list[tuple[Precision, Tree]]:
        return [(part, self.membership.pick(vector, number)) for number, part in enumerate(self.parts)]

    def _replaced(self, parts: Any) -> Self:
        return dataclasses.replace(self, parts=tuple(parts))


def diagonal(precision: Tree, structure: Any) -> Precision:
    """A diagonal precision with a structure for each part of the parameters: those with equal structures are one part.

    Raises:
        TypeError: something in ``structure`` is no structure.
        ValueError: it is no prefix of the parameters, all of them are frozen, or a part has no room for its parameters.
    """
    membership, structures = assigned(precision, structure)
    if len(structures) == 1 and not membership.frozen:
        return _part(precision, structures[0])
    parts = [_part(membership.pick(precision, number), kind) for number, kind in enumerate(structures)]
    saving.known_to_flax(Parts, "parts")
    return Parts(tuple(parts), membership)


def assigned(params: Tree, structure: Any) -> tuple[Membership, tuple[Structure, ...]]:
    """Which part each parameter belongs to, and the parts' structures; raises as :func:`diagonal`."""
    kinds, prefix = jax.tree.flatten(structure, is_leaf=is_structure)
    for kind in kinds:
        if not is_structure(kind):
            raise TypeError(
                f"structure: expected LowRank, Dense, Diagonal, KroneckerFactored or Frozen, for all parameters or in "
                f"a pytree prefix of them, got {kind!r}; give one of these"
                + (", and the names " + ", ".join(NAMES) + " for a network as a whole" if isinstance(kind, str) else "")
                + (f": {kind.__name__}(), not the class" if isinstance(kind, type) else "")
            )
    try:
        covered = prefix.flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"structure: expected a pytree prefix of the parameters, {jax.tree.structure(params)}, got {prefix}"
            f"{_difference(structure, params)}; give one structure for all, or one in place of each part of that tree"
        ) from error
    structures: dict[Structure, int] = {}
    owned: list[int] = []
    for kind, subtree in zip(kinds, covered, strict=True):
        count = len(jax.tree.leaves(subtree))
        if count:
            owner = _FROZEN if isinstance(kind, Frozen) else structures.setdefault(kind, len(structures))
            owned += [owner] * count
    if not structures:
        raise ValueError("structure: expected some parameters that are not Frozen, got none; leave one part to learn")
    leaves, order = jax.tree.leaves(params, is_leaf=_is_none), iter(owned)
    owners = tuple(_FROZEN if leaf is None else next(order) for leaf in leaves)
    shapes = tuple(None if leaf is None else jnp.shape(leaf) for leaf in leaves)
    dtypes = tuple(None if leaf is None else jnp.result_type(leaf) for leaf in leaves)
    described = jax.tree.structure(params, is_leaf=_is_none)
    return Membership(described, owners, shapes, dtypes), tuple(structures)


def _part(diag: Tree, kind: Structure) -> Precision:
    if isinstance(kind, Diagonal):
        return DiagLowRank(diag, tree.zeros(diag, 0))
    if isinstance(kind, KroneckerFactored):
        return kronecker.diagonal(diag, layout(diag, kind.layers, "unit"), reduce=kind.shared == "reduce")
    if isinstance(kind, Dense):
        size = tree.dimension(diag)
        if size > kind.at_most:
            raise ValueError(
                f"structure: expected at most {kind.at_most:,} parameters in a Dense part, got {size:,}, which take "
                f"{size**2:,} numbers and {size:,}³ operations a step; use LowRank, or allow them with "
                f"Dense(at_most={size})"
            )
        return full_matrix.diagonal(diag)
    if not isinstance(kind, LowRank):
        raise AssertionError("frozen parameters have no precision")
    policy = Policy(kind.residual, kind.metric)
    if kind.blocks == "network":
        return DiagLowRank(diag, tree.zeros(diag, kind.rank), policy)
    return blocks.diagonal(diag, kind.rank, layout(diag, kind.layers, kind.blocks), policy)


def _difference(structure: Any, params: Tree) -> str:
    """Which parts of a tree are missing from what should be its prefix, and which are not in it."""
    given = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(structure, is_structure)]
    there = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    missing = [path for path in there if not any(path.startswith(prefix) for prefix in given)]
    unknown = [prefix for prefix in given if not any(path.startswith(prefix) for path in there)]
    named = (("without", missing), ("with the unknown", unknown))
    return "".join(f", {word} {', '.join(paths[:5])}{'…' * (len(paths) > 5)}" for word, paths in named if paths)


def _of_one(noise: Any, transition: Any) -> dict[str, Any]:
    return {} if noise is None else {"noise": noise[0], "transition": transition[0]}


def _together(misfits: Sequence[Misfit]) -> Misfit:
    return jax.tree.map(lambda *values: jnp.asarray(sum(values)), *misfits)


def _sum(values: Any) -> Float[Array, ""]:
    return jnp.asarray(sum(values))


def _is_none(node: Any) -> bool:
    return node is None
