"""ONNX: one file that many runtimes execute, without Python too. Needs the extra `onnx`."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cnn_jax.errors import UserError, first_line, optional_packages
from cnn_jax.export.inference import Inference

SUFFIX = '.onnx'
OPSET = 20


def export_model(infer: Inference, *, opset: int = OPSET) -> tuple[bytes, dict[str, Any]]:
    """Exports an inference function with its weights, for any batch size.

    Args:
        infer: the function.
        opset: version of ONNX's operators.

    Returns:
        The content of an ONNX file, and its description: `infer.about` with the version of the
        operators. The names, shapes and dtypes of input and output are those of the description,
        which is also in the file: in its metadata under 'about', as JSON.

    Raises:
        UserError: `opset` is too old or too new, the weights need more than 2 GiB, or the function
            has an equation that cannot be written in ONNX; the message names it.
        MissingPackageError: the extra `onnx` is not installed.
    """
    with optional_packages('onnx'):
        from onnx.helper import set_model_props

        from cnn_jax.export.onnx.convert import to_onnx
    model = to_onnx(infer, opset)
    about = infer.about | {'program': {'format': 'onnx', 'opset': opset}}
    set_model_props(model, {'about': json.dumps(about)})
    return model.SerializeToString(), about


def read_model(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function in an ONNX file of one input and one output, run by ONNX Runtime.

    Raises:
        UserError: the file is damaged.
        MissingPackageError: the extra `onnx` is not installed.
    """
    with optional_packages('onnx'):
        import onnxruntime
    content = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(content)
    except Exception as error:  # ONNX Runtime raises many types of error
        raise UserError(f'{path}: not a model that can be read ({first_line(error)})') from error
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0]
