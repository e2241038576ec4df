# %% [markdown]
# # 11. Your own kernel
#
# You add a kernel to the package: a function that computes a convolution in your way. One line
# registers it, and everything else follows: gradients, checks against float64, times beside those
# of the other kernels, models that train with it.
#
# *90 minutes. You need chapters [1](01_convolution.ipynb), [3](03_gradients.ipynb) and
# [10](10_speed.ipynb).*

# %%
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import cnn_jax
from cnn_jax import models
from cnn_jax.bench import machine
from cnn_jax.bench.kernels import check as kernel_check
from cnn_jax.bench.kernels import compare, problem, report
from cnn_jax.course import own_kernel as check
from cnn_jax.ops.kernels import KERNELS

# %% [markdown]
# ## What a kernel is
#
# An object with a function `forward(x, w, spec)`. Before it is called, the package has resolved
# `'SAME'`, defaults and dtypes, so `spec` says plainly what is wanted:

# %%
spec = problem.parse('mb2_ic3ih8iw9oc4kh3kw5ph1pw2').spec()
print(spec)
print('x', spec.x_shape, ' w', spec.kernel_shape, ' y', spec.y_shape)
print('padding', spec.padding, ' output', spec.output_size)

# %% [markdown]
# Your kernel begins with functions of the package. As soon as one of yours is right, it takes its
# place.

# %%
mine = types.SimpleNamespace(forward=check.forward.right, supports=check.supports.right)

# %% [markdown]
# ### Exercise 1: forward
#
# Write the sum over shifted views, for two axes and stride 1: pad `x` with `spec.padding`, a pair
# (before, after) for each axis; for each tap $(k, l)$ of `spec.window`, multiply the view that
# begins there with the matrix `w[k, l]`, and add.
#
# Two things are new. The function runs while JAX *traces* it, under `jit`: use `jnp`, not `np`, and
# ordinary loops over sizes, which are known then. And x can be in bfloat16, which has 8 bits: a sum
# kept in it stops growing soon. Every kernel of the package adds in float32
# (`preferred_element_type=jnp.float32`) and rounds once, to `spec.dtype`.


# %% tags=["exercise"]
def forward(x, w, spec):
    """x spec.x_shape, w spec.kernel_shape -> y spec.y_shape, all of spec.dtype"""
    ...


# %% tags=["solution"]
def forward(x, w, spec):
    x = jnp.pad(x, [(0, 0), *spec.padding, (0, 0)])
    height, width = spec.output_size
    y = jnp.zeros(spec.y_shape, jnp.float32)
    for k, l in np.ndindex(*spec.window):
        view = x[:, k : k + height, l : l + width]
        y += jnp.einsum('nhwc,co->nhwo', view, w[k, l], preferred_element_type=jnp.float32)
    return y.astype(spec.dtype)


# %%
if check.forward(forward):
    mine.forward = forward

# %% [markdown]
# ### Exercise 2: say no
#
# Your kernel ignores strides, dilations and groups. If it is asked for them, a wrong result without
# a word is the worst answer. So a kernel has a second function, which returns `None` if it can
# compute a call, and otherwise the reason why not, in one line: "needs strides of 1, got (2, 2)".
# `op` is `'forward'` or one of the gradients, and `platform` is JAX's: `'cpu'`, `'cuda'`, `'rocm'`,
# `'tpu'`. Yours needs neither. Look at `spec.strides`, `spec.dilation`, `spec.input_dilation`
# (zeros between the elements of x), `spec.groups` and `spec.ndim`.


# %% tags=["exercise"]
def supports(spec, op, platform):
    """-> None, or the reason why not"""
    ...


# %% tags=["solution"]
def supports(spec, op, platform):
    if spec.ndim != 2:
        return f'is for two axes, got {spec.ndim}'
    for name in ('strides', 'dilation', 'input_dilation'):
        if getattr(spec, name) != (1, 1):
            return f'needs {name} of 1, got {getattr(spec, name)}'
    if spec.groups != 1:
        return f'needs groups 1, got {spec.groups}'
    return None


# %%
if check.supports(supports):
    mine.supports = supports

# %% [markdown]
# ## One line
#
# From here on the kernel has a name, which every function of the package accepts. (`replace=True`
# is for cells that run more than once. `jax.clear_caches()` makes JAX forget programs compiled with
# an older version of your function.)

# %%
KERNELS.register('mine', mine, replace=True)
jax.clear_caches()

random = np.random.default_rng(0)
x, w = (
    random.standard_normal((2, 8, 8, 3), np.float32),
    random.standard_normal((3, 3, 3, 4), np.float32),
)
difference = cnn_jax.conv(x, w, implementation='mine') - cnn_jax.conv(x, w, implementation='lax')
print('largest difference from lax', np.abs(difference).max())

try:
    cnn_jax.conv(x, w, strides=2, implementation='mine')
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# It never falls back silently to another kernel. If you accept that, name several, in order of
# preference: `implementation=('mine', 'lax')`.
#
# ## The gradients are free
#
# You wrote no gradient, and there are two. A convolution is linear in x and linear in w. A linear
# function has a transpose, and the gradient of `forward` with respect to x *is* this transpose,
# applied to dy (chapter 3). JAX transposes your function step by step: a slice becomes a padding
# with zeros, a padding a slice, a product with `w[k, l]` one with its transpose, backwards.
#
# The package's check runs a kernel on small convolutions of every kind, on the forward pass and
# both gradients, and compares with float64. A number is the relative error, `-` a refusal. (Without
# `dtypes` it tries bfloat16, too.)

# %%
print(kernel_check.summary(kernel_check.kernel('mine', dtypes=['float32'])))

# %% [markdown]
# float32 has 24 bits, so an error of $10^{-7}$ is rounding. What if a kernel is wrong? This one
# forgets what lies beyond the first 4 channels:

# %%
wrong = types.SimpleNamespace(
    forward=lambda x, w, spec: mine.forward(x.at[..., 4:].set(0), w, spec), supports=mine.supports
)
KERNELS.register('wrong', wrong, replace=True)
rows = kernel_check.kernel('wrong', ['mb2_ic4ih6oc4kh3', 'mb2_ic5ih6oc4kh3'])
print(kernel_check.summary(rows))

# %% [markdown]
# A check is as good as its cases: the first one is too small to see it. Test the sizes that your
# formulation treats specially.
#
# ### Exercise 3: your own gradient
#
# A transpose that JAX derives is right, but not always fast. So a kernel may define its gradients
# itself, `input_grad(dy, w, spec)` and `filter_grad(x, dy, spec)`. Write the first by scattering:
# begin with zeros of the size of the padded input, add dy, multiplied with the transposed `w[k,
# l]`, to the view that begins at $(k, l)$, and at the end cut the padding off.


# %% tags=["exercise"]
def input_grad(dy, w, spec):
    """dy spec.y_shape, w spec.kernel_shape -> dx spec.x_shape, all of spec.dtype"""
    ...


# %% tags=["solution"]
def input_grad(dy, w, spec):
    (top, _), (left, _) = spec.padding
    height, width = spec.output_size
    dx = jnp.zeros((spec.batch, *spec.padded_size, spec.in_features), jnp.float32)
    for k, l in np.ndindex(*spec.window):
        one = jnp.einsum('nhwo,co->nhwc', dy, w[k, l], preferred_element_type=jnp.float32)
        dx = dx.at[:, k : k + height, l : l + width].add(one)
    rows, columns = spec.input_size
    return dx[:, top : top + rows, left : left + columns].astype(spec.dtype)


# %%
if check.input_grad(input_grad):
    mine.input_grad = input_grad

# %% [markdown]
# ## A second kernel: one product
#
# Nine small products, or one large one? The other kernel collects the patches first. JAX has a
# function for that, `lax.conv_general_dilated_patches`. Its last axis holds one patch: as many
# elements as the window has for all channels.
#
# ### Exercise 4: patches
#
# Collect the patches and multiply them with `w`, reshaped to a matrix. In which order are the
# elements of a patch, and in which those of `w`?


# %% tags=["exercise"]
def by_patches(x, w, spec):
    """x spec.x_shape, w spec.kernel_shape -> y spec.y_shape, all of spec.dtype"""
    # patches = lax.conv_general_dilated_patches(
    #     x, spec.window, (1, 1), spec.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    # )
    ...


# %% tags=["solution"]
def by_patches(x, w, spec):
    patches = lax.conv_general_dilated_patches(
        x, spec.window, (1, 1), spec.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    matrix = w.transpose(2, 0, 1, 3).reshape(-1, spec.out_features)
    y = jnp.einsum('nhwp,po->nhwo', patches, matrix, preferred_element_type=jnp.float32)
    return y.astype(spec.dtype)


# %%
patches = types.SimpleNamespace(forward=check.by_patches.right, supports=mine.supports)
if check.by_patches(by_patches):
    patches.forward = by_patches
KERNELS.register('patches', patches, replace=True)
jax.clear_caches()

# %% [markdown]
# ## Which is faster?
#
# First check, then time, in turns (chapter 10). A layer of a network for small pictures, forward
# and the gradient of its input:

# %%
peaks = {
    'gemm_gflops': {'float32': machine.gemm_peak(rounds=3, largest=1024)},
    'bandwidth_gbs': machine.bandwidth(rounds=3),
}
rows = []
for direction in ('forward', 'input_grad'):
    rows += compare.measure(
        problem.parse('mb8_ic32ih28oc64kh3ph1'),
        direction,
        names=['mine', 'patches', 'lax', 'default'],
        rounds=3,
        limit=0.5,
        check_macs=1e7,
    )
print(report.table(rows, peaks))

# %% [markdown]
# `lax` and the default are the work of years; ten lines come closer than one would think. Ask what
# the table says about yours. How far below the roof is it? How does that change with the window,
# with the number of channels? Try other strings in the place of `mb8_ic32ih28oc64kh3ph1`.
#
# And look at `patches`. `lax.conv_general_dilated_patches` is itself a convolution, with a kernel
# of zeros and ones, so the forward pass pays for two; copying shifted views, as `im2col` does,
# costs less. Its input gradient was derived by transposition: right, and on a CPU very slow.
#
# ## In a model
#
# Nothing in a model has to change. A kernel can be named in three places: in a call, in a layer or
# a model, and around anything, by `use_implementation`.

# %%
images = random.standard_normal((4, 28, 28, 1), np.float32)
model = models.create(
    'lecture_cnn', input_shape=(28, 28, 1), num_classes=10, rngs=nnx.Rngs(0), implementation='mine'
)
model.eval()
print(model(images).shape)

other = models.create('lecture_cnn', input_shape=(28, 28, 1), num_classes=10, rngs=nnx.Rngs(0))
other.eval()
with cnn_jax.use_implementation(conv=('mine', 'lax')):
    for used in cnn_jax.explain(other, images):
        print(used)
print('largest difference', np.abs(model(images) - other(images)).max())

# %% [markdown]
# And it trains. One step of gradient descent uses your `forward`, your `input_grad`, and the
# `filter_grad` that JAX derives:

# %%
labels = jnp.arange(4)


def loss(model):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(model(images)), labels[:, None], axis=-1)
    return -chosen.mean()


graph, weights, rest = nnx.split(model, nnx.Param, ...)


@jax.jit
def step(weights):
    value, gradient = jax.value_and_grad(lambda w: loss(nnx.merge(graph, w, rest)))(weights)
    return jax.tree.map(lambda w, g: w - 0.003 * g, weights, gradient), value


for _ in range(5):
    weights, value = step(weights)
    print(f'{value:.3f}', end=' ')

# %% [markdown]
# Last, a program that does not know this package. `nnx.Conv` is Flax's own layer; while the package
# is installed, all convolutions of all libraries are compiled with its kernels:

# %%
flax_layer = nnx.Conv(1, 4, (3, 3), rngs=nnx.Rngs(0))
before = flax_layer(images)
with cnn_jax.installed(), cnn_jax.use_implementation('mine'):
    for used in cnn_jax.explain(flax_layer, images):
        print(used)
    print('largest difference', np.abs(flax_layer(images) - before).max())

# %% [markdown]
# ## What to remember
#
# * A kernel is `forward` and an honest `supports`; the gradients follow by transposition.
# * Check against float64 on every kind of case before you time anything.
# * Add in float32 and round once.
#
# To keep your kernel, put it into a file, as `docs/extend.md` shows: programs import it, and the
# scripts take `--plugin=my_kernel.py --implementation=mine`.
