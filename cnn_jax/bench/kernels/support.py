"""Generates the table of features that each kernel supports, by querying the kernels.

Run `python -m cnn_jax.bench.kernels.support`. docs/kernels.md contains the table, generated where
the native kernel can be built; a test checks that the two agree.
"""

from collections.abc import Callable

from cnn_jax.ops import kernels
from cnn_jax.ops.spec import ConvSpec

Change = Callable[[ConvSpec], ConvSpec]


def plain_spec(window: int, ndim: int, groups: int = 1) -> ConvSpec:
    """Returns a plain convolution whose output has the shape of its input (for odd `window`)."""
    ones = (1,) * ndim
    return ConvSpec(
        batch=2,
        input_size=(8,) * ndim,
        in_features=4,
        window=(window,) * ndim,
        out_features=4,
        strides=ones,
        padding=((window // 2, window // 2),) * ndim,
        input_dilation=ones,
        dilation=ones,
        groups=groups,
        dtype='float32',
    )


def _changed(**values) -> Change:
    return lambda spec: spec.replace(**values)


# Each feature is a change to a plain 2-D convolution, 1x1 for `dot` and `native_dot`, in two groups
# for `block_diagonal`, depthwise for `native_depthwise` and `pallas`, and 3x3 for other kernels.
BASES = {
    **dict.fromkeys(('dot', 'native_dot'), plain_spec(1, 2)),
    'block_diagonal': plain_spec(3, 2, groups=2),
    **dict.fromkeys(('native_depthwise', 'pallas'), plain_spec(3, 2, groups=4)),
}

FEATURES: dict[str, Change] = {
    '1-D': lambda spec: plain_spec(spec.window[0], 1, spec.groups),
    '2-D': _changed(),
    '3-D': lambda spec: plain_spec(spec.window[0], 3, spec.groups),
    '1x1 window': lambda spec: plain_spec(1, 2, spec.groups),
    '3x3 window': lambda spec: plain_spec(3, 2, spec.groups),
    '5x5 window': lambda spec: plain_spec(5, 2, spec.groups),
    'strides': _changed(strides=(2, 2)),
    'asymmetric padding': _changed(padding=((2, 0), (0, 1))),
    'dilation': lambda spec: spec.replace(dilation=(2, 2), window=(3, 3), padding=((2, 2), (2, 2))),
    'input dilation': _changed(input_dilation=(2, 2)),
    'groups': _changed(groups=2),
    'depthwise': _changed(groups=4),
    'batch 0': _changed(batch=0),
    'bfloat16': _changed(dtype='bfloat16'),
    'float16': _changed(dtype='float16'),
    'float64': _changed(dtype='float64'),
    'int8': _changed(dtype='int32', operand_dtype='int8'),
    'int32': _changed(dtype='int32'),
}


def support_table() -> str:
    """Returns a Markdown table with one row per feature and one column per kernel.

    Numbers in the cells refer to the list of reasons below the table.
    """
    names = list(kernels.KERNELS)
    reasons: list[str] = []
    lines = ['| | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
    for feature, change in FEATURES.items():
        cells = []
        for name in names:
            spec = change(BASES.get(name) or plain_spec(3, 2))
            platform = getattr(kernels.KERNELS[name], 'PLATFORM', 'cpu')
            reason = kernels.reason_against(name, 'forward', spec, platform)
            if reason is None:
                cells.append('yes')
                continue
            line = f'{name}: {reason.split(", got")[0]}'
            if line not in reasons:
                reasons.append(line)
            cells.append(f'no ({reasons.index(line) + 1})')
        lines.append(f'| {feature} | ' + ' | '.join(cells) + ' |')
    return '\n'.join([*lines, '', *(f'{i}. {line}' for i, line in enumerate(reasons, 1))])


if __name__ == '__main__':
    print(support_table())
