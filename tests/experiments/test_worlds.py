"""Worlds whose belief is exact: against dynamax, enumeration, the definition of a walk; measures of what is known."""

import itertools

import numpy as np
import pytest
from rich.console import Console

from experiments.catalogue.worlds import Worlds
from experiments.run import results
from experiments.worlds import hidden_markov, measures, navigation, world


def test_regimes_against_dynamax():
    hmm = pytest.importorskip("dynamax.hidden_markov_model")
    matrices = hidden_markov.regimes()
    tokens = hidden_markov.sample(matrices, np.random.default_rng(0), 3, 40)
    beliefs, laws = hidden_markov.filtered(matrices, tokens)
    transition = matrices.sum(0)
    emission = (matrices.sum(2) / 1.0).T
    for row, belief, law in zip(tokens, beliefs, laws, strict=True):
        likelihoods = np.log(emission[:, row]).T
        expected = hmm.hmm_filter(hidden_markov.stationary(matrices), transition, likelihoods)
        np.testing.assert_allclose(belief, np.asarray(expected.filtered_probs) @ transition, atol=1e-5)
        np.testing.assert_allclose(law, belief @ emission, atol=1e-12)
    assert abs((tokens == 6).mean() - 0.2) < 0.1


@pytest.mark.parametrize("kind", sorted(set(hidden_markov.KINDS) - {"a5"}))
def test_laws_by_enumeration(kind):
    """p(x_0 … x_3) = π T[x_0] … T[x_3] 1, and the law is its ratio to that of one token less."""
    matrices = hidden_markov.KINDS[kind]()
    np.testing.assert_allclose(matrices.sum((0, 2)), 1)
    start, symbols = hidden_markov.stationary(matrices), len(matrices)
    np.testing.assert_allclose(start @ matrices.sum(0), start, atol=1e-12)
    chances = {}
    for row in itertools.product(range(symbols), repeat=4):
        weight = start
        for token in row:
            weight = weight @ matrices[token]
        chances[row] = weight.sum()
    assert abs(sum(chances.values()) - 1) < 1e-12
    rows = np.array([row for row, chance in chances.items() if chance > 0])
    laws = hidden_markov.filtered(matrices, rows)[1]
    for row, law in zip(rows, laws, strict=True):
        given = np.array([chances[(*row[:3], token)] for token in range(symbols)])
        np.testing.assert_allclose(law[2], given / given.sum(), atol=1e-9)
    drawn = hidden_markov.sample(matrices, np.random.default_rng(1), 20_000, 4)
    if symbols**4 < 100:
        found = {row: np.mean((drawn == row).all(1)) for row in chances}
        assert all(abs(found[row] - chance) < 0.02 for row, chance in chances.items())


def test_two_bits_give_the_third():
    tokens = hidden_markov.sample(hidden_markov.rrxor(), np.random.default_rng(0), 50, 30)
    laws = hidden_markov.filtered(hidden_markov.rrxor(), tokens)[1]
    certain = (laws.max(-1) > 1 - 1e-9)[:, 12:].mean()
    assert abs(certain - 1 / 3) < 0.05


def test_the_product_of_generators_is_what_is_said():
    matrices = hidden_markov.a5()
    assert matrices.shape == (63, 120, 120)
    np.testing.assert_allclose(matrices.sum((0, 2)), 1)
    # Orders 5, 3, and of a commutator's that is not 1: the group is not abelian.
    first, second = (matrices[token, :60, :60] / 0.4 for token in (0, 1))
    one = np.eye(60)
    for matrix, order in ((first, 5), (second, 3)):
        np.testing.assert_allclose(np.linalg.matrix_power(matrix, order), one)
        np.testing.assert_allclose(matrix @ matrix.T, one)
    assert not np.allclose(first @ second, second @ first)
    tokens = hidden_markov.sample(matrices, np.random.default_rng(0), 200, 60)
    beliefs, laws = hidden_markov.filtered(matrices, tokens)
    told = (tokens == 2).cumsum(1) - (tokens == 2) > 0  # once one product was seen, all is known
    np.testing.assert_allclose(beliefs.max(-1)[told], 1)
    assert np.take_along_axis(laws[:, :-1], tokens[:, 1:, None], -1).min() > 0
    product = (tokens[:, 1:] > 2)[told[:, :-1]]
    np.testing.assert_allclose(laws[:, :-1].max(-1)[told[:, :-1]], np.where(product, 1, 0.4))


def test_town():
    town = navigation.town()
    assert (town.after >= 0).sum() == 2 * (24 - 5)
    for crossing, turn in itertools.product(range(16), range(4)):
        there = town.after[crossing, turn]
        assert there < 0 or town.after[there, (turn + 2) % 4] == crossing
    np.testing.assert_allclose(town.law.sum(-1), 1)
    tokens = town.sample(np.random.default_rng(0), 400, 48)
    _, law = town.exact(tokens)
    assert np.take_along_axis(law[:, :-1], tokens[:, 1:, None], -1).min() > 0
    destinations = tokens[(tokens < 16) & (np.arange(48) > 0)]
    assert np.bincount(destinations, minlength=16).min() > 0.7 * len(destinations) / 16


def test_walks_have_the_law_of_a_discounted_random_walk():
    """p(walk) ∝ Π γ / open(c): the ratio of two walks with the same ends needs no linear system."""
    town, discount = navigation.town(), 0.8
    rng = np.random.default_rng(0)
    found: dict[tuple, dict[tuple, tuple]] = {}
    for row in town.sample(rng, 300, 30):
        leg, crossing, destination = [], row[0], row[0]
        for token in row[1:]:
            if token < 16:
                start, destination, leg, log_law, log_walk = crossing, token, [], 0.0, 0.0
                continue
            leg.append(int(token))
            log_law += np.log(town.law[crossing, destination, token])
            log_walk += np.log(discount / (town.after[crossing] >= 0).sum())
            crossing = town.after[crossing, token - 16]
            if crossing == destination:
                found.setdefault((start, destination), {})[tuple(leg)] = (log_law, log_walk)
    several = [list(walks.values()) for walks in found.values() if len(walks) > 1]
    assert len(several) > 20
    for walks in several:
        laws, weights = np.array(walks).T
        np.testing.assert_allclose(laws - laws[0], weights - weights[0], atol=1e-9)


def test_measures():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(4, 500, 6))
    assert abs(measures.effective_rank(h.reshape(-1, 6)) - 6) < 0.1
    flat = h @ np.diag([1, 1, 1, 0, 0, 0])
    assert abs(measures.effective_rank(flat.reshape(-1, 6)) - 3) < 0.1
    belief = h @ rng.normal(size=(6, 2)) + 3
    probe = measures.fitted(h[:2], belief[:2])
    assert measures.explained(probe, h[2:], belief[2:]) > 1 - 1e-6
    assert abs(measures.explained(measures.fitted(flat[:2], belief[:2]), flat[2:], belief[2:])) < 1
    law = rng.dirichlet(np.ones(4), 5)
    law[0] = 0, 0, 0.5, 0.5
    assert np.allclose(measures.divergence(law, np.log(np.maximum(law, 1e-30))), 0, atol=1e-6)
    np.testing.assert_allclose(measures.divergence(np.array([0.5, 0.5]), np.log([0.25, 0.75])), 0.143841, atol=1e-5)


def test_data_of_seeds_differ_and_repeat():
    made = hidden_markov.world("mess3", 8)
    first, again, other = (world.draw(made, seed, 16, 8) for seed in (0, 0, 1))
    assert np.array_equal(first.train, again.train) and not np.array_equal(first.train, other.train)
    assert first.test.shape == (8, 64) and first.law.shape == (8, 64, 3) and first.belief.shape == (8, 64, 3)


@pytest.mark.slow
def test_from_options_to_a_page_and_again(tmp_path):
    """Small, and a second time without any training."""
    sizes = {"seeds": 2, "steps": 3, "train": 32, "held_out": 8, "width": 8, "window": 8}
    methods = ("nextlat_1", "gpt_detached", "mtp")
    small = Worlds.of("minutes", worlds=("mess3",), methods=methods, output=tmp_path, **sizes)
    small.run(Console(quiet=True))
    content = results.read(tmp_path / "worlds-mess3")
    found = content["variants"]["mess3"]["methods"]
    assert list(found) == ["exact", *methods]
    assert all(len(found[name]["kl"]["per_seed"]) == 2 and found[name]["kl"]["mean"] > 0 for name in found)
    assert "kl_8x" in found["gpt_detached"] and "kl_8x" not in found["mtp"]
    page = (tmp_path / "worlds-mess3" / "README.md").read_text(encoding="utf-8")
    assert "NextLat, d = 1" in page and "rollouts.png" in page
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "worlds-mess3" / "cache").iterdir()}
    small.run(Console(quiet=True))
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "worlds-mess3" / "cache").iterdir()}
    assert results.read(tmp_path / "worlds-mess3")["variants"] == content["variants"]


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"methods: expected names of gpt.*got lstm; correct it"):
        Worlds.of("default", methods=("lstm",), output=tmp_path).run(Console(quiet=True))
