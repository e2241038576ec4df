# %% [markdown]
# # 6. The same in PyTorch
#
# Two frameworks, one network: you carry its weights from JAX to PyTorch and make both compute the
# same outputs, gradients and steps of training. What stands in the way are conventions, most of
# them invisible to a check of shapes.
#
# *60 minutes. You need [chapter 5](05_network.ipynb). PyTorch helps, but all exercises can be
# solved without it.*

# %%
import numpy as np
import optax
from flax import nnx

import cnn_jax
from cnn_jax import data, nn
from cnn_jax.course import pytorch as check

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None
    print("PyTorch is not installed (pip install -e '.[compare]'): comparisons are left out.")

# %% [markdown]
# ## The network
#
# A convolution with stride 2 instead of a pool, batch normalisation, and two dense layers. The
# convolution has no bias, since the normalisation subtracts it again.

# %%
digits = data.load('digits')
x, labels = digits.normalize(digits.splits['train'].inputs[:64]), digits.splits['train'].labels[:64]


def make(rngs):
    return nn.Layers(
        {
            'conv': nn.Conv(1, 8, (3, 3), strides=2, padding='SAME', use_bias=False, rngs=rngs),
            'norm': nnx.BatchNorm(8, momentum=0.9, epsilon=1e-5, rngs=rngs),
            'relu': nnx.relu,
            'flatten': nn.Flatten(),
            'dense': nnx.Linear(4 * 4 * 8, 32, rngs=rngs),
            'relu2': nnx.relu,
            'logits': nnx.Linear(32, 10, rngs=rngs),
        }
    )


ours = make(nnx.Rngs(0))
maps = {}
ours(x, maps)
print({name: value.shape for name, value in maps.items()})

# %% [markdown]
# ## Kernels
#
# Here, and in Flax and Keras, channels are last: a batch of pictures is (n, height, width,
# channels), a kernel (height, width, in, out). In PyTorch they come first: (n, channels, height,
# width) and (out, in, height, width). Neither flips the window.
#
# ### Exercise 1: the kernel of a convolution


# %% tags=["exercise"]
def conv_kernel(w):
    """w (height, width, in, out) -> (out, in, height, width)"""
    ...


# %% tags=["solution"]
def conv_kernel(w):
    return np.transpose(w, (3, 2, 0, 1))


# %% [markdown]
# Arrays of pictures travel the same way. Two helpers, and the first comparison, without padding:


# %%
def channels_first(x):
    """(n, height, width, channels) array -> (n, channels, height, width) tensor"""
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())


def difference(a, b):
    """The largest difference, relative to the largest number."""
    a, b = np.asarray(a), np.asarray(b)
    return f'{np.abs(a - b).max() / np.abs(b).max():.0e}'


if check.conv_kernel(conv_kernel):
    w = np.random.default_rng(0).standard_normal((3, 3, 8, 4), np.float32)
    if torch:
        tensor = torch.from_numpy(np.array(conv_kernel(w)))
        theirs = F.conv2d(channels_first(maps['relu']), tensor).numpy()
        y = cnn_jax.conv(maps['relu'], w, padding='VALID')
        print('difference', difference(theirs.transpose(0, 2, 3, 1), y))

# %% [markdown]
# Zero, or about 1e-07, which is the rounding of float32: the order of the sums may differ.
#
# ## Padding
#
# With a stride, `'SAME'` (chapter 2) may need one more zero at the end than at the beginning.
# PyTorch's `padding=1` cannot say this, and the windows lie one pixel off. So pad first, with
# `F.pad(x, (left, right, top, bottom))`: the last axis comes first.
#
# ### Exercise 2: zeros for F.pad
#
# For $n$ pixels, a window of $k$ and a stride $s$ there are $\lceil n / s \rceil$ places. They need
# $p = \max((\lceil n / s \rceil - 1)\, s + k - n,\; 0)$ zeros, $\lfloor p / 2 \rfloor$ of them at
# the beginning.


# %% tags=["exercise"]
def torch_padding(size, window, stride):
    """size (height, width), window (height, width), stride -> left, right, top, bottom"""
    ...


# %% tags=["solution"]
def torch_padding(size, window, stride):
    zeros = []
    for n, k in zip(size[::-1], window[::-1], strict=True):
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        zeros += [total // 2, total - total // 2]
    return tuple(zeros)


# %%
if check.torch_padding(torch_padding):
    print('zeros', torch_padding((8, 8), (3, 3), 2))
    if torch:
        w = torch.from_numpy(check.to_torch('kernel', ours.conv.kernel[...]))
        for name, theirs in {
            'F.pad': F.conv2d(
                F.pad(channels_first(x), torch_padding((8, 8), (3, 3), 2)), w, stride=2
            ),
            'padding=1': F.conv2d(channels_first(x), w, stride=2, padding=1),
        }.items():
            result = theirs.numpy().transpose(0, 2, 3, 1)
            print(f'{name:10s}shape {result.shape}, difference', difference(result, maps['conv']))

# %% [markdown]
# The shapes agree in both lines. This is the most common reason why a converted network is a
# little worse than the original.
#
# ## Flattened maps
#
# A dense kernel is (in, out) here and (out, in) in PyTorch. Is a transpose all? Not for the first
# dense layer after a `flatten`: the same numbers are flattened in another order there, channel by
# channel, so its inputs have another order too.
#
# ### Exercise 3: the first dense layer
#
# Give the inputs their three axes back, bring the axes into PyTorch's order, flatten.


# %% tags=["exercise"]
def dense_kernel(w, maps):
    """w (height * width * channels, out), maps (height, width, channels) -> (out, in), in PyTorch's
    order"""
    ...


# %% tags=["solution"]
def dense_kernel(w, maps):
    w = w.reshape(*maps, -1)  # (height, width, channels, out)
    return w.transpose(3, 2, 0, 1).reshape(w.shape[-1], -1)


# %%
if check.dense_kernel(dense_kernel):
    if torch:
        w = np.array(ours.dense.kernel[...])
        flat = channels_first(maps['relu']).flatten(1).numpy()
        wanted = maps['dense'] - ours.dense.bias[...]
        print('difference', difference(flat @ dense_kernel(w, (4, 4, 8)).T, wanted))
        print('transposed only', difference(flat @ w, wanted))

# %% [markdown]
# ## Batch normalisation
#
# In training, the numbers of each channel get mean 0 and variance 1 over the batch and all
# places, then a learned scale and shift (left out here):
#
# $$y = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}$$
#
# In evaluation, running averages take the place of $\mu$ and $\sigma^2$. Each training step moves
# them a little. With momentum $m$:
#
# | | Flax | PyTorch |
# |---|---|---|
# | new average | $m$ old + $(1 - m)$ batch | $(1 - m)$ old + $m$ batch |
# | variance for the average | sum of squares / $n$ | sum of squares / $(n - 1)$ |
# | $m$, if you say nothing | 0.99 | 0.1 |
# | $\varepsilon$, if you say nothing | 1e-5 | 1e-5 |
#
# $n$ is the number of numbers per channel, batch times places. For $y$ both divide by $n$. (Keras
# has Flax's $m$, and $\varepsilon$ = 1e-3.)
#
# ### Exercise 4: Flax's batch normalisation


# %% tags=["exercise"]
def batch_norm(x, mean, var, momentum, eps):
    """x (n, height, width, channels), running averages (channels,) -> y, new mean, new var"""
    ...


# %% tags=["solution"]
def batch_norm(x, mean, var, momentum, eps):
    batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - batch_mean) / np.sqrt(batch_var + eps)
    return (
        y,
        momentum * mean + (1 - momentum) * batch_mean,
        momentum * var + (1 - momentum) * batch_var,
    )


# %%
if check.batch_norm(batch_norm):
    if torch:
        z = np.array(maps['conv'])
        y, mean, var = batch_norm(z, np.zeros(8), np.ones(8), 0.9, 1e-5)
        norm = torch.nn.BatchNorm2d(8, momentum=0.1, eps=1e-5)
        theirs = norm(channels_first(z)).detach().numpy().transpose(0, 2, 3, 1)
        n = z.size // 8
        print('y                 ', difference(theirs, y))
        print('running mean      ', difference(norm.running_mean, mean))
        print('running variance  ', difference(norm.running_var, var))
        corrected = 0.9 + (var - 0.9) * n / (n - 1)
        print('with n / (n - 1)  ', difference(norm.running_var, corrected))

# %% [markdown]
# The variance differs by a factor that hardly matters with 1,024 numbers, and matters with 4.
#
# ## Steps of SGD
#
# With the gradient $g$, weight decay $\lambda$, momentum $m$ and learning rate $\eta$, optax and
# PyTorch compute
#
# $$g' = g + \lambda w, \qquad v \leftarrow m\,v + g', \qquad
#   w \leftarrow w - \eta \cdot \begin{cases} v \\ g' + m\,v & \text{(Nesterov)}\end{cases}$$
#
# beginning with $v = 0$. Other conventions exist: Keras puts $\eta$ into $v$, which differs as soon
# as the rate changes; AdamW lets $\lambda w$ bypass $v$.
#
# ### Exercise 5: SGD


# %% tags=["exercise"]
def sgd(w, gradients, rates, momentum, decay, nesterov):
    """w: a number; for each step a gradient and a learning rate -> w after the last step"""
    ...


# %% tags=["solution"]
def sgd(w, gradients, rates, momentum, decay, nesterov):
    v = 0
    for g, rate in zip(gradients, rates, strict=True):
        g = g + decay * w
        v = momentum * v + g
        w = w - rate * (g + momentum * v if nesterov else v)
    return w


# %%
check.sgd(sgd)

# %% [markdown]
# ## All together
#
# The whole network in PyTorch, with our weights; `check.to_torch` is exercises 1 and 3.


# %%
def as_theirs(state):
    """-> {PyTorch's name: array in PyTorch's layout} for parameters, or for their gradients"""
    names = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
    return {
        f'{layer}.{names[name]}': check.to_torch(
            name, value[...], (4, 4, 8) if layer == 'dense' else ()
        )
        for (layer, name), value in nnx.to_flat_state(state)
    }


if torch:

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 8, 3, stride=2, bias=False)
            self.norm = torch.nn.BatchNorm2d(8, momentum=0.1, eps=1e-5)
            self.dense = torch.nn.Linear(4 * 4 * 8, 32)
            self.logits = torch.nn.Linear(32, 10)

        def forward(self, x):
            x = self.conv(F.pad(x, check.torch_padding.right((8, 8), (3, 3), 2)))
            x = F.relu(self.norm(x)).flatten(1)
            return self.logits(F.relu(self.dense(x)))

    theirs = Theirs()
    weights = {k: torch.from_numpy(v) for k, v in as_theirs(nnx.state(ours, nnx.Param)).items()}
    theirs.load_state_dict(weights, strict=False)  # the running averages stay 0 and 1
    print('logits', difference(theirs(channels_first(x)).detach(), ours(x)))

# %% [markdown]
# And training: SGD with Nesterov momentum and weight decay, which both sides apply to every
# parameter. The largest difference over all arrays, after each of some steps:


# %%
@nnx.jit
def step(model, optimizer):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    gradient = nnx.grad(loss)(model)
    optimizer.update(model, gradient)
    return gradient


def largest(ours, theirs):
    """The largest difference of two dictionaries of arrays, array by array."""
    return max((difference(theirs[name], ours[name]) for name in ours), key=float)


if torch:
    rule = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1, 0.9, nesterov=True))
    optimizer = nnx.Optimizer(ours, rule, wrt=nnx.Param)
    same = {'lr': 0.1, 'momentum': 0.9, 'weight_decay': 1e-3, 'nesterov': True}
    their_optimizer = torch.optim.SGD(theirs.parameters(), **same)
    for i in range(10):
        gradient = step(ours, optimizer)
        their_optimizer.zero_grad()
        value = F.cross_entropy(theirs(channels_first(x)), torch.from_numpy(labels).long())
        value.backward()
        their_optimizer.step()
        if i in (0, 1, 4, 9):
            parameters = {k: p.detach() for k, p in theirs.named_parameters()}
            gradients = {k: p.grad for k, p in theirs.named_parameters()}
            print(
                f'step {i + 1:2d}  loss {value:.4f}  gradients',
                largest(as_theirs(gradient), gradients),
                ' parameters',
                largest(as_theirs(nnx.state(ours, nnx.Param)), parameters),
            )

# %% [markdown]
# Differences grow, here slowly: each step computes with numbers that already differ in the last
# digit, and some day a ReLU near zero chooses differently. The package compares whole trainings in
# this way, in float64, too, where a difference that is not rounding has nowhere to hide:
#
#     python experiments/compare_pytorch.py --model=lecture_cnn --seeds=5 --epochs=10
#
# ## What to remember
#
# * Shapes agree more often than numbers. Compare numbers: outputs, then gradients, then steps.
# * Kernels: (height, width, in, out) to (out, in, height, width); the first dense layer after a
#   flatten needs its inputs reordered.
# * `'SAME'` with a stride pads more at the end; batch norm's momentum has two meanings, and its
#   running variance two divisors.
#
# Next: [VGG-16 and Network in Network](07_vgg_nin.ipynb), or what layers cost.
