"""All entries of the gallery, by repository and number."""

from cnn_jax.bench.gallery.correctness import FAULTS
from cnn_jax.bench.gallery.entry import number
from cnn_jax.bench.gallery.problems import PROBLEMS
from cnn_jax.bench.gallery.speed import SLOW

ALL = tuple(sorted((*PROBLEMS, *FAULTS, *SLOW), key=number))
