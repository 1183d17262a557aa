"""Networks of the experiments, as pure functions of a pytree of parameters and rows of pixels."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

Tree = Any


class Network(NamedTuple):
    """``init(key)`` → params, ``apply(params, x)`` → logits [B, C]. Hashable: one object, one compilation.

    Attributes:
        side_by_side: whether a method is one program, with seeds in one ``vmap``; else seed after seed and task after
            task by smaller programs that methods share. Convolutions, each with its own kernels, are slow in a
            ``vmap``, and one program of many layers takes minutes to compile.
    """

    init: Callable[[Key[Array, ""]], Tree]
    apply: Callable[[Tree, Float[Array, "B d"]], Float[Array, "B C"]]
    side_by_side: bool = True


def flax(module: linen.Module, shape: tuple[int, ...], *, side_by_side: bool = True) -> Network:
    """A flax module as a network of rows of pixels, which it sees in the given shape."""

    def seen(x: Float[Array, "B d"]) -> Array:
        return x.reshape(len(x), *shape)

    example = jnp.zeros((1, *shape))

    def apply(params: Tree, x: Float[Array, "B d"]) -> Any:
        return module.apply(params, seen(x))

    return Network(lambda key: module.init(key, example), apply, side_by_side)


@functools.cache
def flat(network: Network) -> tuple[Network, Callable[[Float[Array, " D"]], Tree]]:
    """The same network over one vector of parameters, and the way back to its pytree.

    The kernels work leaf by leaf: where nothing is done per layer, the one-leaf case compiles four times faster.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    return (
        Network(
            lambda key: ravel_pytree(network.init(key))[0],
            lambda params, x: network.apply(unravel(params), x),
            network.side_by_side,
        ),
        jax.jit(unravel),
    )


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> Network:
    """A multilayer perceptron with rectified linear units."""
    return flax(_MLP(tuple(hidden), outputs), (inputs,))


def cnn(
    side: int, outputs: int, *, channels: Sequence[int] = (32, 16, 4), hidden: int = 8, colours: int = 1
) -> Network:
    """Convolutions 3×3 with rectified linear units, pooled over 2×2 down to three pixels, then two dense layers."""
    return flax(_CNN(tuple(channels), hidden, outputs), (side, side, colours))


def lenet(outputs: int) -> Network:
    """LeNet-5 of 28×28 pixels: 6-16-120-84, exponential linear units, means pooled; 61,706 parameters at ten outputs.

    Its parameters are two parts, ``{"params": {"body": …, "head": …}}``.
    """
    return flax(_Headed(_LeNet(), outputs), (28, 28, 1), side_by_side=False)


def resnet(side: int, outputs: int, *, channels: int = 8, blocks: int = 2) -> Network:
    """A convolution, residual blocks of two convolutions with group normalisation, and the mean over positions."""
    return flax(_ResNet(channels, blocks, outputs), (side, side, 1), side_by_side=False)


def resnet18(side: int, outputs: int, *, width: int = 64, stride: int = 1, colours: int = 3) -> Network:
    """ResNet-18 for small images (He et al. 2016) with group normalisation in place of batch normalisation.

    Args:
        side: pixels along each side.
        outputs: classes.
        width: channels of the first stage; 64 makes 11.2 million parameters.
        stride: of the first convolution.
        colours: channels of an image.
    """
    return flax(_ResNet18(width, stride, outputs), (side, side, colours), side_by_side=False)


def vit(
    side: int, outputs: int, *, patch: int = 7, width: int = 16, heads: int = 2, blocks: int = 2, colours: int = 1
) -> Network:
    """A vision transformer: patches with learned positions, attention and perceptrons behind layer normalisation."""
    return flax(_ViT(patch, width, heads, blocks, outputs), (side, side, colours))


class _MLP(linen.Module):
    hidden: tuple[int, ...]
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B d"]) -> Float[Array, "B C"]:
        for width in self.hidden:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(self.outputs)(x)


class _Conv(linen.Module):
    """A convolution as one dense layer of shifted images: in loops on a CPU ten times as fast."""

    width: int
    stride: int = 1
    use_bias: bool = True
    size: int = 3
    padding: int = 1

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h2 w2 o"]:
        height, width = (side + 2 * self.padding - self.size + 1 for side in x.shape[1:3])
        around = (self.padding, self.padding)
        x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
        x = jnp.concatenate([x[:, :, j : j + width : self.stride] for j in range(self.size)], axis=-1)
        x = jnp.concatenate([x[:, i : i + height : self.stride] for i in range(self.size)], axis=-1)
        return linen.Dense(self.width, use_bias=self.use_bias)(x)


class _CNN(linen.Module):
    channels: tuple[int, ...]
    hidden: int
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B C"]:
        for width in self.channels:
            x = linen.relu(_Conv(width)(x))
            if min(x.shape[1:3]) > 3:
                x = _pooled(x)
        x = linen.relu(linen.Dense(self.hidden)(x.reshape(len(x), -1)))
        return linen.Dense(self.outputs)(x)


class _LeNet(linen.Module):
    @linen.compact
    def __call__(self, x: Float[Array, "B 28 28 1"]) -> Float[Array, "B 84"]:
        x = _averaged(linen.elu(_Conv(6, size=5, padding=2)(x)))
        x = _averaged(linen.elu(_Conv(16, size=5, padding=0)(x)))
        for width in (120, 84):
            x = linen.elu(linen.Dense(width)(x.reshape(len(x), -1)))
        return x


class _Headed(linen.Module):
    body: linen.Module
    outputs: int

    @linen.compact
    def __call__(self, x: Array) -> Float[Array, "B C"]:
        return linen.Dense(self.outputs, name="head")(self.body(x))


def _averaged(x: Float[Array, "B h w c"]) -> Float[Array, "B h//2 w//2 c"]:
    return linen.avg_pool(x, (2, 2), (2, 2))


def _pooled(x: Float[Array, "B h w c"]) -> Float[Array, "B h//2 w//2 c"]:
    """The maximum over 2×2: ``linen.max_pool``, whose gradient is slow on CPUs."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, -1).max(axis=(2, 4))


class _ResNet(linen.Module):
    channels: int
    blocks: int
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B C"]:
        x = linen.Conv(self.channels, (3, 3), strides=2)(x)
        for _ in range(self.blocks):
            y = linen.Conv(self.channels, (3, 3))(linen.relu(linen.GroupNorm(num_groups=2)(x)))
            x = x + linen.Conv(self.channels, (3, 3))(linen.relu(linen.GroupNorm(num_groups=2)(y)))
        return linen.Dense(self.outputs)(linen.relu(linen.GroupNorm(num_groups=2)(x)).mean(axis=(1, 2)))


class _ResNet18(linen.Module):
    width: int
    stride: int
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B C"]:
        x = linen.relu(_normed(_Conv(self.width, self.stride, use_bias=False)(x)))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage and not block else 1
                x = _BasicBlock(self.width * 2**stage, stride, name=f"stage{stage + 1}_{block + 1}")(x)
        return linen.Dense(self.outputs)(x.mean(axis=(1, 2)))


class _BasicBlock(linen.Module):
    channels: int
    stride: int

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h2 w2 o"]:
        y = linen.relu(_normed(_Conv(self.channels, self.stride, use_bias=False)(x)))
        y = _normed(_Conv(self.channels, use_bias=False)(y))
        if x.shape != y.shape:
            x = _normed(linen.Dense(self.channels, use_bias=False)(x[:, :: self.stride, :: self.stride]))
        return linen.relu(x + y)


def _normed(x: Float[Array, "B h w c"]) -> Float[Array, "B h w c"]:
    """Group normalisation in groups of sixteen channels (Wu and He 2018)."""
    return linen.GroupNorm(num_groups=None, group_size=min(16, x.shape[-1]))(x)


class _ViT(linen.Module):
    patch: int
    width: int
    heads: int
    blocks: int
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B C"]:
        side = x.shape[1] // self.patch
        tiles = x.reshape(len(x), side, self.patch, side, self.patch, -1).swapaxes(2, 3).reshape(len(x), side**2, -1)
        x = linen.Dense(self.width)(tiles)
        x = x + self.param("position", linen.initializers.normal(0.1), x.shape[1:])
        for _ in range(self.blocks):
            x = x + linen.MultiHeadDotProductAttention(self.heads)(linen.LayerNorm()(x))
            x = x + linen.Dense(self.width)(linen.gelu(linen.Dense(2 * self.width)(linen.LayerNorm()(x))))
        return linen.Dense(self.outputs)(linen.LayerNorm()(x).mean(axis=1))
