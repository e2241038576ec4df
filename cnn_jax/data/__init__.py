"""Loads data sets by name without TensorFlow and defines the order of training examples."""

from cnn_jax.errors import optional_packages

with optional_packages('data'):
    from cnn_jax.data.catalog import names, register, table
    from cnn_jax.data.dataset import Dataset, Split, normalize
    from cnn_jax.data.loader import Loader, evaluation_batches
    from cnn_jax.data.loading import load
    from cnn_jax.data.order import batch_rows, epoch_order, process_rows, steps_per_epoch
    from cnn_jax.data.own import as_dataset

__all__ = [
    'Dataset',
    'Loader',
    'Split',
    'as_dataset',
    'batch_rows',
    'epoch_order',
    'evaluation_batches',
    'load',
    'names',
    'normalize',
    'process_rows',
    'register',
    'steps_per_epoch',
    'table',
]
