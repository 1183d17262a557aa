"""Worlds whose belief is exact: against dynamax, enumeration, the definition of a walk; measures of what is known."""

import itertools
import operator
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.special
import token_models
from rich.console import Console

import latenttrack as lt
from experiments.catalogue import worlds as catalogue
from experiments.catalogue.worlds import Worlds
from experiments.run import results
from experiments.worlds import (
    answers,
    countdown,
    hidden_markov,
    measures,
    methods,
    navigation,
    path_star,
    problems,
    training,
    world,
)


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


@pytest.mark.parametrize(("arms", "nodes"), [(2, 2), (2, 4), (3, 3)])
def test_one_arm_of_a_path_star_ends_at_the_goal(arms, nodes):
    problem = path_star.problem(arms, nodes)
    rng, goals = np.random.default_rng(0), []
    for _ in range(200):
        prompt = problem.ask(rng)
        assert prompt.shape == (problem.prompt,) and prompt.max() < problem.vocabulary
        edges, (goal, start) = prompt[:-2].reshape(-1, 2), prompt[-2:]
        ways = [[start, end] for first, end in edges if first == start]
        assert len(ways) == arms
        while len(ways[0]) < nodes:
            ways = [[*way, end] for way in ways for first, end in edges if first == way[-1]]
        [answer] = problem.answers(prompt)
        assert [way[1:] for way in ways if way[-1] == goal] == [answer.tolist()]
        assert len(np.unique(ways)) == problem.vocabulary  # no two arms meet but at the start
        goals.append(int(np.flatnonzero((edges[:, 0] == start).nonzero()[0] == (edges[:, 1] == answer[0]).argmax())[0]))
    assert np.bincount(goals, minlength=arms).min() > 200 / arms / 2  # the order of the edges says nothing


def by_hand(numbers, target):
    """Every number of three, every operation, in every order, with fractions: how many ways there are, as sets."""
    ways = set()
    do = {countdown.PLUS: operator.add, countdown.MINUS: operator.sub, countdown.TIMES: operator.mul}
    do[countdown.OVER] = lambda a, b: Fraction(a, b) if b else Fraction(-1)
    for a, b, c in itertools.permutations(numbers):
        for first, second in itertools.product(do, repeat=2):
            middle = do[first](a, b)
            for left, right in ((middle, c), (c, middle)):
                result = do[second](left, right)
                whole = all(value.denominator == 1 and 1 <= value <= 99 for value in map(Fraction, (middle, result)))
                if whole and result == target and a >= b and left >= right:
                    ways.add(tuple(map(int, (a, first, b, middle, left, second, right, result))))
    return ways


def test_countdown_knows_every_solution():
    problem, rng = countdown.problem(), np.random.default_rng(0)
    for prompt in [*(problem.ask(rng) for _ in range(50)), np.array([2, 2, 4, 4]), np.array([1, 1, 1, 1])]:
        found = problem.answers(prompt)
        assert {tuple(row) for row in found.tolist()} == by_hand(prompt[:3].tolist(), prompt[3])
        assert len(found) and found.shape[1] == problem.answer and found.max() < problem.vocabulary
    four = countdown.problem(4)
    prompt = four.ask(rng)
    assert four.answers(prompt).shape[1] == 12 and (four.answers(prompt)[:, -1] == prompt[-1]).all()


def test_laws_of_answers_are_shares_of_solutions():
    made = problems.world(countdown.problem())
    tokens = made.sample(np.random.default_rng(0), 40, made.window)
    assert made.solved is not None and made.solved(tokens).all()
    belief, law = made.exact(tokens)
    belief = belief.reshape(40, 8, 8, made.vocabulary)
    assert np.array_equal(belief[:, :, 0], law)
    several = 0
    for row, ahead in zip(tokens, belief, strict=True):
        every = np.array(sorted(by_hand(row[:3].tolist(), row[3])))
        several += len(every) > 1
        for t, k in itertools.combinations_with_replacement(range(8), 2):
            left = every[(every[:, :t] == row[4 : 4 + t]).all(1)]
            np.testing.assert_allclose(ahead[t, k - t], np.bincount(left[:, k], minlength=made.vocabulary) / len(left))
        assert not any(ahead[t, 8 - t :].any() for t in range(8))
    assert several > 5
    wrong = tokens.copy()
    wrong[:, -1] += 1
    assert not made.solved(wrong).any()


def test_no_problem_is_asked_that_was_trained_on():
    made = problems.world(path_star.problem(2, 3))
    data = world.draw(made, 0, 300, 40)
    asked = [{row[: made.prompt].tobytes() for row in part} for part in (data.train, data.validation, data.test)]
    assert len(asked[1]) == len(asked[2]) == 40 and not asked[0] & asked[1] and not asked[1] & asked[2]
    assert not asked[0] & asked[2] and data.law.shape == (40, 2, 5)
    few = problems.world(path_star.problem(2, 2))
    with pytest.raises(ValueError, match=r"held_out: expected 80 problems of path-star.*found.*train on fewer"):
        world.draw(few, 0, 300, 40)


class Clairvoyant(NamedTuple):
    """A model of one-token answers that knows the law, and a ψ that keeps it; for every question a row of its own."""

    vocabulary: int
    window: int
    config: Any

    def init(self, key):
        raise NotImplementedError

    def hidden(self, params, tokens):
        return jnp.tile(jnp.log(params[tokens[:, 0]])[:, None], (1, tokens.shape[1], 1))

    def embed(self, params, tokens):
        return jnp.zeros((*tokens.shape, self.vocabulary))

    def logits(self, params, h):
        return h

    def initial_cache(self, params, batch, length):
        return jnp.zeros((batch, 1), int)

    def extend(self, params, cache, tokens, position):
        first = jnp.where(position == 0, tokens[:, :1], cache)
        return jnp.tile(jnp.log(params[first]), (1, tokens.shape[1], 1)), first


def test_answers_are_counted():
    """Of one token; the model is sure of the right one for half of the questions, of a wrong one for the rest."""
    tokens = np.stack([np.arange(4), np.arange(4)], axis=1).astype(np.int32)
    law = np.eye(4)[tokens[:, 1]][:, None]
    data = world.Data(tokens, tokens, tokens, law, law)
    said = np.where(np.eye(4)[[0, 1, 3, 2]], 0.7, 0.1)
    model = Clairvoyant(4, 2, lt.TransformerConfig(width=4, heads=1))
    params = lt.NextLatParams(jnp.asarray(said), jax.jit(lt.LatentDynamics(4).init)(jax.random.key(0)))
    came = answers.scores(model, methods.METHODS["nextlat_1"], params, lambda t: t[:, 0] == t[:, 1], 1, data)
    assert came["solved"] == came["begun"] == came["solved_psi"] == came["begun_psi"] == 0.5
    expected = -(np.log(0.7) + np.log(0.1)) / 2
    assert abs(came["kl"] - expected) < 1e-6 and abs(came["kl_psi"] - expected) < 1e-6


def test_a_prompt_is_not_predicted():
    """Its logits get no gradient, by several heads and by one."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 7)))
    model = token_models.Table()
    params = {"h": jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 4))), "head": jnp.eye(4)}
    heads = jnp.stack([0.5 * jnp.eye(4), 2 * jnp.eye(4)])
    slope = jax.jit(jax.grad(lambda p: methods.several_heads(model, (p, heads), tokens, 3)))(params)["h"]
    # The third head looks three ahead: from the first token to the first of the answer.
    assert np.array_equal(np.abs(slope).sum((0, 2)) > 0, [True] * 6 + [False])
    value = methods.several_heads(model, (params, heads[:0]), tokens, 3)
    law = scipy.special.log_softmax(np.asarray(params["h"])[:, 2:-1], axis=-1)
    own = np.take_along_axis(law, np.asarray(tokens)[:, 3:, None], -1)
    np.testing.assert_allclose(value, -own.mean(), rtol=1e-6)
    assert methods.asked(tokens, 0) is None and np.array_equal(methods.asked(tokens, 5)[0], [False] * 5 + [True] * 2)


def test_the_page_says_which_drafts_pay():
    rows = [
        {"rows": tours, "rule": rule, "draft": draft, "confidence": confidence, "speedup": tours + draft * scale}
        for tours, scale in ((1, 0.25), (64, -0.25))
        for rule, draft, confidence in (("generate", 0, 0), ("coupled", 2, 0), ("greedy", 4, 0), ("rejection", 4, 0.3))
    ]
    assert catalogue._fastest(rows).split(". ") == [
        "Tours at once, 1: the best fixed draft (greedy, 4 tokens) is 2.00 times as fast as generation, the best "
        "adaptive draft (rejection, 4 tokens, confidence 0.3) is 2.00 times as fast as generation",
        "Tours at once, 64: the best fixed draft (coupled, 2 tokens) is 63.50 times as fast as generation, the best "
        "adaptive draft (rejection, 4 tokens, confidence 0.3) is 63.00 times as fast as generation.",
    ]


def test_the_page_says_what_was_chosen():
    rows = [
        {"method": method, "metric": metric, "value": value}
        for method, rate, weight in (("gpt_detached", 0.01, 1.0), ("nextlat_2", 0.003, 0.3))
        for metric, value in (("kl", 0.5), ("learning_rate", rate), ("weight", weight))
        for _ in range(2)
    ]
    expected = " Chosen learning rate, and λ: Next token, ψ afterwards: 0.01; NextLat, d = 2: 0.003, 0.3."
    assert catalogue._chosen(pd.DataFrame(rows)) == expected
    assert not catalogue._chosen(pd.DataFrame(rows[:1]))


@pytest.mark.slow
def test_where_training_starts_and_ends():
    """Methods share weights and order; ψ afterwards leaves the network alone; a seed alone is trained alike."""
    model = lt.transformer(lt.TransformerConfig(width=8, layers=1, heads=2, window=6), 3)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 20, 6)))
    detached, ahead = methods.METHODS["gpt_detached"], methods.METHODS["nextlat_1"]
    begin, other = (training.start(model, method, 2, tokens, 5, 4) for method in (detached, ahead))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), begin, other))
    assert not np.array_equal(begin.rows[0], begin.rows[1])
    after = training.fit(model, detached, 0, begin, 5, 1e-2, 1.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after.model, begin.params.model))
    assert all(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (after.dynamics, begin.params.dynamics)), strict=True)
    )
    alone = training.fit(model, detached, 0, begin.first(1), 5, 1e-2, 1.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a[0] == b[0]).all()), after, alone))
    held = training.fit(model, ahead, 0, begin, 0, 1e-2, 1.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), held, begin.params))


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
    methods = ("gpt", "nextlat_1", "gpt_detached", "mtp")
    small = Worlds.of("minutes", worlds=("mess3", "path-star"), methods=methods, output=tmp_path, **sizes)
    small.run(Console(quiet=True))
    folder = tmp_path / "worlds-mess3-path-star"
    content = results.read(folder)
    found = content["variants"]["mess3"]["methods"]
    assert list(found) == ["exact", *methods]
    assert all(len(found[name]["kl"]["per_seed"]) == 2 and found[name]["kl"]["mean"] > 0 for name in found)
    assert "kl_8x" in found["gpt_detached"] and "kl_8x" not in found["mtp"]
    assert found["gpt"]["kl"] == found["gpt_detached"]["kl"] != found["nextlat_1"]["kl"]  # one network, ψ beside it
    solved = content["variants"]["path-star"]["methods"]
    assert "solved_psi" in solved["gpt_detached"] and "solved_psi" not in solved["mtp"]
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "Chosen learning rate, and λ: Next token alone: 0.0" in page
    assert "NextLat, d = 1" in page and "rollouts.png" in page and "| path-star | Four tokens at once |" in page
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    small.run(Console(quiet=True))
    assert kept == {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    assert results.read(folder)["variants"] == content["variants"]


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"methods: expected names of gpt.*got lstm; correct it"):
        Worlds.of("default", methods=("lstm",), output=tmp_path).run(Console(quiet=True))
    with pytest.raises(ValueError, match=r"drafted_by: expected names of gpt_detached, .*got mtp; correct it"):
        Worlds.of("default", drafted_by="mtp", output=tmp_path).run(Console(quiet=True))
    with pytest.raises(ValueError, match=r"worlds: expected names of regimes.*path-star, countdown, got maze; correct"):
        Worlds.of("default", worlds=("maze",), output=tmp_path).run(Console(quiet=True))
    with pytest.raises(ValueError, match="nodes: expected an integer of at least 2, got 1"):
        Worlds.of("default", nodes=1)
