# %% [markdown]
# # 1. Convolution by hand
#
# You write the convolution four times: with loops, as one matrix product, as a scan over the
# window, and as filters for your own picture. At the end you can say why all of them return the
# same numbers, and which filter does what.
#
# *90 minutes. You need Python, NumPy arrays and slices, and sums with indices.*

# %%
import jax.numpy as jnp
import numpy as np
from jax import lax

import cnn_jax
from cnn_jax.course import convolution as check
from cnn_jax.course.pictures import photo, show

PICTURE = ''  # the path of a picture of your own; empty: a sample

# %% [markdown]
# ## A window slides over a picture
#
# A grey picture is an array `x[i, j]`: row `i`, column `j`, one number per pixel. A *kernel*, or
# *filter*, is a small array `w[k, l]`. The convolution puts the kernel onto the picture at every
# place where it fits, multiplies the numbers that lie on each other, and adds the products:
#
# $$y_{ij} = \sum_{k, l} x_{i + k,\, j + l}\; w_{kl}$$
#
# Three things to notice. Every output is computed with the **same** weights, so whatever the kernel
# finds, it finds everywhere. Every output depends on a **small** part of the picture. And a window
# of $k$ pixels fits into $n$ pixels at $n - k + 1$ places, so the result is a little smaller.
#
# (Mathematicians call this the *cross-correlation*; their convolution flips the kernel first. For a
# kernel that is learned it makes no difference, so in deep learning the simpler one has the name.)
#
# ### Exercise 1: loops
#
# Write the formula as it stands, with loops over $i$, $j$, $k$ and $l$. Slow is fine.


# %% tags=["exercise"]
def conv_loops(x, w):
    """x (h, w), w (kh, kw) -> y (h - kh + 1, w - kw + 1)"""
    ...


# %% tags=["solution"]
def conv_loops(x, w):
    kh, kw = w.shape
    y = np.zeros((x.shape[0] - kh + 1, x.shape[1] - kw + 1))
    for i, j in np.ndindex(*y.shape):
        for k, l in np.ndindex(kh, kw):
            y[i, j] += x[i + k, j + l] * w[k, l]
    return y


# %%
check.conv_loops(conv_loops)

# %% [markdown]
# Does flipping matter? For a fixed filter it does. This one subtracts the left neighbour from the
# right one; flipped, it finds the same edges with the opposite sign.

# %%
step = np.array([[0, 0, 0, 1, 1, 1]])
difference = np.array([[-1, 0, 1]])


def conv(x, w):
    """The package's convolution, for pictures without channels."""
    x, w = np.float32(x)[..., None], np.float32(w)[..., None, None]
    return np.asarray(cnn_jax.conv(x, w, padding='VALID'))[..., 0]


print('as written', conv(step, difference))
print('flipped   ', conv(step, difference[:, ::-1]))

# %% [markdown]
# ## One matrix product
#
# Loops in Python are slow, and nothing runs closer to a machine's limits than a matrix product. So
# write all windows into the rows of a matrix. Then one product with the kernel, written as a
# column, computes all outputs. The rearrangement is called *im2col*, "image to columns".
#
# Colour pictures and feature maps have a third axis, the *channels*: `x[i, j, c]`. A kernel
# `w[k, l, c, o]` then sums over the input channels too, and has one output channel for each `o`:
#
# $$y_{ijo} = \sum_{k, l, c} x_{i + k,\, j + l,\, c}\; w_{klco}$$
#
# ### Exercise 2: im2col
#
# Each row of the result is one window, flattened by `reshape`, so in the order row of the window,
# column of the window, channel. The rows follow the places: $(0, 0)$, $(0, 1)$, ...


# %% tags=["exercise"]
def im2col(x, height, width):
    """x (h, w, c) -> ((h - height + 1) (w - width + 1), height * width * c)"""
    ...


# %% tags=["solution"]
def im2col(x, height, width):
    rows, columns = x.shape[0] - height + 1, x.shape[1] - width + 1
    return np.stack(
        [x[i : i + height, j : j + width].reshape(-1) for i in range(rows) for j in range(columns)]
    )


# %% [markdown]
# If it is right, the convolution is one line:

# %%
picture = photo(PICTURE, size=160)
random = np.random.default_rng(0)
w = random.standard_normal((3, 3, 3, 8), np.float32)

if check.im2col(im2col):
    y = im2col(picture, 3, 3) @ w.reshape(-1, 8)
    y = y.reshape(picture.shape[0] - 2, picture.shape[1] - 2, 8)
    print('largest difference', np.abs(y - cnn_jax.conv(picture, w, padding='VALID')).max())

# %% [markdown]
# The price is memory: each pixel is written once for every window it lies in, here 9 times. So
# libraries build the matrix in pieces, or compute its elements when they need them.
#
# ## A sum of shifted pictures
#
# Exchange the sums. For one element $(k, l)$ of the window, all outputs need the picture shifted by
# $(k, l)$, and one matrix product over the channels. So the convolution is a sum of `kh * kw`
# products of shifted views, and no matrix of patches is needed:
#
# $$y = \sum_{k, l} x_{k:,\, l:}\; w_{kl}$$
#
# ### Exercise 3: a scan
#
# In JAX, a loop inside a compiled program is a `lax.scan`: it calls `body(carry, element)` for each
# element and returns the last carry. The carry is the sum so far; the elements are pairs of a start
# and the kernel's matrix there. `lax.dynamic_slice(x, start, size)` is a slice whose start may be
# computed.


# %% tags=["exercise"]
def conv_scan(x, w):
    """x (h, w, c), w (kh, kw, c, o) -> y (h - kh + 1, w - kw + 1, o)"""

    def add_tap(y, tap):
        (k, l), matrix = tap  # matrix (c, o)
        view = ...
        return y + jnp.einsum('hwc,co->hwo', view, matrix), None

    ...  # y, _ = lax.scan(add_tap, zeros, (starts, matrices))


# %% tags=["solution"]
def conv_scan(x, w):
    kh, kw, channels, features = w.shape
    rows, columns = x.shape[0] - kh + 1, x.shape[1] - kw + 1
    starts = jnp.array(list(np.ndindex(kh, kw)))

    def add_tap(y, tap):
        (k, l), matrix = tap
        view = lax.dynamic_slice(x, (k, l, 0), (rows, columns, channels))
        return y + jnp.einsum('hwc,co->hwo', view, matrix), None

    y = jnp.zeros((rows, columns, features))
    y, _ = lax.scan(add_tap, y, (starts, w.reshape(kh * kw, channels, features)))
    return y


# %%
check.conv_scan(conv_scan)

# %% [markdown]
# ## All kernels of the package
#
# The package has many ways to compute the same sum. `scan` and `im2col` are yours; the others trade
# multiplications, memory and rounding against each other (chapter 10). They agree to rounding:

# %%
wanted = cnn_jax.conv(picture, w, implementation='lax', precision='highest')
for name in cnn_jax.implementations('conv'):
    try:
        y = cnn_jax.conv(picture, w, implementation=name, precision='highest')
    except ValueError as reason:
        print(f'{name:10s} {reason}')
    else:
        print(f'{name:10s} largest difference from lax {np.abs(y - wanted).max():.1e}')

# %% [markdown]
# ## Filters for a picture
#
# Before kernels were learned, they were invented. The simplest replaces each pixel by the mean of
# its neighbourhood.
#
# ### Exercise 4: blur
#
# Return the kernel that computes the mean over `size` x `size` pixels. What must its elements sum
# to, so that a grey wall stays as grey as it was?


# %% tags=["exercise"]
def box(size):
    """-> (size, size)"""
    ...


# %% tags=["solution"]
def box(size):
    return np.full((size, size), 1 / size**2)


# %% tags=["picture"]
grey = picture.mean(-1)

if check.box(box):
    show({'picture': grey, 'box(3)': conv(grey, box(3)), 'box(9)': conv(grey, box(9))})

# %% [markdown]
# ### Exercise 5: sharpen
#
# What a blur removes are the details: picture minus blurred picture. Adding them once more, with a
# factor, sharpens. A convolution is linear, so the recipe for pictures is a recipe for kernels:
#
# $$\text{sharpen} = \text{identity} + \text{amount} \cdot (\text{identity} - \text{box}_3)$$
#
# where the identity is the kernel with 1 in the centre and 0 elsewhere.


# %% tags=["exercise"]
def sharpen(amount):
    """-> (3, 3)"""
    ...


# %% tags=["solution"]
def sharpen(amount):
    identity = np.zeros((3, 3))
    identity[1, 1] = 1
    return identity + amount * (identity - np.full((3, 3), 1 / 9))


# %%
if check.sharpen(sharpen):
    amounts = (0, 1, 3)
    show({f'amount {a}': conv(grey, sharpen(a)).clip(0, 1) for a in amounts})

# %% [markdown]
# ### Exercise 6: edges
#
# An edge is where brightness changes. Sobel's filters estimate the derivative along columns, $g_x$,
# and along rows, $g_y$; each smooths across its direction with 1, 2, 1:
#
# $$w_x = \begin{pmatrix} -1 & 0 & 1 \\ -2 & 0 & 2 \\ -1 & 0 & 1 \end{pmatrix}, \qquad
#   w_y = w_x^\top$$
#
# The strength of an edge is the length of the gradient, $\sqrt{g_x^2 + g_y^2}$. This is
# no convolution any more: a convolution is linear, a length is not. Networks put a nonlinear
# function between convolutions for the same reason.


# %% tags=["exercise"]
def edges(x):
    """x (h, w) -> (h - 2, w - 2)"""
    ...


# %% tags=["solution"]
def edges(x):
    w = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return np.sqrt(conv(x, w) ** 2 + conv(x, w.T) ** 2)


# %% tags=["picture"]
if check.edges(edges):
    w = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    show({'$g_x$': conv(grey, w), '$g_y$': conv(grey, w.T), 'edges': edges(grey)})

# %% [markdown]
# ## Colour, and your own picture
#
# A fixed filter treats red, green and blue alike and separately. This is a *depthwise* convolution:
# `groups=3`, one group per channel. Set `PICTURE` at the top to a file of your own (on Colab,
# upload it in the file panel first) and run again.

# %% tags=["picture"]
from cnn_jax.ops import filters


def apply(x, filter):
    """Applies a filter to each channel; the border is mirrored."""
    kernel = filters.as_kernel(filter, channels=3)
    return cnn_jax.conv(x, kernel, groups=3, padding_mode='reflect')


large = photo(PICTURE, size=240)
shown = {name: apply(large, filters.FILTERS[name]()) for name in ('gaussian', 'sharpen', 'emboss')}
show({'picture': large, **shown})

# %% [markdown]
# ## What to remember
#
# * A convolution is a sum over a window, with the same weights everywhere.
# * It is a matrix product (im2col), and a sum of shifted matrix products (scan): the same sum
#   in another order, so they agree up to rounding.
# * A filter that sums to 1 keeps brightness; one that sums to 0 answers to changes only.
#
# Next: [stride, padding, dilation](02_sizes.ipynb), which say where the windows lie.
