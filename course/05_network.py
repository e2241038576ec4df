# %% [markdown]
# # 5. A network from parts
#
# Convolutions, pools and their gradients become a network that reads handwritten digits. You write
# the network, its loss, and a step of training. Then you teach it too few examples on purpose, see
# it learn them by heart, and measure what helps.
#
# *90 minutes. You need [chapter 4](04_pooling.ipynb).*

# %%
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn_jax import data, nn, training
from cnn_jax.course import network as check
from cnn_jax.course.pictures import curves, show
from cnn_jax.inspection import flops
from cnn_jax.training import augment

# %% [markdown]
# ## The data
#
# scikit-learn's digits: 1,797 pictures of 8 x 8 pixels. Three parts of them have different tasks.
# From the *training* examples the network learns; with the *validation* examples we choose, for
# example when to stop; the *test* examples we use once, at the end. Whoever chooses with the test
# examples has no number left that tells the truth.

# %% tags=["picture"]
digits = data.load('digits')


def examples(split, rows=slice(None)):
    """-> pictures (n, 8, 8, 1) with mean 0 and deviation 1, labels (n,)"""
    part = digits.splits[split].take(rows)
    return digits.normalize(part.inputs), part.labels


train = examples('train', slice(0, 1000))
validation = examples('train', slice(1000, None))
test = examples('test')
print({name: len(y) for name, (_, y) in [('train', train), ('val', validation), ('test', test)]})
show({str(y): x[..., 0] for x, y in zip(train[0][:8], train[1][:8], strict=True)}, 1.4, 1.2)

# %% [markdown]
# ## The network
#
# | layer | | result |
# |---|---|---|
# | convolution | 16 windows of 3 x 3, `'SAME'`; ReLU | 8 x 8 x 16 |
# | max pool | 2 x 2 | 4 x 4 x 16 |
# | convolution | 32 windows of 3 x 3, `'SAME'`; ReLU | 4 x 4 x 32 |
# | max pool | 2 x 2 | 2 x 2 x 32 |
# | flatten | | 128 |
# | dense | 64; ReLU | 64 |
# | dense | 10: one *logit* per class | 10 |
#
# The parts: `nn.Conv(inputs, outputs, (3, 3), rngs=rngs)`, whose padding is `'SAME'` if you say
# nothing; `nn.MaxPool((2, 2))`; `nn.Flatten()`; `nnx.Linear(inputs, outputs, rngs=rngs)`; and the
# function `nnx.relu`. `nn.Layers({'conv1': ..., 'relu1': ...})` applies its parts in order. `rngs`
# is the source of the random initial weights.
#
# ### Exercise 1: the network


# %% tags=["exercise"]
def network(rngs):
    """-> a model, which maps pictures (n, 8, 8, 1) to logits (n, 10)"""
    ...


# %% tags=["solution"]
def network(rngs):
    return nn.Layers(
        {
            'conv1': nn.Conv(1, 16, (3, 3), rngs=rngs),
            'relu1': nnx.relu,
            'pool1': nn.MaxPool((2, 2)),
            'conv2': nn.Conv(16, 32, (3, 3), rngs=rngs),
            'relu2': nnx.relu,
            'pool2': nn.MaxPool((2, 2)),
            'flatten': nn.Flatten(),
            'dense': nnx.Linear(2 * 2 * 32, 64, rngs=rngs),
            'relu3': nnx.relu,
            'logits': nnx.Linear(64, 10, rngs=rngs),
        }
    )


# %%
check.network(network)

# %%
make = check.network.right  # the package's own; yours is as good
for row in flops.summary(make(nnx.Rngs(0)), (8, 8, 1)):
    print(f'{row.name:10s}{row.output_shape!s:14}{row.parameters:7,} parameters')

# %% [markdown]
# ## The loss
#
# The logits $z$ become probabilities by the *softmax*, and the loss of an example is minus the
# logarithm of the probability of its label $t$:
#
# $$p_c = \frac{e^{z_c}}{\sum_j e^{z_j}}, \qquad
#   L = -\frac{1}{n} \sum_{\text{examples}} \log p_t$$
#
# A network that knows nothing gives each of the ten classes 1/10, so its loss is
# $\log 10 \approx 2.3$. Random weights come near; a first loss several times larger is a bug.
#
# Since $e^{1000}$ is infinite in a computer, subtract the largest logit from all of them first:
# numerator and denominator shrink by the same factor, and $p$ stays the same. Use `jnp`, so that
# JAX can derive the gradient.
#
# ### Exercise 2: cross-entropy


# %% tags=["exercise"]
def cross_entropy(logits, labels):
    """logits (n, classes), labels (n,) whole numbers -> the mean loss, a number"""
    ...


# %% tags=["solution"]
def cross_entropy(logits, labels):
    logits = logits - logits.max(-1, keepdims=True)
    log_p = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    return -log_p[jnp.arange(len(labels)), labels].mean()


# %%
if check.cross_entropy(cross_entropy):
    print('loss of the untrained network', cross_entropy(make(nnx.Rngs(0))(test[0]), test[1]))

# %% [markdown]
# ### Exercise 3: accuracy
#
# The answer of the network is the class with the largest logit. What fraction is right?


# %% tags=["exercise"]
def accuracy(logits, labels):
    """logits (n, classes), labels (n,) -> a number from 0 to 1"""
    ...


# %% tags=["solution"]
def accuracy(logits, labels):
    return jnp.mean(jnp.argmax(logits, -1) == labels)


# %%
check.accuracy(accuracy)

# %% [markdown]
# Why not train for accuracy, if that is what we want? Move a weight a little: almost always no
# answer changes, so the gradient is zero. The cross-entropy rewards each small improvement.
#
# ## A step
#
# One step computes the loss and its gradient on a few examples (a *batch*), and lets the optimiser
# change the parameters. `nnx.value_and_grad(f)(model)` returns the value of `f(model)` and its
# gradient; `optimizer.update(model, gradient)` changes the model in place.
#
# ### Exercise 4: one step
#
# Use your `cross_entropy`, and return the loss.


# %% tags=["exercise"]
def train_step(model, optimizer, x, labels):
    """Changes the model. x (n, ...), labels (n,) -> the loss before the change, a number"""
    ...


# %% tags=["solution"]
def train_step(model, optimizer, x, labels):
    def loss(model):
        return cross_entropy(model(x), labels)

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


# %% [markdown]
# That is all there is to training. `nnx.jit` compiles the step once; an *epoch* visits every
# example once, in a new order.

# %%
if check.train_step(train_step):
    model = make(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    compiled = nnx.jit(train_step)
    random = np.random.default_rng(0)
    for epoch in range(5):
        for rows in random.permutation(len(train[1])).reshape(-1, 50):
            value = compiled(model, optimizer, train[0][rows], train[1][rows])
        right = check.accuracy.right(model(validation[0]), validation[1])
        print(f'epoch {epoch + 1}  loss {value:.3f}  validation accuracy {right:.3f}')
    print(f'test accuracy {check.accuracy.right(model(test[0]), test[1]):.3f}')

# %% [markdown]
# ## The same in three lines
#
# Checkpoints, resumption, metrics, pictures, several devices: a trainer adds what every project
# needs, and nothing to the mathematics. `training.fit` takes your function, calls it, and runs the
# loop above. Everything about the run lies in its folder; the same call with the same folder
# resumes there.

# %%
run = training.fit(make, 'digits', workdir=tempfile.mkdtemp(), epochs=5, learning_rate=3e-3)
print(f'test accuracy {run.metrics["test"]["accuracy"]:.3f}')
print(sorted(path.name for path in run.workdir.path.iterdir() if path.name[0] != '.'))

# %% [markdown]
# From a shell, with your function in `my_model.py`:
#
#     python experiments/train.py --model=my_model.py:network --dataset=digits --epochs=5 \
#         --learning_rate=3e-3 --workdir=runs/mine
#
# ## Learning by heart
#
# The network has 13,706 parameters. With 50 examples it does not need to understand digits: it can
# remember them. This is *overfitting*. Five things are said to help:
#
# * **Stop early**, before the network has learned everything by heart.
# * **Augmentation**: shift each picture at random by up to a pixel, so that it is seldom the same.
# * **Dropout**: in each step set half of the 64 hidden numbers to zero, so that no answer hangs on
#   one of them.
# * **Weight decay**: in each step shrink all weights a little, so that only those that are needed
#   stay large.
# * **More data.**
#
# One function tries all but the first. Each seed draws its own examples and initial weights.

# %%
step, loss, hits = check.train_step.right, check.cross_entropy.right, check.accuracy.right


def shifted(key, x):
    """Moves each picture by up to one pixel; what comes in from outside is 0, the mean grey."""
    return augment.crop(key, x, pad=1)


@nnx.jit
def measure(model, x, labels):
    """-> the loss on x, on validation and on test examples, and the accuracy on test examples"""
    logits = model(test[0])
    held_out = loss(model(validation[0]), validation[1]), loss(logits, test[1])
    return loss(model(x), labels), *held_out, hits(logits, test[1])


def experiment(optimizer, n=50, augmentation=None, dropout=0.0, seeds=range(4), steps=100):
    """Returns, for each seed and every tenth step, the numbers that `measure` returns."""

    @nnx.jit
    def train_once(model, state, key, x, labels):
        return step(model, state, augmentation(key, x) if augmentation else x, labels)

    results = []
    for seed in seeds:
        random, rngs = np.random.default_rng(seed), nnx.Rngs(seed)
        chosen = random.permutation(len(train[1]))[:n]
        few = train[0][chosen], train[1][chosen]
        *parts, (name, last) = make(rngs).items()
        drop = nnx.Dropout(dropout, rngs=rngs)
        model = nn.Layers({**dict(parts), 'drop': drop, name: last})
        state = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        results.append([])
        for i in range(steps):
            model.train()
            rows = random.permutation(n)[:50]
            train_once(model, state, jax.random.key(i), few[0][rows], few[1][rows])
            if i % 10 == 9:
                model.eval()  # no dropout
                results[-1].append(measure(model, few[0][:50], few[1][:50]))
    return np.array(results)


plain = experiment(optax.adam(3e-3))
steps = range(10, 101, 10)
names = ('the 50 examples', 'validation')
curves({name: (steps, plain[0, :, i]) for i, name in enumerate(names)}, 'step', 'loss')

# %% [markdown]
# The network knows its 50 examples perfectly. On others, the loss reaches a minimum early and then
# rises: the network is becoming more certain of wrong answers. Where should training have stopped?
#
# ### Exercise 5: early stopping
#
# Given are the validation losses of successive evaluations. Training stops at the first evaluation
# that is the `patience`-th in a row without a new smallest loss (a loss that equals the smallest is
# not a new one), or at the last. Return where it stops and which evaluation was the best until
# then, both counted from 0.


# %% tags=["exercise"]
def early_stopping(losses, patience):
    """losses: numbers, at least one -> stop, best"""
    ...


# %% tags=["solution"]
def early_stopping(losses, patience):
    best = 0
    for i in range(len(losses)):
        if losses[i] < losses[best]:
            best = i
        if i - best == patience:
            return i, best
    return len(losses) - 1, best


# %%
if check.early_stopping(early_stopping):
    for seed, losses in enumerate(plain[:, :, 1]):
        stop, best = early_stopping(losses, patience=3)
        print(f'seed {seed}: stops after step {steps[stop]}, keeps the weights of {steps[best]}')

# %% [markdown]
# ## What helps?
#
# All variants, after the last step and with early stopping: mean and standard deviation over the
# seeds.

# %%
variants = {
    'nothing': plain,
    'shifts': experiment(optax.adam(3e-3), augmentation=shifted),
    'dropout': experiment(optax.adam(3e-3), dropout=0.5),
    'weight decay': experiment(optax.adamw(3e-3, weight_decay=1.0)),
    '500 examples': experiment(optax.adam(3e-3), n=500),
}

# %%
early = check.early_stopping.right


def stopped(curve):
    return curve[early(list(curve[:, 1]), patience=3)[1]]


print(
    f'{"":14s}{"test accuracy":>17s}{"stopped early":>17s}{"test loss":>15s}{"stopped early":>15s}'
)
for name, runs in variants.items():
    ends = runs[:, -1], np.array([stopped(curve) for curve in runs])
    print(f'{name:14s}', end='')
    for end in ends:
        print(f'{100 * end[:, 3].mean():9.1f} ± {100 * end[:, 3].std(ddof=1):3.1f} %', end='')
    for end in ends:
        print(f'{end[:, 2].mean():8.2f} ± {end[:, 2].std(ddof=1):.2f}', end='')
    print()

# %% [markdown]
# Read such a table with its spread: a difference smaller than the deviation over the seeds may be
# luck, and one seed alone proves nothing.
#
# More data helps far more than anything else. Shifts are the next best thing, being new data of a
# kind: a shifted digit is still that digit. (A mirrored one is not. An augmentation says what does
# not matter, and must be true.) Stopping early, dropout and weight decay lower the loss, but change
# the accuracy by no more than the spread: the rising loss was certainty in wrong answers, not more
# of them.
#
# In the trainer these are arguments: `augment='crop:1'`, `weight_decay=1.0`,
# `early_stopping=3` with `validation=0.2`; dropout is a layer of the network.
#
# ## What to remember
#
# * A network is a list of layers; training is: loss, gradient, update, with a few examples at a
#   time.
# * Logits go into the cross-entropy, which contains the softmax. The first loss is $\log$ of the
#   number of classes, about.
# * Choose with validation examples, report with test examples, and repeat with several seeds.
#
# Next: [the same in PyTorch](06_pytorch.ipynb), number by number.
