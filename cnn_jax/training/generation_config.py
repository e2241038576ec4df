"""The configuration of a run that trains an image generator."""

import dataclasses
from typing import ClassVar

from cnn_jax.errors import UserError
from cnn_jax.training.config import RunConfig
from cnn_jax.training.fields import option


@dataclasses.dataclass(frozen=True)
class GenerateConfig(RunConfig):
    """The configuration of a run that trains an image generator; for a DCGAN see `DCGAN`."""

    task: ClassVar[str] = 'generation'

    dataset: str = option('fashion_mnist', 'data set of images, by name')
    model: str = option('vae', 'model', choices=('autoencoder', 'vae', 'dcgan'))
    ema: float = option(
        0.0,
        'decay of a moving average of the weights and batch statistics that make images; 0: none',
        at_least=0.0,
        below=1.0,
        is_new=True,
    )
    mixture: int = option(
        0,
        'for a VAE: draw samples from a mixture of this many normal distributions, fitted to the '
        'codes of the training images; 0: from the prior',
        at_least=0,
        is_new=True,
    )
    classifier_workdir: str = option(
        '',
        'folder of a classifier run of train.py, to rate the generated images',
        identity=False,
        is_path=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.mixture and self.model != 'vae':
            raise UserError(f'mixture={self.mixture}: only for model=vae')


# Defaults for a DCGAN, from Radford et al. 2015, arXiv:1511.06434, section 4.
DCGAN = {
    'batch_size': 128,
    'optimizer': 'adam',
    'learning_rate': 2e-4,
    'beta1': 0.5,
    'weight_decay': 0.0,
    'schedule': 'constant',
}
