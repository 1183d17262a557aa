"""Domains: the loaders of their images, their networks, and where their noise goes."""

import io
import math
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from experiments.catalogue import domains
from experiments.continual import networks
from experiments.continual.structures import Structure
from experiments.data import cifar
from experiments.data.files import FOLDER_VARIABLE, DataFileError
from experiments.data.pacs import pacs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A PACS of ten images a domain, each of the grey of its number."""
    (tmp_path / "vision").mkdir()
    names, each = [f"{name}" for name in sorted(domains.DOMAINS)], 10
    domain = np.tile(np.arange(4), each)
    x = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 32, 32, 3))
    np.savez(tmp_path / "vision/pacs-32x32-rgb.npz", x=x, y=np.arange(40) % 7, domain=domain, domain_names=names)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_each_domain_is_split_once(folder):
    found = pacs()
    for number, name in enumerate(sorted(domains.DOMAINS)):
        images = found[name]
        assert images.train_x.shape == (7, 32, 32, 3) and images.test_x.shape == (3, 32, 32, 3)
        rows = np.concatenate([images.train_x, images.test_x])[:, 0, 0, 0] * 255
        np.testing.assert_allclose(np.sort(rows), np.arange(number, 40, 4), rtol=1e-6)
        np.testing.assert_array_equal(np.concatenate([images.train_y, images.test_y]), np.rint(rows) % 7)
    assert [part.name for part in domains.parts("pacs")] == ["photo", "art", "cartoon", "sketch"]


def test_domains_that_are_not_there_are_asked_of_the_user(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(DataFileError, match=r"pacs-32x32-rgb\.npz .*not set"):
        pacs()


def archive(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("labels", [1, 2])
def test_records_of_cifar(tmp_path, labels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 3, 32, 32), np.uint8)
    heads = np.stack([np.full(5, 9), np.arange(5)], axis=1)[:, -labels:].astype(np.uint8)
    records = np.concatenate([heads, pixels.reshape(5, -1)], axis=1)
    members = {"a.bin": records[:2].tobytes(), "b.bin": records[2:4].tobytes(), "test.bin": records[4:].tobytes()}
    path = archive(tmp_path / "published.tar.gz", members)
    images = cifar.read(path, ["a.bin", "b.bin"], "test.bin", labels=labels)
    np.testing.assert_array_equal(images.train_y, [0, 1, 2, 3])
    np.testing.assert_array_equal(images.test_y, [4])
    np.testing.assert_allclose(images.train_x, pixels[:4].transpose(0, 2, 3, 1) / np.float32(255), rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected a whole archive.*missing\.bin.*fetch it again"):
        cifar.read(path, ["missing.bin"], "test.bin", labels=labels)
    with pytest.raises(ValueError, match=r"expected records of 307[34] bytes, but it has 3"):
        cifar.read(archive(path, {"a.bin": b"cut", "test.bin": b""}), ["a.bin"], "test.bin", labels=labels)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="expected a whole archive"):
        cifar.read(path, ["a.bin"], "test.bin", labels=labels)


def test_the_published_width_is_resnet_18():
    network = networks.resnet18(32, 10)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 11_173_962
    x = jax.ShapeDtypeStruct((3, 32 * 32 * 3), jnp.float32)
    assert jax.eval_shape(network.apply, shapes, x).shape == (3, 10)


@pytest.mark.parametrize("name", domains.EARLY)
def test_noise_by_depth_covers_every_layer(name):
    made = {"resnet18": networks.resnet18(32, 7, width=4), "vit": networks.vit(32, 7, patch=4, colours=3)}
    params = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32), jax.eval_shape(made[name].init, jax.random.key(0))
    )
    hyper = {"noise": 0.5}
    early, late, relative = (
        domains.spread(part, domains.EARLY[name])(params, hyper)["params"] for part in domains.PARTS
    )
    assert set(early) == set(params["params"]) and all(float(early[k]) + float(late[k]) == 0.5 for k in early)
    assert all(float(q) == 0.5 for q in relative.values())
    first, last = (float(sum(q > 0 for q in half.values())) for half in (early, late))
    assert first > 3 and last > 3
    jax.eval_shape(lambda params: lf.predict(Structure("kronecker").prior(params, 1.0), {"params": early}), params)
