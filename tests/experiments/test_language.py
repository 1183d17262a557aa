"""The language experiment's parts: tokens, counts, autoregressive models, and what each model is scored by."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.files import DataFileError
from experiments.language import counts, scores, text, training
from experiments.language.models import AUTOREGRESSIVE, ENTRIES, make

SIZES = {"vocabulary": 11, "window": 8, "width": 8, "channels": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    for name in ("train.articles-permuted", "valid", "test"):
        content = ("the cat sat on the mat, und der Bär saß\n" * 30).encode()
        (tmp_path / "text" / f"wikitext-2-{name}.txt.gz").write_bytes(gzip.compress(content))
    monkeypatch.setenv("WEIGHTFILTER_DATA", str(tmp_path))


@pytest.mark.usefixtures("folder")
def test_tokens_stand_for_all_of_the_text():
    corpus, tokenizer = text.load(280)
    content = "the cat sat on the mat, und der Bär saß\n" * 30
    assert tokenizer.decode(corpus.test.tolist()) == content
    assert corpus.test.max() < 280
    np.testing.assert_allclose(corpus.bytes_per_token * len(corpus.test), len(content.encode()))
    assert text.windows(corpus.test, 5, 7).shape == (7, 5)
    with pytest.raises(ValueError, match="vocabulary: expected at least 257"):
        text.load(100)


def test_the_text_is_asked_for(monkeypatch):
    monkeypatch.delenv("WEIGHTFILTER_DATA", raising=False)
    with pytest.raises(DataFileError, match="wikitext-2-train"):
        text.load(300)


def test_counts_are_distributions_and_scores_are_theirs():
    tokens = np.random.default_rng(0).integers(0, 11, 500)
    first, following = counts.unigram(tokens, 11), counts.bigram(tokens, 11)
    np.testing.assert_allclose(np.exp(first).sum(), 1)
    np.testing.assert_allclose(np.exp(following).sum(1), 1)
    window = tokens[None, :3]
    expected = (
        -(first[window[0, 0]] + following[window[0, 0], window[0, 1]] + following[window[0, 1], window[0, 2]]) / 3
    )
    np.testing.assert_allclose(counts.score(window, first, following), expected)
    np.testing.assert_allclose(counts.score(window, first, None), -first[window].mean())


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_autoregressive_models_see_only_the_past(name):
    model = make(name, **SIZES)
    assert model.next_token is not None
    run = jax.jit(model.next_token)
    params, tokens = jax.jit(model.init)(jax.random.key(0)), np.arange(8)
    before, after = (np.asarray(run(params, each)) for each in (tokens, np.where(tokens == 4, 9, tokens)))
    np.testing.assert_allclose(before[:5], after[:5], atol=1e-6)
    assert np.abs(before[5] - after[5]).max() > 1e-4
    np.testing.assert_allclose(np.exp(before).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_a_model_with_scores(name):
    model = make(name, **SIZES)
    assert model.config is not None
    offered = "prequential" in scores.names(model, 64)
    assert offered == (model.config.refusal is None)
    assert ("horizon 32" in scores.names(model, 64)) == (offered and model.config.decoder != "autoregressive")


@pytest.mark.slow
def test_training_lowers_the_loss_and_keeps_every_finite_step():
    model, tokens = make("tcn", **SIZES), jnp.tile(jnp.arange(11), 30)
    windows = jnp.stack([tokens[:8], tokens[3:11]])
    budget = training.Budget(40, 4, 8)
    before = training.validation(model, model.init(jax.random.key(0)), windows)
    trained = training.train(model, budget, jax.random.key(0), tokens, 1e-2)
    assert training.validation(model, trained, windows) < before - 0.5
    assert training.search(model, budget, tokens, windows, (1e-6, 1e-2)) == 1e-2
