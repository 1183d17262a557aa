"""A generator of uneven batches, with progress, checkpoint and resume.

`lf.run_stream` takes any iterator of (x, y), (x, y, mask) or (x, y, mask, weights). Batches are filled up to `pad_to`
with masked examples, which change nothing, so that one program is compiled. It shows a bar (with `rich`, otherwise a
line now and then), saves into a folder as it goes and also when it is stopped, by Ctrl-C or an error; the same call
goes on from there, bit for bit. It passes over the batches that are done, so the iterator starts from the first again.
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import lowrank_filter as lf


def batches(stop_after=None):
    random = np.random.default_rng(0)
    for index in range(40):
        if index == stop_after:
            raise KeyboardInterrupt  # what Ctrl-C raises
        x = random.normal(size=(random.integers(0, 17), 3)).astype(np.float32)
        yield x, (x[:, 0] * x[:, 1] > 0).astype(int)


def apply_fn(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


first, second = jax.random.split(jax.random.key(0))
params = {"w1": jax.random.normal(first, (3, 16)), "b1": jnp.zeros(16), "w2": jax.random.normal(second, (16, 2)) / 4}
stream = lf.extended_filter(apply_fn, lf.Categorical(), rank=8, process_noise=1e-5)


def watch(done, belief, info):
    if done % 20 == 0:
        print(f"batch {done}: log evidence {info.log_evidence:.2f}, invalid {info.invalid}")


with tempfile.TemporaryDirectory() as folder:
    try:
        lf.run_stream(stream, stream.init(params), batches(stop_after=25), pad_to=16, checkpoint=folder)
    except KeyboardInterrupt:
        print("stopped after 25 batches")
    belief, steps = lf.run_stream(stream, stream.init(params), batches(), pad_to=16, checkpoint=folder, callback=watch)

straight, _ = lf.run_stream(stream, stream.init(params), batches(), pad_to=16, progress=False)
assert all(map(np.array_equal, jax.tree.leaves(belief), jax.tree.leaves(straight)))
assert steps.info.loss.shape == (40,)
