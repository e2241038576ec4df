# %% [markdown]
# # 7. VGG-16 and Network in Network
#
# Two networks of 2013 and 2014 that still teach what layers cost. You count the parameters and
# operations of VGG-16, see that they are in different places, and learn what Network in Network
# does about it. Then you use a trained network for something else, by training its last layer only.
#
# *90 minutes. You need [chapter 5](05_network.ipynb).*

# %%
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import cnn_jax
from cnn_jax import data, models, nn, training
from cnn_jax.course import architectures as check
from cnn_jax.course import network as chapter5
from cnn_jax.course.pictures import bars
from cnn_jax.inspection import flops

# %% [markdown]
# ## What a layer costs
#
# *Parameters* need memory, and time to load; *multiply-adds* need time to compute. Count both for a
# convolution of $c$ channels to $o$ features with a window of $k \times k$, whose result has
# $h \times w$ places. Biases are parameters, but the customary count of multiply-adds leaves them
# out.
#
# Do one by hand: the first layer of VGG-16 sees 224 x 224 pixels in 3 colours, and has 64 features
# with windows of 3 x 3. How many parameters? How many multiply-adds?
#
# ### Exercise 1: one convolution


# %% tags=["exercise"]
def conv_cost(height, width, window, channels, features):
    """Stride 1, the size is kept, with bias -> parameters, multiply-adds"""
    ...


# %% tags=["solution"]
def conv_cost(height, width, window, channels, features):
    weights = window * window * channels * features
    return weights + features, height * width * weights


# %%
if check.conv_cost(conv_cost):
    for name, layer in {
        'first layer': (224, 224, 3, 3, 64),
        'last convolution': (14, 14, 3, 512, 512),
        'first dense layer': (1, 1, 1, 7 * 7 * 512, 4096),
    }.items():
        parameters, macs = conv_cost(*layer)
        print(f'{name:18s}{parameters:12,} parameters {macs:14,} multiply-adds')

# %% [markdown]
# A dense layer is a convolution with one place and a window of one pixel, whose channels are all
# the inputs, as in the last line.
#
# ## VGG-16
#
# Simonyan and Zisserman ([2014](https://arxiv.org/abs/1409.1556)) asked what depth alone can do.
# Every convolution has a window of 3 x 3 and keeps the size; every pool halves it; the number of
# features doubles up to 512; three dense layers follow. 13 + 3 layers have weights, hence the name.

# %%
print(*check.VGG16)

# %% [markdown]
# ### Exercise 2: a whole network
#
# `layers` is such a list, `dense` the outputs of the dense layers, `shape` the picture's height,
# width and channels. Walk through the layers and keep track of all three.


# %% tags=["exercise"]
def network_cost(layers, dense, shape):
    """-> parameters, multiply-adds of the whole network"""
    ...


# %% tags=["solution"]
def network_cost(layers, dense, shape):
    height, width, channels = shape
    costs = []
    for layer in layers:
        if layer == 'pool':
            height, width = height // 2, width // 2
        else:
            costs.append(conv_cost(height, width, 3, channels, layer))
            channels = layer
    inputs = height * width * channels
    for outputs in dense:
        costs.append(conv_cost(1, 1, 1, inputs, outputs))
        inputs = outputs
    return tuple(sum(cost) for cost in zip(*costs, strict=True))


# %%
if check.network_cost(network_cost):
    parameters, macs = network_cost(check.VGG16, (4096, 4096, 1000), (224, 224, 3))
    print(f'{parameters:,} parameters, {macs:,} multiply-adds')

# %% [markdown]
# torchvision [states](https://docs.pytorch.org/vision/stable/models.html) 138,357,544 parameters
# and 15.47 G operations. The package builds the network without its arrays and counts; the script
# `python experiments/inspect_model.py --model=vgg16 --input_shape=224,224,3 --num_classes=1000`
# prints the whole table. Where are they?


# %%
def summary(name, shape, classes):
    """The layers of a model with parameters; `eval_shape` makes shapes only, no 500 MB of arrays"""
    model = nnx.eval_shape(
        lambda: models.create(name, input_shape=shape, num_classes=classes, rngs=nnx.Rngs(0))
    )
    return [row for row in flops.summary(model, shape) if row.parameters]


vgg = summary('vgg16', (224, 224, 3), 1000)
bars(
    [row.name for row in vgg],
    {
        'million parameters': [row.parameters / 1e6 for row in vgg],
        'billion multiply-adds': [row.macs / 1e9 for row in vgg],
    },
)
dense = [row for row in vgg if row.type == 'Linear']
for what in ('parameters', 'macs'):
    share = sum(getattr(row, what) for row in dense) / sum(getattr(row, what) for row in vgg)
    print(f'share of the dense layers in {what}: {100 * share:.1f} %')

# %% [markdown]
# The parameters are in the dense layers and the operations in the convolutions. A weight of a
# convolution is used at every place, one of a dense layer once. So a network that must fit into
# memory saves on dense layers, and one that must be fast saves on convolutions.
#
# ## Why 3 x 3?
#
# Two convolutions of 3 x 3, one after the other, see 5 x 5 pixels; three see 7 x 7. So large
# windows can be replaced by small ones, with a ReLU after each. What does it save? All of them
# have $c$ channels and $c$ features; leave out the biases.
#
# ### Exercise 3: a stack


# %% tags=["exercise"]
def stack_of_3x3(n, channels):
    """-> side of what n convolutions of 3 x 3 see, their weights, weights of one of that side"""
    ...


# %% tags=["solution"]
def stack_of_3x3(n, channels):
    side = 2 * n + 1
    return side, n * 9 * channels**2, side**2 * channels**2


# %% [markdown]
# The receptive field can be measured: with all weights 1, which pixels change the output in the
# middle?


# %%
def middle(x, n):
    for _ in range(n):
        x = cnn_jax.conv(x, jnp.ones((3, 3, 1, 1)))
    return x[10, 10, 0]


if check.stack_of_3x3(stack_of_3x3):
    for n in (1, 2, 3, 4):
        seen = (jax.grad(middle)(jnp.ones((21, 21, 1)), n) != 0).any(0).sum()
        side, stack, one = stack_of_3x3(n, 64)
        print(f'{n} of 3 x 3 see {seen} pixels, {stack:,} weights; 1 of {side} x {side}: {one:,}')

# %% [markdown]
# ## Network in Network
#
# Lin, Chen and Yan ([2013](https://arxiv.org/abs/1312.4400)) removed the dense layers, with two
# ideas.
#
# **A convolution of 1 x 1** has no neighbourhood: it is a dense layer over the channels, applied at
# every place with the same weights. Two of them after each convolution make the function of a
# window more than linear: a small network in the network.
#
# **Global average pooling**: the last 1 x 1 convolution has one feature map per class, a map of
# where the class is seen. The mean over the map is the logit. It has no parameters to overfit, and
# takes pictures of any size.
#
# ### Exercise 4: the head of Network in Network
#
# Write both, without a loop: `x @ w` multiplies the last axis.


# %% tags=["exercise"]
def nin_head(x, w, b):
    """x (n, height, width, channels), w (channels, classes), b (classes,) -> logits (n, classes)"""
    ...


# %% tags=["solution"]
def nin_head(x, w, b):
    return (x @ w + b).mean((1, 2))


# %%
check.nin_head(nin_head)

# %% [markdown]
# What does it save? Network in Network for pictures of 32 x 32 pixels, and what a head like
# VGG's would have cost on its last maps, 8 x 8 with 192 channels:

# %%
nin = summary('nin', (32, 32, 3), 10)
print(f'{"layer":10s}{"result":>15s}{"parameters":>13s}{"multiply-adds":>15s}')
for row in nin:
    print(f'{row.name:10s}{row.output_shape!s:>15}{row.parameters:13,}{row.macs:15,}')
print(f'{"total":25s}{sum(r.parameters for r in nin):13,}{sum(r.macs for r in nin):15,}')
head = check.network_cost.right((), (4096, 4096, 10), (8, 8, 192))
print(f'{"dense head instead":25s}{head[0]:13,}{head[1]:15,}')

# %% [markdown]
# The dense head alone would have 70 times the parameters of the whole network.
#
# ## Fine-tuning
#
# What a network has learned on many examples helps with a few others: *transfer*. We have no large
# network here, so make a small one: two convolutions and one dense layer learn to tell the digits 0
# to 4 apart. The other task is the digits 5 to 9, which it has never seen.

# %%
digits = data.load('digits')


def half(split, first):
    """Returns raw pictures and labels of the digits first to first + 4, counted from 0."""
    part = digits.splits[split]
    part = part.take((part.labels >= first) & (part.labels < first + 5))
    return part.inputs, part.labels - first


def with_head(model, rngs):
    """Returns a copy of the layers of `model`, with a new last layer for five classes."""
    return nn.Layers({**dict(nnx.clone(model).items()), 'logits': nnx.Linear(128, 5, rngs=rngs)})


def new(rngs):
    """Returns the network of chapter 5 without its hidden dense layer, for five classes."""
    layers = dict(chapter5.network.right(rngs).items())
    del layers['dense'], layers['relu3']
    return with_head(nn.Layers(layers), rngs)


others = {'train': half('train', 0), 'test': half('test', 0)}
often = {'eval_every': '20epochs', 'checkpoint_every': '20epochs'}
folder = tempfile.mkdtemp()
run = training.fit(new, others, workdir=folder, epochs=5, learning_rate=3e-3, **often)
pretrained = run.model

# %% [markdown]
# Now *freeze* all layers but the last, so that they stay detectors of strokes, and only the last
# layer learns what strokes make a 5. `training.fit` (and `train.py`, as `--freeze`) takes the
# parameters that keep their values as text: names, or patterns such as `conv1/*`, separated by
# commas. The names, in order of the layers, are like these:

# %%
params = nnx.to_flat_state(nnx.state(pretrained, nnx.Param))
order = list(dict(pretrained.items()))
names = sorted(('/'.join(path) for path, _ in params), key=lambda n: order.index(n.split('/')[0]))
print(names)

# %% [markdown]
# ### Exercise 5: the text for `freeze`
#
# Freeze everything except the parameters of the last layer. The last name belongs to that layer.


# %% tags=["exercise"]
def frozen(names):
    """names: in order, each 'layer/parameter' -> a text, names or patterns separated by commas"""
    ...


# %% tags=["solution"]
def frozen(names):
    last = names[-1].split('/')[0]
    return ','.join(name for name in names if name.split('/')[0] != last)


# %%
wanted = {'train': half('train', 5), 'test': half('test', 5)}

if check.frozen(frozen):
    start = with_head(pretrained, nnx.Rngs(1))
    before = start.conv1.kernel[...], start.logits.kernel[...]
    options = {'epochs': 20, 'learning_rate': 1e-2, 'freeze': frozen(names), **often}
    tuned = training.fit(start, wanted, workdir=tempfile.mkdtemp(), **options)
    after = tuned.model.conv1.kernel[...], tuned.model.logits.kernel[...]
    for name, old, now in zip(('conv1', 'logits'), before, after, strict=True):
        print(f'{name}: largest change of a weight {jnp.abs(now - old).max():.3f}')

# %% [markdown]
# Is it worth it? Compare with a few examples per class and 100 steps: all parameters from random
# weights; all from the pretrained ones; the last layer only, on pretrained and on random layers.
# This is how it is done without the trainer: gradient and optimiser are told which parameters.


# %%
def step_for(trained):
    """Returns a step that changes the parameters that the filter `trained` selects."""

    @nnx.jit
    def step(model, optimizer, x, labels):
        def loss(model):
            return chapter5.cross_entropy.right(model(x), labels)

        gradient = nnx.grad(loss, argnums=nnx.DiffState(0, trained))(model)
        optimizer.update(model, gradient)

    return step


EVERY, LAST = nnx.Param, nnx.All(nnx.Param, nnx.PathContains('logits'))
steps = {EVERY: step_for(EVERY), LAST: step_for(LAST)}
adam = optax.adam(3e-3)
(x, y), test = ((digits.normalize(pictures), labels) for pictures, labels in wanted.values())


def learn(model, trained, rows):
    """Trains on the examples `rows` in 100 steps -> the test accuracy."""
    optimizer = nnx.Optimizer(model, adam, wrt=trained)
    for _ in range(100):
        steps[trained](model, optimizer, x[rows], y[rows])
    return chapter5.accuracy.right(model(test[0]), test[1])


methods = {
    'random, all layers trained': (new, EVERY),
    'pretrained, all layers trained': (lambda rngs: with_head(pretrained, rngs), EVERY),
    'pretrained, last layer trained': (lambda rngs: with_head(pretrained, rngs), LAST),
    'random, last layer trained': (new, LAST),
}
for n in (3, 30):
    print(f'{n} examples per class')
    for name, (make, trained) in methods.items():
        scores = []
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(len(y))
            rows = np.concatenate([order[y[order] == label][:n] for label in range(5)])
            scores.append(learn(make(nnx.Rngs(seed)), trained, rows))
        print(f'  {name:32s}{100 * np.mean(scores):5.1f} ± {100 * np.std(scores, ddof=1):.1f} %')

# %% [markdown]
# With three examples per class, the spread over the seeds hides most differences. With 30, it is
# best, by a little, to start from the pretrained weights and train everything. The last layer
# alone, 645 of 5,445 parameters, comes close. But look at the last line, the control: on *random*
# convolutions it does almost as well. Pictures of 8 x 8 pixels need no better features; without
# this line we would praise the pretraining for it.
#
# And features are not equally general. With the hidden dense layer of chapter 5 kept and frozen,
# the last layer reaches only about 80 %: that layer kept what tells 0 to 4 apart, and little else.
# Freeze the early layers first; they have the most to give to other tasks (Yosinski et al.,
# [2014](https://arxiv.org/abs/1411.1792)).
#
# With real networks the source is a million photographs; the recipe is the same. `train.py
# --pretrained=FILE` reads torchvision's weights and makes a new last layer if the classes differ,
# and `--freeze` keeps what you name. Batch normalisation is a trap here: its running averages are
# no parameters and go on moving, frozen or not.
#
# ## What to remember
#
# * Convolution: $k^2 c\,o + o$ parameters, $h\,w\,k^2 c\,o$ multiply-adds. Dense layers hold the
#   parameters of VGG-16, convolutions its operations.
# * $n$ windows of 3 x 3 see $2 n + 1$ pixels, with fewer weights than one window of that size.
# * A 1 x 1 convolution is a dense layer at every place; the mean of its maps needs no dense layer
#   at all.
# * Fine-tuning: keep the early features, train the last layers, and compare with random features.
#
# Next: [sound and text](08_sequences.ipynb).
