# %% [markdown]
# # 3. The gradients
#
# Training needs two derivatives of each convolution: with respect to its kernel, to improve it, and
# with respect to its input, to pass on to the layer below. You derive both and write them; both
# turn out to be convolutions again.
#
# *120 minutes. You need [chapter 2](02_sizes.ipynb) and the chain rule.*

# %%
import jax
import jax.numpy as jnp
import numpy as np

import cnn_jax
from cnn_jax.course import gradients as check
from cnn_jax.course.pictures import photo, show

# %% [markdown]
# ## A test that needs no theory
#
# Whatever you derive, you can test: move one number a little, and see how much the result changes.
#
# $$\frac{\partial f}{\partial x_i} \approx \frac{f(x + \varepsilon e_i) - f(x - \varepsilon e_i)}
#   {2 \varepsilon}$$
#
# Here $e_i$ is 1 at position $i$ and 0 elsewhere. Moving in both directions is worth the second
# call: the error is proportional to $\varepsilon^2$ instead of $\varepsilon$, because the term with
# the second derivative cancels.
#
# ### Exercise 1: finite differences


# %% tags=["exercise"]
def finite_difference(f, x, eps):
    """f: array -> number, x: array of any shape -> the derivatives, in the shape of x"""
    ...


# %% tags=["solution"]
def finite_difference(f, x, eps):
    g = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        one = np.zeros(x.shape)
        one[i] = eps
        g[i] = (f(x + one) - f(x - one)) / (2 * eps)
    return g


# %%
check.finite_difference(finite_difference)

# %% [markdown]
# How small should $\varepsilon$ be? Not too small: the two values become so similar that rounding
# is all that is left of their difference. The derivative of $\sin$ at 1:

# %%
difference = check.finite_difference.right  # the package's own; yours is as good
print('eps        float64      float32')
for eps in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
    double = difference(np.sin, np.float64(1), eps)
    single = (np.sin(np.float32(1 + eps)) - np.sin(np.float32(1 - eps))) / np.float32(2 * eps)
    print(f'{eps:.0e}  {abs(double - np.cos(1)):10.1e}  {abs(single - np.cos(1)):10.1e}')

# %% [markdown]
# ## The kernel
#
# Let $L$ be the loss, and write $dy_{ij}$ for $\partial L / \partial y_{ij}$, $dw$ and $dx$
# likewise. The layer above hands down $dy$. With $y_{ij} = \sum_{kl} x_{i+k,\,j+l}\, w_{kl}$, where
# does $w_{kl}$ appear? In **every** output, multiplied by $x_{i+k,\,j+l}$. The chain rule adds over
# all places where a variable appears:
#
# $$dw_{kl} = \sum_{i, j} dy_{ij} \frac{\partial y_{ij}}{\partial w_{kl}}
#           = \sum_{i, j} x_{i+k,\,j+l}\; dy_{ij}$$
#
# Compare with the formula of the convolution: it is the same, with $dy$ in the place of the kernel.
# The gradient of the kernel is the convolution of the input with the gradient of the output.
#
# ### Exercise 2: dw


# %% tags=["exercise"]
def filter_grad(x, dy):
    """x (h, w), dy (h - kh + 1, w - kw + 1) -> dw (kh, kw)"""
    ...


# %% tags=["solution"]
def filter_grad(x, dy):
    dw = np.zeros((x.shape[0] - dy.shape[0] + 1, x.shape[1] - dy.shape[1] + 1))
    for k, l in np.ndindex(*dw.shape):
        dw[k, l] = (x[k : k + dy.shape[0], l : l + dy.shape[1]] * dy).sum()
    return dw


# %%
random = np.random.default_rng(0)
x, w, dy = (random.standard_normal(shape) for shape in ((6, 7), (3, 2), (4, 6)))


def conv(x, w):
    """The convolution in float64, as a sum of shifted views."""
    rows, columns = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    return sum(w[k, l] * x[k : k + rows, l : l + columns] for k, l in np.ndindex(*w.shape))


if check.filter_grad(filter_grad):
    # A loss with the gradient dy: the sum of y * dy.
    numeric = difference(lambda w: (conv(x, w) * dy).sum(), w, 1e-4)
    print('difference from finite differences', np.abs(filter_grad(x, dy) - numeric).max())

# %% [markdown]
# ## The input
#
# Where does $x_{ab}$ appear? In the outputs whose window covers it: with $i + k = a$, so
# $i = a - k$.
#
# $$dx_{ab} = \sum_{k, l} dy_{a-k,\,b-l}\; w_{kl}$$
#
# The minus signs say that the kernel is flipped, and that $i$ runs beyond both ends of $dy$, where
# it is zero. So: pad $dy$ with $k - 1$ zeros on all sides, and convolve with the flipped kernel.
#
# ### Exercise 3: dx


# %% tags=["exercise"]
def input_grad(dy, w):
    """dy (m, n), w (kh, kw) -> dx (m + kh - 1, n + kw - 1)"""
    ...


# %% tags=["solution"]
def input_grad(dy, w):
    kh, kw = w.shape
    padded = np.pad(dy, [(kh - 1, kh - 1), (kw - 1, kw - 1)])
    dx = np.zeros((dy.shape[0] + kh - 1, dy.shape[1] + kw - 1))
    for a, b in np.ndindex(*dx.shape):
        dx[a, b] = (padded[a : a + kh, b : b + kw] * w[::-1, ::-1]).sum()
    return dx


# %%
if check.input_grad(input_grad):
    numeric = difference(lambda x: (conv(x, w) * dy).sum(), x, 1e-4)
    print('difference from finite differences', np.abs(input_grad(dy, w) - numeric).max())

# %% [markdown]
# ## Why "transposed"?
#
# A convolution is a matrix, $y = W x$. The chain rule for a matrix is $dx = W^\top dy$: row becomes
# column. In the picture, the rows of $W$ are windows; those of $W^\top$ read the kernel backwards.
# So this map from $dy$ to $dx$ has a name of its own, *transposed convolution*, and networks that
# draw pictures use it as a layer (chapter 9). It is not an inverse: $W^\top W \neq 1$.

# %% tags=["picture"]
kernel = np.float32([1, 2, 3])


def layer(x, **options):
    return cnn_jax.conv(x[:, None], kernel[:, None, None], padding=0, **options)[:, 0]


W = jax.jacobian(layer)(jnp.zeros(9))
strided = jax.jacobian(lambda x: layer(x, strides=2))(jnp.zeros(9))
show({'$W$': W, '$W^T$': W.T, '$W$, stride 2': strided, '$W^T$, stride 2': strided.T})

# %% [markdown]
# With a stride, each column of $W^\top$ begins two rows below the one before. Some rows see two
# outputs and some see one: a convolution of $dy$ with zeros put between its elements. It is easier
# to write the other way round, by *scattering*: output $i$ came from the window that begins at
# $s i$, so it hands $dy_i\, w_k$ back to $x_{si + k}$. Where windows overlap, the contributions
# add.
#
# ### Exercise 4: dx with a stride
#
# In one dimension, without padding. The length `n` of $x$ is an argument: the last pixels may lie
# in no window.


# %% tags=["exercise"]
def strided_input_grad(dy, w, stride, n):
    """dy (m,), w (k,) -> dx (n,)"""
    ...


# %% tags=["solution"]
def strided_input_grad(dy, w, stride, n):
    dx = np.zeros(n)
    for i in range(len(dy)):
        dx[stride * i : stride * i + len(w)] += dy[i] * w
    return dx


# %%
check.strided_input_grad(strided_input_grad)

# %% [markdown]
# ## A whole layer
#
# In a network there are examples $n$, channels $c$, features $o$, and a bias. In one dimension:
#
# $$y_{nio} = b_o + \sum_{k, c} x_{n,\,i+k,\,c}\; w_{kco}$$
#
# The recipe stays: for each variable, add over all places where it appears. The bias $b_o$ appears
# in every example and position. For one $k$, the sums over channels are matrix products: `einsum`.
#
# ### Exercise 5: all gradients


# %% tags=["exercise"]
def layer_grads(x, w, dy):
    """x (n, length, c), w (k, c, o), dy (n, length - k + 1, o)

    -> dx, dw, db, in the shapes of x, w, and (o,)
    """
    ...


# %% tags=["solution"]
def layer_grads(x, w, dy):
    m = dy.shape[1]
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for k in range(len(w)):
        dx[:, k : k + m] += np.einsum('nio,co->nic', dy, w[k])
        dw[k] = np.einsum('nic,nio->co', x[:, k : k + m], dy)
    return dx, dw, dy.sum((0, 1))


# %%
check.layer_grads(layer_grads)

# %% [markdown]
# ## What JAX does
#
# `jax.grad` applies the same rules. The package leaves the derivation to JAX and chooses a kernel
# for each of the three maps separately, since they have different shapes:

# %%
x, w = jnp.ones((8, 28, 28, 16)), jnp.ones((3, 3, 16, 32))
gradients = jax.grad(lambda x, w: cnn_jax.conv(x, w).sum(), argnums=(0, 1))
for used in cnn_jax.explain(gradients, x, w):
    print(used)

# %% [markdown]
# A gradient can also be looked at. Which pixels raise the sum of the edges in the middle of the
# picture?

# %% tags=["picture"]
picture = photo(size=120).mean(-1)
sobel = np.float32([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])[..., None, None]


def edges_in_the_middle(x):
    g = cnn_jax.conv(x[..., None], sobel)[..., 0]
    return (g[20:60, 40:80] ** 2).sum()


show({'picture': picture, 'gradient': jax.grad(edges_in_the_middle)(jnp.asarray(picture))})

# %% [markdown]
# ## What to remember
#
# * Add over all places where the variable appears. That is the whole derivation.
# * $dw$: convolve $x$ with $dy$. $dx$: scatter $dy\,w$, or convolve padded $dy$ with the flipped
#   $w$.
# * Test by finite differences, in float64, with $\varepsilon$ around $10^{-5}$.
#
# Next: [pooling](04_pooling.ipynb), where the function has corners.
