# %% [markdown]
# # 9. Making images
#
# So far pictures became smaller and ended in a few numbers. Here a few numbers become a picture.
# You write the layer for it, find out where its checkerboards come from, and write the parts of two
# famous models that draw digits: a variational autoencoder and a generative adversarial network.
#
# *120 minutes. You need [chapter 3](03_gradients.ipynb), and from exercise 4 on the normal
# distribution and its density.*

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import cnn_jax
from cnn_jax import data, models
from cnn_jax.course import generation as check
from cnn_jax.course.pictures import show
from cnn_jax.training import generation
from cnn_jax.training.state import FunctionalModel, init_state
from cnn_jax.viz.tiles import mosaic

# %% [markdown]
# ## Painting with a kernel
#
# Chapter 3 had this map already: the gradient of a convolution with respect to its input, $dx =
# W^\top dy$. Now it is a layer of its own, the *transposed convolution*. Each pixel of the small
# picture lays down a copy of the kernel, scaled by its brightness; with stride $s$, the copies are
# $s$ pixels apart; where they overlap, they add:
#
# $$y_{si + k,\, sj + l} \mathrel{+}= x_{ij}\, w_{kl}$$
#
# The result has $(n - 1) s + k$ pixels. The convolution in the other direction may have had padding
# $p$; then $p$ pixels are cut off on each side:
#
# $$m = (n - 1) s + k - 2 p$$
#
# ### Exercise 1: by scattering


# %% tags=["exercise"]
def conv_transpose(x, w, stride, padding):
    """x (h, w), w (kh, kw) -> y ((h - 1) stride + kh - 2 padding, ...)"""
    ...


# %% tags=["solution"]
def conv_transpose(x, w, stride, padding):
    kh, kw = w.shape
    y = np.zeros([(n - 1) * stride + k for n, k in zip(x.shape, w.shape, strict=True)])
    for i, j in np.ndindex(*x.shape):
        y[stride * i : stride * i + kh, stride * j : stride * j + kw] += x[i, j] * w
    return y[padding : len(y) - padding, padding : y.shape[1] - padding]


# %% [markdown]
# The transpose of a matrix is defined by $\langle W x, y \rangle = \langle x, W^\top y \rangle$ for
# all $x$ and $y$. So it can be tested without knowing any element of $W$:

# %%
random = np.random.default_rng(0)
x, w, y = (random.standard_normal(shape) for shape in ((9, 9), (3, 3), (5, 5)))

if check.conv_transpose(conv_transpose):
    forward = cnn_jax.conv(
        np.float32(x)[..., None], np.float32(w)[..., None, None], strides=2, padding=1
    )
    print('<W x, y>  ', (forward[..., 0] * y).sum())
    print('<x, W^T y>', (x * conv_transpose(y, w, 2, 1)).sum())

# %% [markdown]
# ## The same, read instead of written
#
# Which pixels arrive at $y_a$? Those with $s i + k = a$. If $s - 1$ zeros stand between
# neighbouring pixels, pixel $i$ stands at $s i$, and the sum runs over $k$ alone:
#
# $$y_a = \sum_k \tilde x_{a - k}\, w_k$$
#
# This is a convolution with stride 1 of the picture with holes, as chapter 3 had it for stride 1:
# with zeros all around, and the kernel flipped.
#
# ### Exercise 2: as a convolution
#
# Without padding. `conv(x, w)` is there.


# %%
def conv(x, w):
    """The convolution of chapter 1: x (h, w), w (kh, kw) -> (h - kh + 1, w - kw + 1)."""
    x, w = np.float32(x)[..., None], np.float32(w)[..., None, None]
    return np.asarray(cnn_jax.conv(x, w, padding='VALID'))[..., 0]


# %% tags=["exercise"]
def as_convolution(x, w, stride):
    """x (h, w), w (kh, kw) -> y ((h - 1) stride + kh, ...)"""
    ...


# %% tags=["solution"]
def as_convolution(x, w, stride):
    holes = np.zeros([(n - 1) * stride + 1 for n in x.shape])
    holes[::stride, ::stride] = x
    return conv(np.pad(holes, [(k - 1, k - 1) for k in w.shape]), w[::-1, ::-1])


# %%
check.as_convolution(as_convolution)

# %% [markdown]
# Most products are with zeros: $1 - 1 / s^2$ of them in two dimensions. Good kernels leave them out
# by computing each of the $s^2$ phases of the output with its own part of the window.
#
# ## Several sizes have one size
#
# A convolution with stride 2 rounds sizes down, so several inputs give one output size. On the way
# back somebody has to choose; `output_padding` adds at the end.

# %%
for n in (7, 8, 9, 10):
    (small,) = cnn_jax.output_size(n, 3, strides=2, padding=1)
    for extra in (0, 1):
        back = cnn_jax.conv_transpose(
            jnp.ones((small, 1)), jnp.ones((3, 1, 1)), strides=2, padding=1, output_padding=extra
        )
        print(f'{n} -> {small} -> {len(back)}  (output_padding={extra})')

# %% [markdown]
# PyTorch's `padding` cuts off, as in the formula; in JAX's own function it *adds* zeros, so the
# same number means something else. `cnn_jax.conv_transpose` has both: `convention='torch'` or
# `'lax'`.
#
# ## Checkerboards
#
# Let all pixels and weights be 1. Then each output says how many copies cover it.
#
# ### Exercise 3: overlaps
#
# In one dimension: $n$ pixels, window $k$, stride $s$, no padding.


# %% tags=["exercise"]
def overlaps(n, k, stride):
    """-> ((n - 1) stride + k,) counts"""
    ...


# %% tags=["solution"]
def overlaps(n, k, stride):
    counts = np.zeros((n - 1) * stride + k)
    for i in range(n):
        counts[stride * i : stride * i + k] += 1
    return counts


# %%
if check.overlaps(overlaps):
    for k, stride in ((3, 2), (4, 2), (5, 3), (6, 3)):
        print(f'window {k}, stride {stride}:', *overlaps(5, k, stride).astype(int))

# %% [markdown]
# If the window is no multiple of the stride, some pixels get more than their neighbours, and in two
# dimensions these numbers multiply: a checkerboard. A network can learn weights that compensate,
# but often does not (Odena et al. 2016). A multiple helps; but each phase of the output still
# has weights of its own. What cannot make a pattern from a constant input is to enlarge the picture
# first, by repeating pixels, and to convolve then: all windows see the same. Three layers of each
# kind, on a grey picture, first with all weights equal, then random. Brightness runs from each
# picture's darkest to its brightest number; a constant picture is grey:


# %% tags=["picture"]
def painted(x, kernels):
    for w in kernels:
        x = cnn_jax.conv_transpose(x, w, strides=2, padding='SAME')
    return x


def enlarged(x, kernels):
    for w in kernels:
        x = cnn_jax.conv(jax.image.resize(x, (2 * len(x), 2 * len(x), 1), 'nearest'), w)
    return x


grey = jnp.ones((12, 12, 1))
for name, weights in (('equal', np.ones), ('random', lambda shape: random.uniform(0, 1, shape))):
    pictures = {
        'transposed, 3': painted(grey, [np.float32(weights((3, 3, 1, 1))) for _ in range(3)]),
        'transposed, 4': painted(grey, [np.float32(weights((4, 4, 1, 1))) for _ in range(3)]),
        'enlarged, then 3': enlarged(grey, [np.float32(weights((3, 3, 1, 1))) for _ in range(3)]),
    }
    inside = {title: np.asarray(picture)[32:-32, 32:-32, 0] for title, picture in pictures.items()}
    show({f'{name}: {title}': picture / picture.mean() for title, picture in inside.items()})
    for title, picture in inside.items():
        print(f'{name}: {title:18s} brightest / darkest {picture.max() / picture.min():.2f}')

# %% [markdown]
# ## A picture in two numbers
#
# An *autoencoder* is an encoder, which makes a small code of a picture, and a decoder, which makes
# the picture of the code. Both learn together to return what they were given. Here: the 8 x 8
# digits, codes of two numbers, two convolutions with stride 2, and two transposed ones on the way
# back. (Their window is 3, as in the example of Keras that the model follows; that of the generator
# below is 4.)

# %%
digits = data.load('digits').splits
images, labels = digits['train'].inputs, digits['train'].labels


def network(name, **options):
    """A network of the package, as functions of its parameters."""
    return FunctionalModel(
        lambda rngs: models.create(
            name, input_shape=(8, 8, 1), num_classes=10, rngs=rngs, **options
        )
    )


def train(step, state, steps):
    """Takes training steps with batches of 64 digits; returns the state and all metrics."""
    step, history = jax.jit(step), []
    random = np.random.default_rng(0)
    for _ in range(steps):
        rows = random.integers(0, len(images), 64)
        state, metrics = step(state, {'inputs': images[rows]})
        history.append(metrics)
    return state, history


def trained(name):
    net, optimizer = network(name, latent=2, hidden=64), optax.adam(2e-3)
    step = generation.autoencoder_step(net, optimizer, lambda step: 2e-3, seed=0)
    state, history = train(step, init_state(net, optimizer, 0), 800)
    losses = {key: np.mean([each[key] for each in history[-100:]]) for key in history[-1]}
    print(*(f'{key} {value:.1f}' for key, value in losses.items() if key in TERMS), 'nats')
    model = net.merge(state.params, state.model_state)
    model.eval()
    return model


TERMS = ('reconstruction', 'divergence')  # of the loss
autoencoder = trained('autoencoder')


# %%
def show_codes(model):
    """Shows where the digits lie, and what the decoder makes of the places between."""
    codes = np.asarray(model.encode(images / np.float32(255)))
    low, high = np.quantile(codes, 0.02, axis=0), np.quantile(codes, 0.98, axis=0)
    grid = np.meshgrid(np.linspace(low[0], high[0], 14), np.linspace(high[1], low[1], 14))
    decoded = jax.nn.sigmoid(model.decode(jnp.float32(np.stack(grid, -1).reshape(-1, 2))))

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout='constrained')
    points = left.scatter(*codes.T, c=labels, cmap='tab10', s=4)
    left.legend(*points.legend_elements(), fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
    left.plot(*np.array([low, [low[0], high[1]], high, [high[0], low[1]], low]).T, color='grey')
    left.set_title('codes', fontsize=10)
    right.imshow(mosaic(np.asarray(decoded)[..., 0], 14), cmap='gray')
    right.set(xticks=[], yticks=[])
    right.set_title('decoded, from the frame', fontsize=10)
    plt.show()
    plt.close(figure)


show_codes(autoencoder)

# %% [markdown]
# The network was not told which digit it sees, and sorted them. But it cannot draw: nobody knows
# where codes lie, how far they reach, and between them are places that no training picture has
# used.
#
# ## Codes with a known distribution
#
# A *variational autoencoder* (Kingma & Welling 2013) makes two changes. The encoder returns not a
# point but a normal distribution for each code, its mean $\mu$ and $\log \sigma^2$; the decoder
# gets a sample of it. So near codes have to mean similar pictures. And a penalty pulls all these
# distributions towards the standard normal one, so that afterwards its samples are good codes:
#
# $$\text{loss} = -\log p(x \mid z) + D_{KL}\big(N(\mu, \sigma^2)\,\|\,N(0, 1)\big)$$
#
# ### Exercise 4: a sample that has a gradient
#
# Drawing is no function of $\mu$ and $\sigma$ that one could differentiate. But noise can be drawn
# first, from $N(0, 1)$, and then scaled and shifted. With the noise fixed, the sample depends
# smoothly on both (*reparametrisation*).


# %% tags=["exercise"]
def sample_code(mean, log_variance, noise):
    """all (n, latent) -> (n, latent)"""
    ...


# %% tags=["solution"]
def sample_code(mean, log_variance, noise):
    return mean + np.exp(log_variance / 2) * noise


# %%
check.sample_code(sample_code)

# %% [markdown]
# ### Exercise 5: the penalty
#
# The *Kullback-Leibler divergence* of $q$ from $p$ is the mean of $\log q(z) - \log p(z)$ over
# samples of $q$. For one dimension of ours:
#
# $$\log q - \log p = \tfrac12 \Big( z^2 - \frac{(z - \mu)^2}{\sigma^2} - \log \sigma^2 \Big)$$
#
# Take the mean over $z$ from $N(\mu, \sigma^2)$: what are the means of $z^2$ and of
# $(z - \mu)^2$? Dimensions are independent, so their divergences add.


# %% tags=["exercise"]
def kl(mean, log_variance):
    """both (n, latent) -> (n,)"""
    ...


# %% tags=["solution"]
def kl(mean, log_variance):
    return 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)


# %% [markdown]
# A mean can also be estimated, by drawing:

# %%
if check.kl(kl):
    mean, log_variance = np.array([[1.0, -0.5]]), np.array([[-2.0, 0.5]])
    noise = random.standard_normal((100_000, 2))
    z = check.sample_code.right(mean, log_variance, noise)
    logs = 0.5 * (z**2 - noise**2 - log_variance).sum(-1)
    print(f'formula {kl(mean, log_variance)[0]:.4f}')
    print(f'samples {logs.mean():.4f} +- {logs.std() / len(logs) ** 0.5:.4f}')

# %% [markdown]
# The package's VAE has these two lines in `negative_elbo`. The same network as before, otherwise:

# %%
vae = trained('vae')
show_codes(vae)

# %% [markdown]
# The codes fill the region around 0 that a standard normal distribution fills, and between digits
# lie pictures between digits. The price: the reconstruction is worse than the autoencoder's, and
# all is a little blurred, since the decoder answers uncertainty with grey.
#
# ## Between two pictures
#
# The mean of two pictures shows both, half transparent. The mean of two codes belongs to whatever
# lies between them, usually another digit. From left to right, above through pixels, below through
# codes:

# %% tags=["picture"]
first, second = (images[[np.flatnonzero(labels == digit)[3]]] / np.float32(255) for digit in (0, 4))
path = generation.between(vae.encode(first), vae.encode(second), 9)[0]
through_codes = np.asarray(jax.nn.sigmoid(vae.decode(path)))[..., 0]
share = np.linspace(0, 1, 9)[:, None, None]
through_pixels = (1 - share) * first[0, ..., 0] + share * second[0, ..., 0]
show({'from 0 to 4': mosaic(np.concatenate([through_pixels, through_codes]), 9)}, 2, 7)

# %% [markdown]
# ## A critic instead of a formula
#
# Blur comes from comparing pixel by pixel. A *generative adversarial network* (Goodfellow et al.
# 2014) compares with a second network. The *generator* makes pictures of noise, by transposed
# convolutions. The *discriminator* sees real and generated pictures and returns a logit $a$;
# $D = \operatorname{sigmoid}(a)$ is the probability that the picture is real. It is trained as any
# classifier with two classes:
#
# $$L_D = \operatorname{mean}\big({-\log D(\text{real})}\big) +
#   \operatorname{mean}\big({-\log (1 - D(\text{fake}))}\big)$$
#
# The generator wants the opposite. It could minimise $\log(1 - D(\text{fake}))$. But in the
# beginning its pictures are bad, the discriminator is sure, and where $D \approx 0$ this is flat.
# Therefore it minimises what has the same aim and is steep there:
#
# $$L_G = \operatorname{mean}\big({-\log D(\text{fake})}\big)$$
#
# The derivatives of both with respect to the logit of a generated picture:

# %%
logits = jnp.array([-8.0, -4.0, 0.0, 4.0])
flat = jax.vmap(jax.grad(lambda a: jnp.log(1 - jax.nn.sigmoid(a))))(logits)
steep = jax.vmap(jax.grad(lambda a: -jnp.log(jax.nn.sigmoid(a))))(logits)
for a, f, s in zip(logits, flat, steep, strict=True):
    print(f'logit {a:4.0f}   log(1 - D): {f:7.4f}   -log D: {s:7.4f}')

# %% [markdown]
# ### Exercise 6: both losses
#
# From logits. Mind large ones: $\operatorname{sigmoid}(200)$ is 1 in floating point, and
# $\log(1 - 1)$ is infinite. `np.logaddexp(0, a)` is $\log(1 + e^a)$, without overflow.


# %% tags=["exercise"]
def gan_losses(real, fake):
    """logits of real pictures (n,) and of generated ones (m,) -> L_D, L_G"""
    ...


# %% tags=["solution"]
def gan_losses(real, fake):
    def softplus(a):
        return np.logaddexp(0, a)

    return softplus(-real).mean() + softplus(fake).mean(), softplus(-fake).mean()


# %%
check.gan_losses(gan_losses)

# %% [markdown]
# `generation.gan_step` takes one step of each in turn. The networks are those of DCGAN (Radford et
# al. 2015), made small.

# %% tags=["picture"]
optimizer = optax.adam(5e-4, b1=0.5)
nets = {
    'generator': network('dcgan_generator', latent=32, width=32),
    'discriminator': network('dcgan_discriminator', width=32),
}
step = generation.gan_step(nets, optimizer, lambda step: 5e-4, seed=0)
noise = jax.random.normal(jax.random.key(1), (36, 32))


def draw(state):
    own = (generation.of_player(each, 'generator') for each in (state.params, state.model_state))
    return np.asarray(nets['generator'].predict(*own, noise))[..., 0]


state, samples, total = generation.init_gan_state(nets, optimizer, 0), {}, 0
for steps in (100, 300, 1000):
    state, history = train(step, state, steps)
    total += steps
    samples[f'after {total} steps'] = draw(state)
show(
    {name: mosaic(drawn, 6) for name, drawn in samples.items()}
    | {'real': mosaic(images[:36, ..., 0], 6)}
)
for name in ('discriminator_loss', 'generator_loss', 'real', 'fake'):
    print(f'{name:19s}{np.mean([each[name] for each in history[-100:]]):.3f}')

# %% [markdown]
# If the discriminator cannot decide, it says $D = 1/2$ to everything: then $L_D = 2 \log 2 \approx
# 1.386$ and $L_G = \log 2 \approx 0.693$. So these numbers do not say that the pictures are good,
# only that the two are even. One has to look; and to ask whether the generator has merely learned
# examples by heart. Above, generated digits, below, the nearest of the training pictures:

# %%
drawn = (draw(state)[:12] + 1) / 2
real = images[..., 0] / 255
nearest = ((drawn[:, None] - real) ** 2).sum((2, 3)).argmin(1)
show({'generated, and nearest': mosaic(np.concatenate([drawn, real[nearest]]), 12)}, 1.7, 7)

# %% [markdown]
# ## What to remember
#
# * A transposed convolution scatters the kernel; it is a convolution of the picture with holes.
# * The window should be a multiple of the stride, or enlarge first and convolve then.
# * An autoencoder compresses; a VAE also knows the distribution of its codes, so it can draw; a GAN
#   compares by a critic instead of pixel by pixel.
#
# Next: [why kernels differ in speed](10_speed.ipynb).
