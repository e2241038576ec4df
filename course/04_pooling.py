# %% [markdown]
# # 4. Pooling and its gradient
#
# Pooling makes feature maps smaller, by the largest or the mean value of each window. It has no
# weights, but its gradient has to be right too, and its details differ between frameworks: ties,
# negative numbers, and what the mean divides by.
#
# *60 minutes. You need [chapter 3](03_gradients.ipynb).*

# %%
import jax
import jax.numpy as jnp
import numpy as np

import cnn_jax
from cnn_jax.course import pooling as check
from cnn_jax.course.pictures import photo, show

# %% [markdown]
# ## The largest of each window
#
# Suppose a feature map says how much each place looks like an ear. Whether there is an ear matters;
# whether it is one pixel further left does not. Max pooling keeps the strongest answer of each
# window:
#
# $$y_{ij} = \max_{0 \le a, b < k} x_{s i + a,\, s j + b}$$
#
# Windows lie as in a convolution; usually the stride $s$ is $k$, so that they do not overlap.
#
# ### Exercise 1: max pooling


# %% tags=["exercise"]
def max_pool(x, k, stride):
    """x (h, w) -> y ((h - k) // stride + 1, (w - k) // stride + 1)"""
    ...


# %% tags=["solution"]
def max_pool(x, k, stride):
    y = np.zeros([(n - k) // stride + 1 for n in x.shape])
    for i, j in np.ndindex(*y.shape):
        y[i, j] = x[stride * i : stride * i + k, stride * j : stride * j + k].max()
    return y


# %%
check.max_pool(max_pool)

# %% [markdown]
# The same picture, made four times smaller in three ways. The mean is faithful. The maximum prefers
# what is bright; in a feature map, what was found. The plain stride keeps one pixel of sixteen, by
# chance.

# %% tags=["picture"]
picture = photo(size=160).mean(-1)
x = picture[..., None]
show(
    {
        'picture': picture,
        'max': cnn_jax.max_pool(x, (4, 4))[..., 0],
        'mean': cnn_jax.avg_pool(x, (4, 4))[..., 0],
        'stride': picture[::4, ::4],
    }
)

# %% [markdown]
# How much does pooling care about a shift? Less than a stride, but it is not indifferent. The
# change of the result when the picture moves by one pixel, relative to the result:

# %%
pools = {
    'max': lambda x: cnn_jax.max_pool(x, (4, 4)),
    'mean': lambda x: cnn_jax.avg_pool(x, (4, 4)),
    'stride': lambda x: x[::4, ::4],
    'mean of everything': lambda x: cnn_jax.global_avg_pool(x[None])[0],
}
for name, pool in pools.items():
    before, after = np.asarray(pool(x[:, :-1])), np.asarray(pool(x[:, 1:]))
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    print(f'{name:20s}{100 * change:6.2f} %')

# %% [markdown]
# ## Who caused it?
#
# The gradient of a maximum: a small change of the largest element changes the result by as much; a
# small change of any other changes nothing. So all of $dy$ goes to the *winner* of the window. With
# overlapping windows an element can win several times, and the gradients add.
#
# And if two elements are equally large? There the function has a corner and no derivative. Any
# split that adds up to $dy$ is defensible. PyTorch and this package give everything to the first
# one, in reading order; `jnp.max` shares it.
#
# ### Exercise 2: the gradient of max pooling
#
# Ties go to the first. `argmax` finds the first, and `np.unravel_index` turns its number into a row
# and a column.


# %% tags=["exercise"]
def max_pool_grad(x, dy, k, stride):
    """x (h, w), dy (the shape of y) -> dx (h, w)"""
    ...


# %% tags=["solution"]
def max_pool_grad(x, dy, k, stride):
    dx = np.zeros(x.shape)
    for i, j in np.ndindex(*dy.shape):
        window = x[stride * i : stride * i + k, stride * j : stride * j + k]
        a, b = np.unravel_index(window.argmax(), window.shape)
        dx[stride * i + a, stride * j + b] += dy[i, j]
    return dx


# %%
check.max_pool_grad(max_pool_grad)

# %% [markdown]
# Are ties rare? Not after a ReLU, $\max(x, 0)$, which makes many elements exactly 0:

# %%
edges = cnn_jax.conv(x, np.float32([[-1, 0, 1]])[:, :, None, None])
rectified = jax.nn.relu(edges - 0.1)
windows = cnn_jax.unfold(rectified, (2, 2), strides=2)
ties = (windows == windows.max(-1, keepdims=True)).sum(-1) > 1
print(f'{100 * ties.mean():.0f} % of the windows have no single winner')

# %% [markdown]
# A ReLU passes no gradient to elements that it set to 0, so the choice matters less than this
# number suggests. But it explains why the gradients of two correct frameworks can differ, and what
# finite differences say at a corner: half, which is the derivative of nothing.

# %%
tie = jnp.float32([[2.0], [2.0]])


def value(x):
    return cnn_jax.max_pool(x, (2,)).sum()


numeric = [(value(tie.at[i].add(1e-2)) - value(tie.at[i].add(-1e-2))) / 2e-2 for i in range(2)]
print('max_pool           ', jax.grad(value)(tie).ravel())
print('jnp.max            ', jax.grad(jnp.max)(tie).ravel())
print('finite differences ', np.array(numeric).round(3))

# %% [markdown]
# ## The mean of each window
#
# $$y_{ij} = \frac{1}{k^2} \sum_{a, b} x_{si + a,\, sj + b}$$
#
# With padding, a window at the border holds some zeros that are not part of the picture. Do they
# count? If they do, borders become darker. PyTorch and Flax count them unless told otherwise, Keras
# and TensorFlow do not; a network moved between them changes at its borders.
#
# ### Exercise 3: average pooling
#
# Pad with zeros. With `count_include_pad` the divisor is always $k^2$; without, the number of
# elements of the window that lie in the picture.


# %% tags=["exercise"]
def avg_pool(x, k, stride, padding, count_include_pad):
    """x (h, w) -> y"""
    ...


# %% tags=["solution"]
def avg_pool(x, k, stride, padding, count_include_pad):
    inside = np.pad(np.ones(x.shape), padding)
    x = np.pad(x, padding)
    y = np.zeros([(n - k) // stride + 1 for n in x.shape])
    for i, j in np.ndindex(*y.shape):
        here = np.s_[stride * i : stride * i + k, stride * j : stride * j + k]
        y[i, j] = x[here].sum() / (k**2 if count_include_pad else inside[here].sum())
    return y


# %%
if check.avg_pool(avg_pool):
    wall = np.ones((5, 5))
    print('a white wall, padding counted:\n', avg_pool(wall, 3, 2, 1, True).round(2))
    print('not counted:\n', avg_pool(wall, 3, 2, 1, False).round(2))

# %% [markdown]
# ## A mean is a convolution
#
# Averaging is linear, has a window, and treats all places alike. So it is a convolution, and its
# gradient needs no new thought: chapter 3 has it. Only the kernel is fixed.
#
# ### Exercise 4: its kernel
#
# Return the kernel with which `cnn_jax.conv(x, w, strides=k, padding=0)` is average pooling. Each
# channel is averaged by itself; what does that say about `w[a, b, c, o]`?


# %% tags=["exercise"]
def pool_kernel(k, channels):
    """-> (k, k, channels, channels)"""
    ...


# %% tags=["solution"]
def pool_kernel(k, channels):
    w = np.zeros((k, k, channels, channels))
    for c in range(channels):
        w[:, :, c, c] = 1 / k**2
    return w


# %%
if check.pool_kernel(pool_kernel):
    colour = photo(size=160)
    by_conv = cnn_jax.conv(colour, np.float32(pool_kernel(4, 3)), strides=4, padding=0)
    by_pool = cnn_jax.avg_pool(colour, (4, 4))
    print('largest difference', np.abs(by_conv - by_pool).max())

# %% [markdown]
# Max pooling is not linear: no kernel does it. Compare where the two send the gradient of the sum
# of all outputs. The mean treats all pixels alike; the maximum selects.

# %% tags=["picture"]
corner = x[20:60, 40:90]


def gradient(pool, stride):
    return jax.grad(lambda x: pool(x, (4, 4), stride).sum())(corner)[..., 0]


show(
    {
        'picture': corner[..., 0],
        'of max': gradient(cnn_jax.max_pool, 4),
        'of max, overlapping': gradient(cnn_jax.max_pool, 2),
        'of mean, overlapping': gradient(cnn_jax.avg_pool, 2),
    }
)

# %% [markdown]
# ## The mean of everything
#
# At the end of a network, *global average pooling* takes the mean of each whole feature map: one
# number per channel, for any picture size. VGG-16 has a dense layer there instead, from
# $7 \cdot 7 \cdot 512$ numbers to 4096, with more than 100 million of its 138 million weights
# (chapter 7); ResNets pool, and need half a million to two million for the same 1,000 classes.
#
# ## What to remember
#
# * Max pooling: begin with $-\infty$; the winner takes all of the gradient; ties go to the first.
# * Average pooling is a convolution with a fixed kernel; ask what it divides by at the border.
# * Small windows weaken the effect of a shift; only the mean of everything removes it.
#
# Next: [a network](05_network.ipynb) made of these parts.
