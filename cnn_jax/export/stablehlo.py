"""StableHLO: one file that plain JAX runs on several platforms, for any batch size."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from cnn_jax.errors import UserError, first_line, optional_packages
from cnn_jax.export.inference import Inference
from cnn_jax.ops.platforms import PLATFORMS, default_platform

SUFFIX = '.stablehlo'
UNITS = (
    1,
    2,
    4,
    8,
    16,
    32,
)  # an image size of which multiple; no registered model halves more often


def export_program(
    infer: Inference, *, platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'), any_size: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """Exports an inference function with `jax.export`, with its weights, for any batch size.

    Args:
        infer: the function.
        platforms: where the program can run: 'cpu', 'cuda', 'rocm' or 'tpu'.
        any_size: whether it accepts images of any height and width, or of any multiple of the
            smallest number that the network allows.

    Returns:
        The program, which `jax.export.deserialize` reads, and its description: `infer.about` with
        the shapes and platforms of the program.

    Raises:
        UserError: a platform is unknown, the network needs a fixed size (the message names the
            layer), or it uses a kernel that exists only in this package.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise UserError(f'platforms={",".join(platforms)!r}: must be some of {",".join(PLATFORMS)}')
    shape = symbolic_shape(infer, size_unit(infer) if any_size else 0)
    if problem := _problem(infer, shape, 'a batch of a fixed size'):
        raise UserError(problem)
    try:
        exported = jax.export.export(jax.jit(infer), platforms=tuple(platforms))(shape)
        with optional_packages('train'):
            content = bytes(exported.serialize())
    except ValueError as error:
        if 'custom call' not in str(error):
            raise
        raise UserError(
            f'model={infer.about["model"]!r}: names a kernel that exists only in this package '
            f'({first_line(error)})'
        ) from error
    about = infer.about | {
        'input': infer.about['input'] | {'shape': labels(exported.in_avals[0].shape)},
        'output': infer.about['output'] | {'shape': labels(exported.out_avals[0].shape)},
        'program': {'format': 'stablehlo', 'platforms': list(exported.platforms)}
        | {'calling_convention_version': exported.calling_convention_version},
    }
    return content, about


def symbolic_shape(infer: Inference, unit: int = 0) -> jax.ShapeDtypeStruct:
    """Returns the shape of raw inputs with a symbolic batch.

    `unit`: if not 0, the height and width are symbolic, too: multiples of it.
    """
    sizes = [str(n) for n in infer.example.shape]
    if unit:
        sizes[:2] = [f'{unit}*height', f'{unit}*width']
    shape = jax.export.symbolic_shape(', '.join(['batch', *sizes]))
    return jax.ShapeDtypeStruct(shape, infer.example.dtype)


def size_unit(infer: Inference) -> int:
    """Returns the smallest number whose multiples are valid heights and widths, a power of 2.

    Raises:
        UserError: the inputs are not images, or the network needs a fixed size.
    """
    axes = infer.about['input']['axes']
    if axes[1:3] != ['height', 'width']:
        raise UserError(f"image_size='any': the inputs are ({', '.join(axes)}), not images")

    def problem(unit: int) -> str | None:
        return _problem(infer, symbolic_shape(infer, unit), 'a fixed size')

    if found := problem(UNITS[-1]):  # it decides whether any size works
        raise UserError(f"image_size='any': {found}")
    return next(unit for unit in UNITS if not problem(unit))


def _problem(infer: Inference, shape: jax.ShapeDtypeStruct, what: str) -> str | None:
    """Returns a phrase that says which layer needs `what`, if it takes no inputs of this shape."""
    reached: dict[str, jax.Array] = {}
    reason = ''
    try:
        jax.eval_shape(lambda x: infer.apply(infer.weights, x, reached), shape)
        return None
    except UserError as error:
        reason = f' ({error})'
    except Exception:  # those of JAX, which name no layer; a fixed shape has been traced before
        pass
    layers: dict[str, jax.Array] = {}
    fixed = jax.ShapeDtypeStruct((1, *infer.example.shape), infer.example.dtype)
    jax.eval_shape(lambda x: infer.apply(infer.weights, x, layers), fixed)
    layer = next((name for name in layers if name not in reached), '')
    where = f'layer {layer} of {infer.about["model"]}' if layer else infer.about['model']
    return f'{where} needs {what}{reason}'


def labels(shape: Sequence[Any]) -> list[int | str]:
    """Returns a shape for JSON: numbers, and text for symbolic sizes, such as '2*height'."""
    return [n if isinstance(n, int) else str(n) for n in shape]


def read_program(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function in a file that `export_program` made.

    Raises:
        UserError: the file is damaged or for other platforms.
    """
    try:
        with optional_packages('train'):
            exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except (OSError, UserError):
        raise
    except Exception as error:  # flatbuffers raises many types of error
        raise UserError(
            f'{path}: not a program of jax.export that can be read ({first_line(error)})'
        ) from error
    here = default_platform()
    if here not in exported.platforms:
        raise UserError(f'{path}: for {", ".join(exported.platforms)}, but this is {here}')
    call = jax.jit(exported.call)
    return lambda inputs: np.asarray(call(inputs))
