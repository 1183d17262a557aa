"""Programs of one class are not those of another."""

import dataclasses
import itertools

import jax
import pytest

import lowrank_filter as lf
from lowrank_filter.common.compiled import Static, compiled


@pytest.mark.parametrize(
    ("one", "other"),
    [*itertools.combinations([lf.Bernoulli, lf.Categorical, lf.Poisson, lf.HeteroscedasticGaussian], 2)],
)
def test_structures_of_two_likelihoods_differ(one, other):
    assert jax.tree.structure(one()) != jax.tree.structure(other())
    assert jax.tree.structure(one()) == jax.tree.structure(one())


@lf.registered
@dataclasses.dataclass(frozen=True)
class Held:
    array: float
    name: str = dataclasses.field(default="a", metadata={"static": True})


def test_leaves_have_their_names_and_static_fields_are_part_of_the_structure():
    [(path, leaf)], structure = jax.tree_util.tree_flatten_with_path(Held(2.0, "b"))
    assert (jax.tree_util.keystr(path), leaf) == (".array", 2.0)
    assert structure.unflatten([3.0]) == Held(3.0, "b")
    assert structure != jax.tree.structure(Held(2.0, "c"))


def named(index):
    return dataclasses.make_dataclass(f"C{index}", [], namespace={"index": index}, frozen=True)


def core(held):
    return held.index


def test_classes_of_a_caller_are_told_from_one_another():
    # A program for each class, though JAX's own registration makes their structures equal.
    classes = [jax.tree_util.register_dataclass(named(index), [], []) for index in range(20)]
    assert [int(compiled(core, cls())) for cls in classes] == list(range(20))
    assert len({Static({}, jax.tree.structure(cls())) for cls in classes}) == 20


def test_what_is_no_dataclass_is_refused():
    with pytest.raises(TypeError, match=r"cls: expected a dataclass, got <class 'int'>; put @registered above"):
        lf.registered(int)
