"""Loads weights in torchvision's layout into a model, and compares models with PyTorch's.

    model = create('vgg16', input_shape=(224, 224, 3), num_classes=1000, rngs=nnx.Rngs(0))
    load_torchvision(model, 'vgg16-397923af.pth')

A file holds what `torch.save(model.state_dict(), ...)` writes (.pth, .pt) or the same tensors as
.safetensors. Reading .pth and .pt needs PyTorch (the `compare` extra); .safetensors does not.
Inputs are images in [0, 1] from which `MEAN` is subtracted, divided by `STD`, per channel.
`torchvision_names` describes the layout.
"""

import dataclasses
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax.errors import MissingPackageError, UserError, optional_packages
from cnn_jax.models.base import Classifier
from cnn_jax.models.torchvision_names import counterpart, parameters, torchvision_names

# ImageNet statistics per channel, from the documented transforms of torchvision's weights.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

SUFFIXES = ('.pth', '.pt', '.pth.tar', '.bin', '.safetensors')


def load_torchvision(model: Classifier, path: str | pathlib.Path, *, head: bool = True) -> None:
    """Loads a file of weights into `model` in place.

    Args:
        model: a model with a counterpart in torchvision, of any width.
        path: a .pth, .pt, .pth.tar, .bin or .safetensors file.
        head: whether to load the last dense layer too. For fine-tuning, False leaves it unchanged,
            and the file may have any number of classes.

    Raises:
        ValueError: the file has another format or cannot be read; or tensors are missing,
            unexpected or of another shape, and the message lists all of them. The model is then
            unchanged.
        ImportError: reading .pth needs PyTorch, which is not installed.
    """
    put_torchvision(model, read(path), head=head)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file, by torchvision's names.

    The state dict may be an entry of a checkpoint, under "state_dict" or "model", and its names may
    begin with "module.".

    Raises:
        ValueError: the file has another format or cannot be read.
        FileNotFoundError: the file does not exist.
        ImportError: the file is in PyTorch's format, and PyTorch is not installed.
    """
    path = pathlib.Path(path)
    if not path.name.endswith(SUFFIXES):
        raise UserError(f'{path}: the name of a weights file must end in {", ".join(SUFFIXES)}')
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such weights file')
    try:
        is_safe = path.suffix == '.safetensors'
        return _bare(_read_safetensors(path) if is_safe else _read_torch(path))
    except (ImportError, UserError):
        raise
    except Exception as error:  # each library raises different exceptions for a damaged file
        raise UserError(f'{path} cannot be read as weights: {error}') from error


def put_torchvision(
    model: Classifier, tensors: Mapping[str, np.ndarray], *, head: bool = True
) -> None:
    """Loads tensors by name into `model` in place, like `load_torchvision`."""
    wanted = parameters(model)
    for key, value in fitting(model, tensors, head=head).items():
        variable = wanted[key].variable
        # a copy: on CPU, JAX would otherwise share the memory of a tensor that PyTorch may change
        variable[...] = jnp.array(value, variable.dtype, copy=True)


def fitting(
    model: Classifier, tensors: Mapping[str, np.ndarray], *, head: bool = True
) -> dict[str, np.ndarray]:
    """Returns the tensors in the layout of `model`, by torchvision's names.

    `model` may be abstract.

    Raises:
        ValueError: see `load_torchvision`.
    """
    theirs = counterpart(model)
    tensors = {theirs.present_name(key): tensor for key, tensor in tensors.items()}
    wanted = parameters(model)
    last = list(wanted)[-1].rpartition('.')[0]
    problems, values = [], {}
    for key, parameter in wanted.items():
        if not head and key.startswith(f'{last}.'):
            continue
        if key not in tensors:
            problems.append(f'{key} {parameter.torch_shape}: missing from the file')
        elif not parameter.takes(tensors[key].shape):
            problems.append(
                f'{key}: the file has {tuple(tensors[key].shape)}, '
                f'the model needs {parameter.torch_shape}'
            )
        else:
            values[key] = parameter.convert(np.asarray(tensors[key]))
    for key in tensors:
        unused = key.endswith('num_batches_tracked') or key.startswith(theirs.unused)
        if key not in wanted and not unused:
            problems.append(f'{key} {tuple(tensors[key].shape)}: not in the model')
    if problems:
        raise UserError(
            f'these weights do not fit the model in {len(problems)} places:\n  '
            + '\n  '.join(problems)
        )
    return values


def torchvision_tensors(model: Any) -> dict[str, np.ndarray]:
    """Returns the weights and statistics of `model` by torchvision's names, in its layout.

    `load_state_dict` of the same model in torchvision takes them (GoogLeNet: of one with
    `aux_logits=False`). The arrays may be views.

    Raises:
        ValueError: torchvision does not have this model.
    """
    return {
        key: parameter.revert(np.asarray(parameter.variable[...]))
        for key, parameter in parameters(model).items()
    }


def head_fits(model: Classifier, tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the last layer in `tensors` has as many classes as that of `model`."""
    key, shape = list(torchvision_shapes(model).items())[-1]
    return key in tensors and tuple(tensors[key].shape) == shape


def torchvision_shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the tensors that a file for `model` must hold.

    `model` may be abstract.
    """
    return {key: parameter.torch_shape for key, parameter in parameters(model).items()}


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between one layer's result and PyTorch's.

    Attributes:
        name: name of the layer in this library.
        torch_name: name of the module in PyTorch.
        shape: shape of the result in this library.
        max_abs: largest absolute difference.
        scale: largest absolute value of PyTorch's result; `max_abs / scale` is the relative
            difference.
    """

    name: str
    torch_name: str
    shape: tuple[int, ...]
    max_abs: float
    scale: float


def compare_layers(model: Classifier, torch_model: Any, images: np.ndarray) -> list[Difference]:
    """Runs the same images through `model` and a PyTorch model with torchvision's layout.

    Sets both models to evaluation mode and compares them layer by layer, from input to output.

    Args:
        model: a model with a counterpart in torchvision.
        torch_model: a `torch.nn.Module` with torchvision's module names, on the CPU.
        images: float32 (N, height, width, channels).
    """
    import torch

    model.eval()
    graph, state = nnx.split(model)

    @jax.jit
    def run(state: Any, x: jax.Array) -> dict[str, jax.Array]:
        maps: dict[str, jax.Array] = {}
        nnx.merge(graph, state)(x, intermediates=maps)
        return maps

    maps = run(state, jnp.asarray(images))
    results: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        # copy, since the ReLU that follows works in place
        return lambda module, args, y: results.update({name: y.detach().numpy().copy()})

    names = torchvision_names(model, all_layers=True)
    # where several layers are one module of theirs, the last is the block that holds the others
    last = {theirs: name for name, theirs in names.items() if name in maps}
    names = {name: theirs for theirs, name in last.items()}
    modules = dict(torch_model.named_modules())
    hooks = [modules[theirs].register_forward_hook(keep(theirs)) for theirs in names.values()]
    torch_model.eval()
    try:
        with torch.no_grad():
            torch_model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for name in names:
        ours, theirs = np.asarray(maps[name]), results[names[name]]
        difference = min(
            float(np.max(np.abs(ours - y))) for y in _channels_last(theirs, ours.shape)
        )
        rows.append(
            Difference(name, names[name], ours.shape, difference, float(np.max(np.abs(theirs))))
        )
    return rows


def _channels_last(value: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Returns PyTorch's result in our layout: channels first, or last as inside of ConvNeXt.

    Where the number of channels is the side of the maps, it can be either, so both are returned.
    """
    if value.ndim != 4 or len(shape) != 4:
        return [value.reshape(shape)]
    return [y for y in (value.transpose(0, 2, 3, 1), value) if y.shape == shape]


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with optional_packages('train'):
        from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f"reading {path.name} needs PyTorch: install 'cnn_jax[compare]', or give the same "
            'tensors as .safetensors'
        ) from error
    try:
        loaded = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'{path} cannot be read as weights: it is damaged or holds Python objects, which are '
            'not loaded because they could run code; save the state_dict() alone, or as '
            '.safetensors'
        ) from error
    for key in ('state_dict', 'model'):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(map(torch.is_tensor, loaded.values())):
        raise UserError(f'{path} does not hold a state dict of tensors')
    return {str(name): tensor.float().numpy() for name, tensor in loaded.items()}


def _bare(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the prefix that PyTorch's data parallelism adds to every name."""
    if tensors and all(name.startswith('module.') for name in tensors):
        return {name.removeprefix('module.'): tensor for name, tensor in tensors.items()}
    return tensors
