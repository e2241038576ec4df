# %% [markdown]
# # 8. Sound and text
#
# A window also slides over time. You write filters for sound, see what they do to each frequency,
# and compute a convolution while its input is still arriving. Then words take the place of samples:
# a window becomes a detector of phrases. Two networks learn both.
#
# *120 minutes. You need [chapter 2](02_sizes.ipynb), complex numbers for a glance at the Fourier
# transform, and for the two trainings [chapter 5](05_network.ipynb).*

# %%
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import cnn_jax
from cnn_jax import models
from cnn_jax.course import reviews, sounds
from cnn_jax.course import sequences as check
from cnn_jax.course.pictures import curves, show
from cnn_jax.course.sounds import RATE, play, tone
from cnn_jax.data import text
from cnn_jax.inspection import learned_filters

NUMBER = '0301#57'  # a number to call

# %% [markdown]
# ## Sound is a list of numbers
#
# A microphone measures the pressure of the air, telephones 8,000 times per second: the *sampling
# rate*. A tone of 440 Hz repeats 440 times per second, so one period has 18 samples. A key of a
# telephone sends two tones at once, one for its row and one for its column. Here is a number, on a
# bad line:

# %%
random = np.random.default_rng(0)
clean = sounds.call(NUMBER)
line = clean + 0.3 * random.standard_normal(len(clean))
play(line)
time = np.arange(160) / RATE * 1000
curves({'clean': (time, clean[:160]), 'noisy': (time, line[:160])}, 'ms', 'pressure')

# %% [markdown]
# A rate of 8,000 can describe frequencies up to half of it. Above, a tone has the same samples as a
# lower one, and nobody can tell them apart afterwards (*aliasing*):

# %%
print('5000 Hz', tone(5000, 0.001).round(2))
print('3000 Hz', tone(3000, 0.001).round(2))

# %% [markdown]
# ## Keeping what is slow
#
# A filter for sound is a kernel with one axis. What does it do to a tone? A convolution treats all
# times alike, so a tone remains a tone of the same frequency: only its loudness and its delay
# change. The *frequency response* says by how much, for each frequency. It is the Fourier transform
# of the kernel, because that is the response to $e^{2 \pi i f t}$.
#
# Which kernel passes everything below a cutoff $c$, and nothing above? The inverse Fourier
# transform of this box is a *sinc*, with $r$ the sampling rate and $m$ its middle:
#
# $$h_k = \operatorname{sinc}\Big(\frac{2 c}{r} (k - m)\Big), \qquad
#   \operatorname{sinc}(x) = \frac{\sin \pi x}{\pi x}, \qquad m = \frac{\text{taps} - 1}{2}$$
#
# It never ends, so it is faded out: multiplied by a *window*, here `np.hamming(taps)`. At last, it
# is divided by its sum, so that a constant stays as it is, as the blur of chapter 1.
#
# ### Exercise 1: a low-pass
#
# `np.sinc` is the function above, with the $\pi$ included.


# %% tags=["exercise"]
def low_pass(cutoff, rate, taps):
    """cutoff and rate in Hz -> kernel (taps,)"""
    ...


# %% tags=["solution"]
def low_pass(cutoff, rate, taps):
    h = np.sinc(2 * cutoff / rate * (np.arange(taps) - (taps - 1) / 2)) * np.hamming(taps)
    return h / h.sum()


# %%
def response(kernel):
    """How much of each frequency a filter passes."""
    frequencies, magnitudes = learned_filters.spectra(kernel[:, None, None], RATE)
    return frequencies, magnitudes[0]


def conv(x, w):
    """The package's convolution, for signals without channels."""
    return cnn_jax.conv(jnp.float32(x)[:, None], jnp.float32(w)[:, None, None])[:, 0]


if check.low_pass(low_pass):
    curves({f'{n} taps': response(low_pass(1000, RATE, n)) for n in (9, 33, 129)}, 'Hz', 'passes')
    play(conv(line, low_pass(1600, RATE, 129)))

# %% [markdown]
# Two things to see. A sharp edge needs many taps: the transition is about $3.3\, r / \text{taps}$
# wide (for this window). And to hear: all keys lie below 1,600 Hz, the noise is everywhere, so
# what remains is mostly keys.
#
# ### Exercise 2: a band-pass
#
# Convolutions are linear. What lies between two cutoffs is what lies below the higher one, minus
# what lies below the lower one. Use your `low_pass`, or `check.low_pass.right`.


# %% tags=["exercise"]
def band_pass(low, high, rate, taps):
    """frequencies in Hz -> kernel (taps,)"""
    ...


# %% tags=["solution"]
def band_pass(low, high, rate, taps):
    return low_pass(high, rate, taps) - low_pass(low, rate, taps)


# %% [markdown]
# A *filter bank* is a convolution with several output channels: here seven, one for each tone of a
# telephone. How loud each channel is, over time, is a picture in which you can read the number:
# one row and one column at a time.

# %% tags=["picture"]
tones = sounds.ROWS + sounds.COLUMNS
if check.band_pass(band_pass):
    bank = np.stack([band_pass(f - 25, f + 25, RATE, 401) for f in tones], axis=-1)
    curves({f'{f} Hz': response(bank[:, i]) for i, f in enumerate(tones)}, 'Hz', 'passes')
    channels = cnn_jax.conv(np.float32(line)[:, None], np.float32(bank)[:, None])
    loudness = cnn_jax.avg_pool(channels**2, (400,), strides=80)
    show({f'tones of {NUMBER}, the lowest on top': np.repeat(loudness.T, 6, axis=0)}, 2, 7)

    rows, columns = loudness[:, :4], loudness[:, 4:]
    heard = 3 * rows.argmax(1) + columns.argmax(1)
    on = np.minimum(rows.max(1), columns.max(1)) > 0.015
    print(''.join(sounds.KEYS[k] if loud else ' ' for k, loud in zip(heard, on, strict=True)))

# %% [markdown]
# ## The convolution theorem
#
# A filter multiplies each frequency by a number. So one can transform the signal, multiply, and
# transform back:
#
# $$x * w = F^{-1}(F x \cdot F w)$$
#
# This $*$ is the convolution of mathematicians, with the kernel flipped, and over all places where
# the two overlap: $n + k - 1$. A spectrum of $n$ points describes a signal on a circle: what
# runs out at the end comes in at the beginning. Zeros between end and beginning prevent this:
# `np.fft.rfft(x, n)` adds them.
#
# ### Exercise 3: by FFT


# %% tags=["exercise"]
def fft_conv(x, w):
    """x (n,), w (k,) -> (n + k - 1,)"""
    ...


# %% tags=["solution"]
def fft_conv(x, w):
    n = len(x) + len(w) - 1
    return np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(w, n), n)


# %%
if check.fft_conv(fft_conv):
    w = random.standard_normal(401)
    print('largest difference', np.abs(fft_conv(line, w) - np.convolve(line, w)).max())

# %% [markdown]
# The FFT needs about $n \log n$ steps instead of $n k$, so it wins when the window is large. The
# package has it as a kernel, `implementation='fft'`.
#
# ## Sound that arrives
#
# A window with its output in the middle needs samples from the future. A *causal* convolution
# ends its windows at the present: $k - 1$ zeros before the signal, none after
# (`padding='CAUSAL'`). Then it can run while the sound arrives in chunks. Between chunks it has to
# remember only what the next window still sees: the last $k - 1$ samples, its *state*.
#
# ### Exercise 4: streaming
#
# With `known`, the state followed by the chunk, output $i$ is the sum of `known[i + k] * w[k]`.
# Chunks can be shorter than the window.


# %% tags=["exercise"]
def stream(x, w, state):
    """chunk x (n,), w (k,), state (k - 1,) -> y (n,), new state (k - 1,)"""
    ...


# %% tags=["solution"]
def stream(x, w, state):
    known = np.concatenate([state, x])
    y = np.array([known[i : i + len(w)] @ w for i in range(len(x))])
    return y, known[len(x) :]


# %% [markdown]
# `cnn_jax.conv_stream` does this for channels, strides and dilation. However the signal is cut, the
# joined outputs are those of the whole:

# %%
kernel = jnp.asarray(check.low_pass.right(1600, RATE, 129), jnp.float32)[:, None, None]
signal = jnp.asarray(line, jnp.float32)[:, None]
whole = cnn_jax.conv(signal, kernel, padding='CAUSAL', strides=4)

state, parts = None, []
for chunk in jnp.split(signal, [1000, 1007, 5000]):
    y, state = cnn_jax.conv_stream(chunk, kernel, state, strides=4)
    parts.append(y)
print('outputs per chunk', [len(y) for y in parts])
print('difference from the whole', jnp.abs(jnp.concatenate(parts) - whole).max())

if check.stream(stream):
    pieces = [stream(x, np.array([0.5, 0.5]), np.zeros(1))[0] for x in (line[:9], line[9:])]
    print('with the state thrown away, sample 9 is', pieces[1][0], 'not', line[8:10].mean())

# %% [markdown]
# ## What a network hears
#
# M5 (Dai et al. 2016) reads the samples themselves, without a Fourier transform before it. Its
# first layer has a window of 80 samples, 10 ms, and a stride of 4. Nobody tells it about
# frequencies. Here it learns the keys of a telephone from noisy examples, with narrower layers than
# in the paper. Loudness, phase and, by up to 1.5 %, frequencies differ.


# %%
def train(model, inputs, labels, steps):
    """Trains a classifier with batches of 32 random examples."""
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    random = np.random.default_rng(0)
    model.train()
    for _ in range(steps):
        rows = random.integers(0, len(labels), 32)
        step(model, optimizer, inputs[rows], labels[rows])
    model.eval()


def accuracy(model, inputs, labels):
    return (np.asarray(model(inputs)).argmax(-1) == labels).mean()


inputs, labels = sounds.examples(1024, seed=0)
m5 = models.create(
    'm5',
    input_shape=inputs.shape[1:],
    num_classes=12,
    rngs=nnx.Rngs(0),
    features=(32, 32, 32, 32),
)
train(m5, inputs, labels, 250)
print(f'{100 * accuracy(m5, *sounds.examples(512, seed=1)):.1f} % of new sounds are right')

# %% [markdown]
# Its filters, and their frequency responses, sorted by the strongest frequency:

# %%
learned_filters.draw_spectra(np.asarray(m5.layers.conv1.kernel), RATE)

# %% [markdown]
# Most filters have become band-passes between 650 and 1,550 Hz, where the keys are; between the
# rows and the columns (941 and 1,209 Hz) there is a gap. The rest is noise that is left
# from the initial weights. A window of 10 ms separates frequencies that are about 100 Hz apart, so
# a single filter hardly tells 697 from 770 Hz; the layers above have to.
#
# ## Words are vectors
#
# A text is a sequence, too, but of words, and the number of a word in a list means nothing. So each
# word gets a vector, a row of a matrix that is learned, the *embedding*. A text of $n$ words
# becomes an array $(n, d)$: a signal with $d$ channels. A window of 3 sees three words.
#
# What can it find? Suppose the vectors have length 1 and are orthogonal, $e_a \cdot e_b = 0$. If
# row $k$ of the kernel is the vector of a word, the product is 1 where this word stands at place
# $k$, and 0 elsewhere. The sum counts matches. With a bias and a ReLU, $\max(x, 0)$, only a full
# match is left: a detector of an *n-gram*, a phrase of $n$ words.
#
# ### Exercise 5: an n-gram detector
#
# Kernel and bias such that the response is 1 to the n-gram `ids`, and 0 or less to everything else.


# %% tags=["exercise"]
def ngram_detector(embed, ids):
    """embed (words, d), ids (n,) -> kernel (n, d), bias (a number)"""
    ...


# %% tags=["solution"]
def ngram_detector(embed, ids):
    return embed[ids], 1 - len(ids)


# %%
if check.ngram_detector(ngram_detector):
    words = 'the plot was not good and the cast was good'.split()
    vocabulary = sorted(set(words))
    ids = np.array([vocabulary.index(word) for word in words])
    embed = np.eye(len(vocabulary), dtype=np.float32)
    phrase = np.array([vocabulary.index(word) for word in ('not', 'good')])
    kernel, bias = ngram_detector(embed, phrase)
    found = cnn_jax.conv(embed[ids], np.float32(kernel)[..., None], padding='VALID') + bias
    print(
        'not good:',
        *(f'{word}:{max(y, 0):.0f}' for word, y in zip(words, found[:, 0], strict=False)),
    )

# %% [markdown]
# ## Is it there at all?
#
# Where the phrase stands does not matter, and texts have different lengths. So the maximum over
# all positions is kept, one number per filter: *max over time*. In a batch, short texts are padded,
# and windows in the padding are no part of the text. If they take part in the maximum, the result
# depends on how long the longest text of the batch is.
#
# ### Exercise 6: max over time
#
# Position $j$ belongs to text $i$ if $j <$ `lengths[i]`. Responses may be negative.


# %% tags=["exercise"]
def max_over_time(responses, lengths):
    """responses (texts, positions, filters), lengths (texts,) -> (texts, filters)"""
    ...


# %% tags=["solution"]
def max_over_time(responses, lengths):
    inside = np.arange(responses.shape[1]) < lengths[:, None]
    return np.where(inside[:, :, None], responses, -np.inf).max(axis=1)


# %%
check.max_over_time(max_over_time)

# %% [markdown]
# TextCNN (Kim 2014) is these parts: embedding, convolution, ReLU, max over time, and one dense
# layer. It avoids the mask: vectors of padding are 0, so a window of padding gives $\max(b, 0)$
# with its bias $b$, and every text has some padding before its first word. So the maximum never
# falls below this number, in no text.
#
# ## How many words must it see?
#
# These reviews are generated. Each has one word of praise, one of blame, and one "not"; the
# question is to which of the two it belongs. Before half of the adjectives stands a "very".

# %%
texts, labels = {}, {}
for seed, split in enumerate(('train', 'test')):
    texts[split], labels[split] = reviews.examples(1024, seed)
splits, vocabulary = text.make_splits('reviews', texts, labels)
for review, label in zip(texts['train'][:4], labels['train'][:4], strict=True):
    print(f'{reviews.CLASS_NAMES[label]}: {review}')

# %% [markdown]
# How many of the reviews can a network get right that sees one word at a time? Two? Three? Think
# before you run the cell.

# %%
networks = {}
for window in (1, 2, 3):
    networks[window] = models.create(
        'textcnn',
        input_shape=splits['train'].inputs.shape[1:],
        num_classes=2,
        rngs=nnx.Rngs(0),
        vocabulary_size=len(vocabulary),
        windows=(window,),
        embedding=16,
        filters=16,
        kind='text',
    )
    train(networks[window], splits['train'].inputs, splits['train'].labels, 300)
    right = accuracy(networks[window], splits['test'].inputs, splits['test'].labels)
    print(f'window {window}: {100 * right:.1f} % of new reviews are right')

# %% [markdown]
# One word at a time, both classes look alike: the same words are there. Pairs show "not good" and
# "not bad", but if both adjectives have a "very", all pairs occur in both classes, and that is a
# quarter of the reviews, of which half are guessed right: 87.5 %. Triples see everything.
#
# Which phrases do the filters read? For each class, the filters that can raise its score most, and
# the triples to which they respond most:

# %%
model, inputs = networks[3], splits['test'].inputs
maps = {}
model(inputs, intermediates=maps)
ngrams = learned_filters.best_ngrams(np.asarray(maps['conv3']), inputs, vocabulary, window=3)
voters = learned_filters.voters({'conv3': ngrams}, np.asarray(model.logits.kernel))
learned_filters.draw_ngrams(voters, reviews.CLASS_NAMES)

# %% [markdown]
# Ask it yourself. Words that it has never seen all have the same vector.

# %%
for review in ('The film was not bad', 'The story was bad', 'The cast was not very good'):
    ids = text.encode([text.tokenize(review)], vocabulary, inputs.shape[1] - 8, margin=4)
    print(f'{reviews.CLASS_NAMES[int(model(ids).argmax())]:9s}{review}')

# %% [markdown]
# ## What to remember
#
# * A filter multiplies each frequency by a number, the Fourier transform of its kernel. More taps,
#   sharper edges.
# * Causal: no future. Then $k - 1$ samples are all the memory that a stream needs.
# * A window over word vectors is a soft detector of n-grams; the maximum over time asks whether,
#   not where. What does not fit into the window is not seen.
#
# Next: [making images](09_generation.ipynb), where convolutions run backwards.
