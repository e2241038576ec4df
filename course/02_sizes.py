# %% [markdown]
# # 2. Stride, padding, dilation
#
# Where do the windows lie, how many are there, and what does one output see? After this chapter you
# can read a table of layers, and you know why a network moved from one framework to another can
# compute something else although all shapes agree.
#
# *60 minutes. You need [chapter 1](01_convolution.ipynb).*

# %%
import jax
import jax.numpy as jnp
import numpy as np

import cnn_jax
from cnn_jax.course import sizes as check
from cnn_jax.course.pictures import photo, show

# %% [markdown]
# ## Three numbers
#
# One axis is enough; with two, everything happens on each by itself. A signal of $n$ numbers and a
# window of $k$ weights:
#
# * **stride** $s$: the window moves by $s$ instead of 1. The result is about $s$ times shorter.
# * **padding** $p$: $p$ zeros are added on both sides, so that windows may begin before the signal.
# * **dilation** $d$: neighbouring weights are $d$ pixels apart, so the window sees more with the
#   same number of weights.
#
# $$y_i = \sum_k \tilde x_{s i + d k}\; w_k, \qquad \tilde x =
#   (\underbrace{0, \dots, 0}_{p},\; x_0, \dots, x_{n-1},\; \underbrace{0, \dots, 0}_{p})$$
#
# A convolution is linear, so it is a matrix: $y = W x$. Each row is one output, each column one
# input, and bright elements are the weights 1, 2, 3. All four pictures below are the same kernel.

# %% tags=["picture"]
kernel = np.float32([1, 2, 3])


def matrix(n, **options):
    """The matrix of a convolution: its derivative with respect to the signal."""

    def layer(x):
        return cnn_jax.conv(x[:, None], kernel[:, None, None], **options)[:, 0]

    return jax.jacobian(layer)(jnp.zeros(n))


show(
    {
        'plain': matrix(12, padding=0),
        'padding 1': matrix(12, padding=1),
        'stride 2': matrix(12, padding=0, strides=2),
        'dilation 3': matrix(12, padding=0, dilation=3),
    }
)

# %% [markdown]
# ### Exercise 1: how many outputs?
#
# A dilated window spans $d (k - 1) + 1$ pixels. How often can it be placed into $n + 2 p$ pixels,
# in steps of $s$?


# %% tags=["exercise"]
def output_size(n, k, stride, padding, dilation):
    """-> the number of outputs, an int"""
    ...


# %% tags=["solution"]
def output_size(n, k, stride, padding, dilation):
    room = n + 2 * padding - (dilation * (k - 1) + 1)  # for steps after the first window
    return room // stride + 1


# %%
check.output_size(output_size)

# %% [markdown]
# ### Exercise 2: the convolution itself
#
# With loops, or with slices: `x[a : b : step]`.


# %% tags=["exercise"]
def conv_1d(x, w, stride, padding, dilation):
    """x (n,), w (k,) -> y (number of outputs,)"""
    ...


# %% tags=["solution"]
def conv_1d(x, w, stride, padding, dilation):
    x = np.pad(x, padding)
    outputs = (len(x) - dilation * (len(w) - 1) - 1) // stride + 1
    y = np.zeros(outputs)
    for i in range(outputs):
        for k in range(len(w)):
            y[i] += x[stride * i + dilation * k] * w[k]
    return y


# %%
check.conv_1d(conv_1d)

# %% [markdown]
# ## Two meanings of "same"
#
# Padding has two jobs: to give the pixels at the border as many windows as the others, and to keep
# sizes simple. With stride 1 and an odd window, $p = (k - 1) / 2$ keeps the size, and everybody
# agrees. With a stride, there are two conventions:
#
# * PyTorch's users write a number, `padding=1`: that many zeros on both sides.
# * TensorFlow, Keras and JAX write `'SAME'`: the result has $\lceil n / s \rceil$ outputs, and only
#   as many zeros are added as the last window needs, the odd one **after** the signal.
#
# ### Exercise 3: SAME
#
# Where does the last window begin, where does it end, and how many zeros are missing there? Never
# fewer than none.


# %% tags=["exercise"]
def same_padding(n, k, stride):
    """-> (before, after)"""
    ...


# %% tags=["solution"]
def same_padding(n, k, stride):
    outputs = -(-n // stride)  # rounded up
    total = max((outputs - 1) * stride + k - n, 0)
    return total // 2, total - total // 2


# %%
check.same_padding(same_padding)

# %% [markdown]
# The package prints what each convention does:

# %%
print(cnn_jax.explain_padding(8, 3, strides=2))

# %% [markdown]
# With 8 pixels, window 3 and stride 2, both conventions give 4 outputs. So nothing warns. But the
# windows do not lie at the same places:
#
# ### Exercise 4: where are the windows?
#
# Return the middle of each window, as a position in the signal, where the first pixel has position
# 0. Windows that begin in the padding begin at negative positions.


# %% tags=["exercise"]
def centres(n, k, stride, padding):
    """-> (number of outputs,)"""
    ...


# %% tags=["solution"]
def centres(n, k, stride, padding):
    outputs = (n + 2 * padding - k) // stride + 1
    return np.arange(outputs) * stride - padding + (k - 1) / 2


# %%
if check.centres(centres):
    print('padding=1:', centres(8, 3, 2, padding=1))
    print("'SAME':   ", centres(9, 3, 2, padding=0), '(nothing before, 1 after)')

# %% [markdown]
# One pixel apart. This kernel copies the middle of its window, so it shows them:

# %%
signal = jnp.arange(8.0)[:, None]
middle = jnp.float32([0, 1, 0])[:, None, None]
for padding in (1, 'SAME'):
    print(f'{padding!r:6}', cnn_jax.conv(signal, middle, strides=2, padding=padding)[:, 0])

# %% [markdown]
# Each layer with a stride shifts once more. After the five of a ResNet, features lie up to 31
# pixels from where the weights expect them, although every shape is right. Weights from PyTorch
# need PyTorch's numbers.
#
# ## What does one output see?
#
# The *receptive field* of an output is the part of the input it depends on. Going up through the
# layers, keep two numbers: the `size` of the field, and the `jump`, how many input pixels apart
# neighbouring outputs are. Without any layer, both are 1.
#
# ### Exercise 5: receptive field
#
# A layer has a window and a stride. By how many input pixels does its window enlarge the field?
# What becomes of the jump?


# %% tags=["exercise"]
def receptive_field(layers):
    """layers: [(window, stride), ...] from input to output -> (size, jump)"""
    ...


# %% tags=["solution"]
def receptive_field(layers):
    size, jump = 1, 1
    for window, stride in layers:
        size += (window - 1) * jump
        jump *= stride
    return size, jump


# %%
if check.receptive_field(receptive_field):
    print('three 3 x 3:', receptive_field([(3, 1)] * 3), ' one 7 x 7:', receptive_field([(7, 1)]))

# %% [markdown]
# Three small windows see as much as one large one, with $3 \cdot 9 = 27$ weights instead of 49, and
# with nonlinear functions in between. This is VGG's argument.
#
# What an output *can* see, it need not use evenly. The derivative of one output with respect to the
# picture shows how much each pixel counts. Even with equal weights everywhere, the middle counts
# most, because more paths lead there:


# %% tags=["picture"]
def influence(layers, n=41):
    """The derivative of the middle output with respect to the input."""

    def network(x):
        for window, stride, dilation in layers:
            w = jnp.ones((window, window, 1, 1)) / window**2
            x = cnn_jax.conv(x, w, strides=stride, dilation=dilation)
        return x[x.shape[0] // 2, x.shape[1] // 2, 0]

    return jax.grad(network)(jnp.zeros((n, n, 1)))[..., 0]


show(
    {
        'five of 3 x 3': influence([(3, 1, 1)] * 5),
        'one of 11 x 11': influence([(11, 1, 1)]),
        'strides 1, 2, 2': influence([(3, 1, 1), (3, 2, 1), (3, 2, 1), (3, 1, 1)]),
        'dilations 1, 2, 4': influence([(3, 1, 1), (3, 1, 2), (3, 1, 4)]),
        'dilations 4, 4': influence([(3, 1, 4), (3, 1, 4)]),
    }
)

# %% [markdown]
# The last picture has holes: with equal dilations, some pixels inside the field are never seen. The
# dilations 1, 2, 4 leave none.
#
# A stride throws outputs away, and with them what was between. Fine patterns then turn into coarse
# ones that were never there (*aliasing*). A blur before the stride prevents it:

# %% tags=["picture"]
picture = photo(size=320).mean(-1)
stripes = picture + 0.5 * np.sin(0.9 * np.pi * np.arange(picture.shape[1]))


def every_fourth(x, window):
    w = np.full((window, window, 1, 1), 1 / window**2, np.float32)
    return cnn_jax.conv(np.float32(x)[..., None], w, strides=4)[..., 0]


show({'fine stripes': stripes[60:140, 100:180], 'stride 4': every_fourth(stripes, 1),
      'blur, then stride 4': every_fourth(stripes, 5)})  # fmt: skip

# %% [markdown]
# ## What to remember
#
# * $\lfloor (n + 2p - d(k - 1) - 1) / s \rfloor + 1$ outputs.
# * Equal shapes do not mean equal windows: `'SAME'` and `padding=1` differ by one pixel at a
#   stride.
# * A layer adds $(k - 1) \cdot$ jump to the receptive field, then multiplies the jump by its
#   stride.
#
# Next: [the gradients](03_gradients.ipynb).
