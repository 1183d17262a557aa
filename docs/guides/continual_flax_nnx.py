"""Continual learning with flax NNX.

*Dropout* belongs to training, in a loop of your own: the summed loss plus `lf.penalty`. The curvature is taken without.
*Batch normalisation* couples examples while it trains, and then none has a likelihood of its own: kernels see it with
running statistics. Those belong to the function: learned with the first task, they are kept under the belief.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import lowrank_filter as lf

x, y = (jnp.asarray(a[:400]) for a in load_digits(return_X_y=True))
tasks = [x / 16, jax.random.permutation(jax.random.key(0), x / 16, axis=1)]  # digits, then with their pixels permuted


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(64, 48, rngs=rngs), nnx.Linear(48, 10, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(48, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def train(net, belief, x):
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        def loss(net):
            nll = optax.softmax_cross_entropy_with_integer_labels(net(x), y).sum()
            return nll + lf.penalty(belief, nnx.state(net, nnx.Param))

        optimizer.update(net, nnx.grad(loss)(net))

    for _ in range(60):
        step(net, optimizer)


net = Net(nnx.Rngs(0))
prior = lf.init(nnx.state(net, nnx.Param), 1.0, rank=20)
train(net, prior, tasks[0])
net.eval()
graph, params, statistics = nnx.split(net, nnx.Param, ...)
apply_fn = lambda params, x: nnx.merge(graph, params, statistics)(x)
filtered, _ = lf.laplace_update(prior, params, apply_fn, lf.Categorical(), tasks[0], y, curvature_scale=10.0)
accuracy = {}
for name, belief in {"filtered": filtered, "forgetful": prior._replace(mean=params)}.items():
    net = nnx.merge(graph, params, statistics, copy=True)
    net.dropout.train()  # but not the normalisation
    train(net, belief, tasks[1])
    net.eval()
    accuracy[name] = [float((net(x).argmax(1) == y).mean()) for x in tasks]
print("accuracy on both tasks after the second:", accuracy)
assert accuracy["filtered"][0] > accuracy["forgetful"][0] + 0.2 and accuracy["filtered"][1] > 0.8
