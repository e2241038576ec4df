# %% [markdown]
# # 10. Why kernels differ in speed
#
# All kernels of the package compute the same sum, and one can be a hundred times faster than
# another. You learn to measure this, to say what limits a layer, and two ways to compute a
# convolution with fewer multiplications. The last part runs one program on several devices.
#
# *150 minutes. You need [chapter 1](01_convolution.ipynb), and complex numbers for exercise 5.*

# %%
import functools
import os
import pathlib
import tempfile
import time

# On a CPU: two virtual devices, for the last part. JAX reads this when it is imported.
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '2')

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Image

import cnn_jax
from cnn_jax.bench import machine, timing
from cnn_jax.bench.kernels import compare, pictures, problem, report
from cnn_jax.course import speed as check
from cnn_jax.course.pictures import photo, show

# %% [markdown]
# ## How to measure time
#
# `jax.jit` compiles a function when it is first called with arguments of new shapes. And a call
# returns before its result is computed: the array it returns is a promise, and Python goes on
# (*asynchronous dispatch*). Both deceive a stopwatch:

# %%
x = jnp.ones((8, 56, 56, 64))
w = jnp.ones((3, 3, 64, 64))
layer = jax.jit(functools.partial(cnn_jax.conv, implementation='lax'))

for call in ('first', 'second'):
    start = time.perf_counter()
    y = layer(x, w)
    returned = time.perf_counter()
    jax.block_until_ready(y)
    done = time.perf_counter()
    print(f'{call:6s} call: returns after {1e3 * (returned - start):6.1f} ms, ', end='')
    print(f'has its result after {1e3 * (done - start):6.1f} ms')

# %% [markdown]
# So this benchmark measures the wrong thing, in four ways. Which?
#
# ```python
# start = time.perf_counter()
# for _ in range(10):
#     layer(x, w)
# print((time.perf_counter() - start) / 10)
# ```
#
# The first call compiles; nobody waits for the results; calls that nobody waits for overlap; and a
# mean takes each interruption by another program for part of the work. The median of single calls
# does not: half of them may be disturbed before it changes much.
#
# ### Exercise 1: a stopwatch
#
# Return the median of `rounds` calls of `f(x)`. `clock()` returns the time in seconds; elsewhere
# you would call `time.perf_counter()`. The check passes a simulated device whose times are known.
# `jax.block_until_ready` waits for a result, and works with it, too.


# %% tags=["exercise"]
def seconds(f, x, rounds, clock):
    """-> the seconds that one call of f(x) takes, without compilation"""
    ...


# %% tags=["solution"]
def seconds(f, x, rounds, clock):
    jax.block_until_ready(f(x))
    samples = []
    for _ in range(rounds):
        start = clock()
        jax.block_until_ready(f(x))
        samples.append(clock() - start)
    return np.median(samples)


# %%
if check.seconds(seconds):
    measured = seconds(lambda x: layer(x, w), x, 5, time.perf_counter)
    print(f'the layer above: {1e3 * measured:.1f} ms')

# %% [markdown]
# One trap is left: the machine itself becomes slower and faster, as its temperature and its other
# programs have it. Whoever measures A ten times and then B ten times compares two minutes, not two
# functions. So measure in turns: A, B, A, B, ... The package's `timing.measure` does all this:

# %%
functions = {
    name: functools.partial(cnn_jax.conv, implementation=name) for name in ('lax', 'im2col')
}
for name, timed in timing.measure(functions, x, w, rounds=5, limit=0.5).items():
    print(f'{name:8s} compiled in {timed.compile:.2f} s, {1e3 * timed.median:6.1f} ms per call')

# %% [markdown]
# ## What limits a layer: the roofline
#
# A processor does two things: it computes, and it moves numbers between memory and itself. Both
# have a limit, the *peak* in operations per second and the *bandwidth* in bytes per second. A layer
# with many operations per byte is limited by the first, one with few by the second. The ratio is
# its *intensity*, and the rate it can reach is
#
# $$\min(\text{peak},\ \text{intensity} \cdot \text{bandwidth})$$
#
# Drawn over the intensity this looks like a roof: it rises, then it is flat (Williams, Waterman and
# Patterson, 2009).
#
# ### Exercise 2: the roof of a layer
#
# A layer of stride 1 has `pixels` input positions (of all images, height times width) and as many
# output positions. Its window is `k` x `k`, from `c` to `o` channels in `groups` groups. Numbers
# are float32; a multiplication and an addition are two operations. For the bytes, be optimistic:
# input and kernel are read once, and the result is written once.


# %% tags=["exercise"]
def roofline(pixels, k, c, o, groups, peak, bandwidth):
    """peak in GFLOP/s, bandwidth in GB/s -> operations, bytes, attainable GFLOP/s"""
    ...


# %% tags=["solution"]
def roofline(pixels, k, c, o, groups, peak, bandwidth):
    weights = k * k * c // groups * o
    operations = 2 * pixels * weights
    moved = 4 * (pixels * c + pixels * o + weights)
    return operations, moved, min(peak, operations / moved * bandwidth)


# %% [markdown]
# Now measure the two limits of this machine: the peak by products of large matrices, whose
# intensity grows with their size; the bandwidth by reading and writing an array larger than the
# caches.

# %%
peaks = {
    'gemm_gflops': {'float32': machine.gemm_peak(rounds=3, largest=2048)},
    'bandwidth_gbs': machine.bandwidth(rounds=3),
}
peak, bandwidth = peaks['gemm_gflops']['float32'], peaks['bandwidth_gbs']
print(machine.one_line())
print(
    f'{peak:.0f} GFLOP/s, {bandwidth:.0f} GB/s: equal at {peak / bandwidth:.1f} operations per byte'
)

if check.roofline(roofline):
    layers = {
        'dense 3x3, 64 channels': (3, 64, 64, 1),
        'dense 1x1, 64 channels': (1, 64, 64, 1),
        'dense 3x3 of a colour picture': (3, 3, 64, 1),
        'depthwise 3x3, 64 channels': (3, 64, 64, 64),
    }
    for name, (k, c, o, groups) in layers.items():
        operations, moved, rate = roofline(8 * 56 * 56, k, c, o, groups, peak, bandwidth)
        print(f'{name:30s}{operations / moved:6.1f} FLOP/B, at most {rate:6.1f} GFLOP/s', end='')
        print(f', so at least {operations / rate / 1e6:5.2f} ms')

# %% [markdown]
# A depthwise layer has 64 times fewer operations than the dense one and as many bytes, except for
# the kernel. So it is bound by memory, and 64 times fewer operations do not make it 64 times
# faster. Networks for phones have many such layers; what saves their time is to move less, for
# example to fuse a layer with the ReLU that follows it.
#
# What do kernels reach? A problem is written as a string in the style of oneDNN's benchmark: `mb8`
# is a batch of 8, `ic64ih56` an input with 64 channels and 56 x 56 pixels, `oc64` output channels,
# `kh3ph1` a 3 x 3 window with padding 1; `g64` are groups. Each result is compared with one in
# float64 first: a fast wrong kernel is no kernel.

# %%
problems = {
    'mb8_ic64ih56oc64kh3ph1': ['lax', 'im2col', 'default'],
    'mb8_ic64ih56oc64kh1': ['lax', 'im2col', 'dot', 'default'],
    'g64mb8_ic64ih56oc64kh3ph1': ['lax', 'im2col', 'shift', 'default'],
}
rows = []
for text, names in problems.items():
    rows += compare.measure(
        problem.parse(text), 'forward', names=names, rounds=3, limit=0.5, check_macs=1e7
    )
print(report.table(rows, peaks))

# %% [markdown]
# `*` marks what `implementation=None` runs. "First ms" is the first call after compilation, whose
# memory is new. "% roof" is the share of the attainable rate. It can exceed 100: data may stay in a
# cache from call to call, and a busy machine may have been slower while its limits were measured.
# The fastest of each layer:

# %%
path = pathlib.Path(tempfile.mkdtemp(), 'roofline.png')
pictures.roofline(rows, peaks, path, dtype='float32')
Image(filename=path)

# %% [markdown]
# `python experiments/compare_kernels.py --model=vgg16 --input_shape=32,32,3 --batch_size=64` makes
# this table for all layers of a network, with both gradients. Three reasons why a kernel stays
# below the roof: matrices with few rows or columns do not fill the vector units; patches are copied
# (`im2col`); loops that a compiler wrote for the general case, as XLA's for groups on a CPU.
#
# ## Fewer multiplications: Winograd
#
# Two neighbouring outputs of a filter with three weights share two of their inputs:
#
# $$y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2, \qquad y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2$$
#
# That is 6 multiplications. Shmuel Winograd's F(2, 3), two outputs of a filter of three, needs 4:
#
# $$m_1 = (d_0 - d_2)\, g_0, \quad m_2 = (d_1 + d_2) \frac{g_0 + g_1 + g_2}{2}, \quad
#   m_3 = (d_2 - d_1) \frac{g_0 - g_1 + g_2}{2}, \quad m_4 = (d_1 - d_3)\, g_2$$
#
# The sums of weights are computed once per kernel, and the sums of data once for all output
# channels that use them, so multiplications are what counts.
#
# ### Exercise 3: F(2, 3)
#
# With which signs do $m_1$ to $m_4$ add up to $y_0$ and $y_1$? Expand $m_2 + m_3$ and $m_2 - m_3$
# on paper first. Use Python or NumPy arithmetic: the check passes numbers that count how often a
# datum is multiplied with a weight. Multiplications with constants are free; they are additions and
# halves.


# %% tags=["exercise"]
def f23(d, g):
    """d (4,), g (3,) -> y (2,), with 4 multiplications"""
    ...


# %% tags=["solution"]
def f23(d, g):
    m1 = (d[0] - d[2]) * g[0]
    m2 = (d[1] + d[2]) * ((g[0] + g[1] + g[2]) / 2)
    m3 = (d[2] - d[1]) * ((g[0] - g[1] + g[2]) / 2)
    m4 = (d[1] - d[3]) * g[2]
    return [m1 + m2 + m3, m2 - m3 - m4]


# %%
check.f23(f23)

# %% [markdown]
# The same as matrices: transform data and kernel, multiply element by element, add up.
#
# $$y = A^\top \left[ (G g) \odot (B^\top d) \right]$$

# %%
BT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
AT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

d, g = np.array([1, 2, 3, 5]), np.array([1, 2, 4])
print('by F(2, 3)', AT @ ((G @ g) * (BT @ d)), '  by the definition', np.correlate(d, g))

# %% [markdown]
# ### Exercise 4: two dimensions
#
# Take the four rows of a 4 x 4 tile as the "numbers" of F(2, 3), and the three rows of a 3 x 3
# kernel as its weights. Then a "multiplication" is a convolution of two rows, and F(2, 3) does each
# of these four with 4 multiplications: 16 for four outputs instead of 36. A matrix on the left
# transforms along columns; how do you transform along rows?


# %% tags=["exercise"]
def f2x2(d, g):
    """d (4, 4), g (3, 3) -> y (2, 2), with 16 multiplications"""
    ...


# %% tags=["solution"]
def f2x2(d, g):
    return AT @ ((G @ g @ G.T) * (BT @ d @ BT.T)) @ AT.T


# %%
check.f2x2(f2x2)

# %% [markdown]
# With channels, each of the 16 multiplications becomes a matrix product over the channels. What
# does it cost? Sums and differences that the direct form does not have, so more rounding. In
# bfloat16, with 8 bits, it matters where one rounds: hardware that multiplies 16-bit numbers needs
# the *transformed* data in 16 bits, too.

# %%
random = np.random.default_rng(0)
tiles, kernel = random.standard_normal((500, 64, 4, 4)), random.standard_normal((64, 3, 3))


def error(y, exact):
    return np.linalg.norm(y - exact) / np.linalg.norm(exact)


def rounded(a, dtype):
    return np.asarray(a, np.float32).astype(dtype).astype(np.float32)


def directly(d, g):
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3), axis=(-2, -1))
    return np.einsum('ncijkl,ckl->nij', windows, g)


for dtype in (np.float32, jnp.bfloat16):
    d, g = rounded(tiles, dtype), rounded(kernel, dtype)
    exact = directly(d.astype(np.float64), g.astype(np.float64))
    transformed = [rounded(a, dtype) for a in (BT @ d @ BT.T, G @ g @ G.T)]
    products = np.einsum('ncij,cij->nij', *transformed)
    results = {'direct': directly(d, g), 'Winograd': AT @ products @ AT.T}
    errors = [f'{name} {error(rounded(y, dtype), exact):.1e}' for name, y in results.items()]
    print(f'{np.dtype(dtype).name:9s}', ', '.join(errors))

# %% [markdown]
# The products are summed in float32 and the result is rounded, as hardware does it. In float32 the
# loss is invisible here. In bfloat16 the direct sum only rounds its result; Winograd rounds what it
# multiplies, too, and its error is more than twice as large. So the package's `winograd` transforms
# and multiplies in float32 always. Larger tiles save more (F(4 x 4, 3 x 3) needs 36 multiplications
# instead of 144), but their matrices have larger numbers, and larger errors (Lavin and Gray, 2016).
#
# The rate of the table below counts the operations of the direct form, so Winograd can exceed the
# peak.

# %%
rows = compare.measure(
    problem.parse('mb8_ic128ih16oc128kh3ph1'),
    'forward',
    names=['lax', 'im2col', 'winograd', 'default'],
    rounds=3,
    limit=0.5,
    check_macs=1e7,
)
print(report.table(rows, peaks))

# %% [markdown]
# ## Large windows: Fourier
#
# The Fourier transform turns a convolution into a product, frequency by frequency. Its cost does
# not depend on the window. But it knows no borders: it convolves *cyclically*, as if the picture
# were rolled up so that the last row is followed by the first.
#
# And it convolves as mathematicians do, with a flipped kernel. For real weights, the complex
# conjugate of the transform is the transform of the flipped kernel, so conjugate it, and the two
# flips cancel.
#
# ### Exercise 5: a convolution by FFT
#
# `np.fft.fft2(w, x.shape)` pads `w` with zeros, after its elements, and transforms; `np.fft.ifft2`
# goes back. Which outputs belong to windows that did not wrap around?


# %% tags=["exercise"]
def fft_conv(x, w):
    """x (h, w), w (kh, kw) -> y (h - kh + 1, w - kw + 1)"""
    ...


# %% tags=["solution"]
def fft_conv(x, w):
    spectrum = np.fft.fft2(x) * np.conj(np.fft.fft2(w, x.shape))
    y = np.fft.ifft2(spectrum).real
    return y[: x.shape[0] - w.shape[0] + 1, : x.shape[1] - w.shape[1] + 1]


# %% tags=["picture"]
picture = photo(size=160).mean(-1)
blur = np.full((25, 25), 1 / 25**2)

if check.fft_conv(fft_conv):
    cyclic = np.fft.ifft2(np.fft.fft2(picture) * np.conj(np.fft.fft2(blur, picture.shape))).real
    show({'picture': picture, 'cyclic': cyclic, 'without wrapping': fft_conv(picture, blur)})

# %% [markdown]
# At the right and lower border, the cyclic result mixes both ends of the picture. To keep more than
# the places where the window fits, pad the picture before.
#
# When does it pay? For each pair of channels, the direct sum needs $k^2$ multiplications per pixel.
# The product of spectra needs one complex multiplication per frequency, and half of the frequencies
# suffice for real numbers: two real multiplications per pixel, for any window. The transforms
# themselves are shared by all pairs. That is the count; what your machine says:

# %%
x = jnp.asarray(random.standard_normal((4, 48, 48, 16), np.float32))
print('window      lax       fft     (ms)')
for k in (3, 7, 13, 25):
    w = jnp.asarray(random.standard_normal((k, k, 16, 16), np.float32))
    both = {name: functools.partial(cnn_jax.conv, implementation=name) for name in ('lax', 'fft')}
    times = timing.measure(both, x, w, rounds=3, limit=0.5)
    print(f'{k:2d} x {k:2d}', *(f'{1e3 * times[name].median:9.2f}' for name in both))

# %% [markdown]
# For windows of 3 x 3, as most networks have them, this is 9 for the direct sum, 4 for Winograd and
# 2 for spectra. But the transforms come on top, and they move more data than a small convolution
# needs: the roofline again.
#
# ## Several devices: from `pmap` to `jit`
#
# Once one device is used well, take more. In *data parallelism* each device has a copy of the
# weights and a part of the batch; the gradients are averaged. Old programs write this with
# `jax.pmap`: one program per device, the batch with a leading axis of devices, and averages by
# hand. Today `jit` runs on the devices that hold its arguments, so one program is written for the
# whole batch, and `device_put` says what lies where:

# %%
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def loss(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


n = jax.local_device_count()
x, y = random.standard_normal((4 * n, 3), np.float32), np.ones((4 * n, 1), np.float32)
w = np.zeros((3, 1), np.float32)


@functools.partial(jax.pmap, axis_name='data', in_axes=(None, 0, 0), out_axes=None)
def pmap_step(w, x, y):
    gradient = jax.grad(loss)(w, x, y)
    return w - 0.1 * jax.lax.pmean(gradient, 'data')


@jax.jit
def jit_step(w, x, y):
    return w - 0.1 * jax.grad(loss)(w, x, y)


by_pmap = pmap_step(w, x.reshape(n, 4, 3), y.reshape(n, 4, 1))

mesh = Mesh(np.array(jax.local_devices()), ('data',))
replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
placed = jax.device_put((w, x, y), (replicated, split, split))
by_jit = jit_step(*placed)

print(f'{n} devices; rows of x on each: {[s.data.shape[0] for s in placed[1].addressable_shards]}')
print('largest difference', np.abs(np.asarray(by_pmap) - np.asarray(by_jit)).max())
print(
    'collectives that XLA added:', jit_step.lower(*placed).compile().as_text().count(' all-reduce(')
)

# %% [markdown]
# (On a CPU the devices are virtual: `JAX_NUM_CPU_DEVICES`, at the top of this notebook, which must
# be set before JAX is imported. They share the cores, so nothing becomes faster.)
#
# | pmap | jit |
# |---|---|
# | `jax.pmap(step, axis_name='data')` | `jax.jit(step)` |
# | reshape the batch to (devices, batch / devices, ...) | `device_put` it as `P('data')` |
# | replicate the state: a leading axis of copies | `device_put` it as `P()`: one array |
# | `lax.pmean(gradient, 'data')` | nothing: the loss is the mean over the whole batch |
# | `lax.pmean(metrics, 'data')`, then `metrics[0]` | nothing: metrics are ordinary numbers |
# | `fold_in(key, lax.axis_index('data'))` | nothing: one key draws one mask for the whole batch |
# | batch norm sees the examples of **one device** | batch norm sees the **whole batch** |
# | `jax.tree.map(lambda a: a[0], state)` before saving | save the state as it is |
# | `donate_argnums` | `donate_argnums`, the same |
#
# With several processes, `jax.make_array_from_process_local_data` takes the place of `device_put`.
# Only the row on batch norm changes the numbers. `experiments/train.py --parallel=pmap` runs the
# same step under `pmap`, which has been in maintenance mode since JAX 0.8.
#
# ## What a TPU is
#
# A processor built for one thing, products of matrices. Its matrix unit is a grid of 128 x 128
# multipliers (from v6e on, 256 x 256) through which numbers flow from cell to cell, so that each
# one that is read is used 128 times. It multiplies in bfloat16 and adds in float32. What follows
# for networks: channels in multiples of 128 fill the grid, and the 3 of a picture or one group of a
# depthwise layer leave it nearly empty; shapes are fixed when the program is compiled; bfloat16
# also halves the bytes. Its roof is high, and its ridge far to the right:

# %%
from cnn_jax.bench.tpu import aot

ridge = aot.V5E.flops / aot.V5E.hbm_bandwidth
print(f'v5e: {aot.V5E.flops / 1e12:.0f} TFLOP/s, {aot.V5E.hbm_bandwidth / 1e9:.0f} GB/s', end='')
print(f': equal at {ridge:.0f} operations per byte')

# %% [markdown]
# The dense layer with 64 channels of exercise 2, in float32, would be bound by memory there. In
# bfloat16, with twice the operations per byte, it is not. You need no TPU to ask its compiler:
# `launch/check_tpu.sh` compiles a training step ahead of time and prints memory and operations per
# chip (`docs/launch.md` has the command). These are estimates. A time is measured on a chip, or not
# at all.
#
# ## What to remember
#
# * Compile first, wait for each result, measure in turns, report the median.
# * Operations per byte decide whether memory or arithmetic is the limit.
# * Winograd and Fourier trade multiplications for additions, memory and rounding.
# * `jit` runs where its arguments are; placing the batch is all of data parallelism.
#
# Next: [your own kernel](11_own_kernel.ipynb).
