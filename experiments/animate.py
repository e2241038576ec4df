"""Animates a convolution, a transposed one, or a gradient, with the numbers of every step.

    python experiments/animate.py --size=5,5 --window=3,3 --strides=2 --padding=1
    python experiments/animate.py --size=3,3 --window=3,3 --strides=2 --padding=1 --transposed
    python experiments/animate.py --size=5,5 --window=3,3 --op=filter_grad --output=frames/
    python experiments/animate.py --problem=g2ic4ih5oc2kh3

The flags are the arguments of `cnn_jax.conv` and `cnn_jax.conv_transpose`: one int, or one per
spatial axis. --padding also takes a name, or before:after pairs, as in --padding=0:1,2:2. Instead,
--problem takes a string in the format of oneDNN's benchdnn (described in
cnn_jax/bench/kernels/problem.py); one example of its batch is shown.

Writes a GIF (.gif), an MP4 (.mp4; needs ffmpeg), or a folder of numbered PNG files (any name
without a suffix), completely or not at all.

Exit codes: 0 success; 2 a flag is wrong.
"""

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError

flags.DEFINE_list('size', [], 'spatial size of the input, 1 or 2 axes')
flags.DEFINE_list('window', [], 'spatial size of the kernel')
flags.DEFINE_list('strides', ['1'], 'strides')
flags.DEFINE_list('padding', ['SAME'], 'SAME, SAME_LOWER, VALID, CAUSAL, ints, or lo:hi pairs')
flags.DEFINE_list('dilation', ['1'], 'dilation of the kernel')
flags.DEFINE_list('input_dilation', ['1'], 'dilation of the input')
flags.DEFINE_integer('groups', 1, 'groups of features')
flags.DEFINE_string('padding_mode', 'zeros', 'zeros, reflect, replicate or circular')
flags.DEFINE_boolean('transposed', False, 'show conv_transpose')
flags.DEFINE_list('output_padding', ['0'], 'as in conv_transpose')
flags.DEFINE_integer('in_features', None, 'features of the input (default: groups)')
flags.DEFINE_integer('out_features', None, 'features of the output (default: groups)')
flags.DEFINE_list(
    'x', [], 'numbers of the input, row by row, if it has 1 feature (default: random)'
)
flags.DEFINE_list('kernel', [], 'numbers of the kernel, likewise')
flags.DEFINE_string('problem', '', 'problem string, instead of the sizes and options')
flags.DEFINE_string('op', 'forward', 'forward, input_grad or filter_grad')
flags.DEFINE_string(
    'view', None, 'of a transposed convolution or an input gradient: gather or scatter'
)
flags.DEFINE_integer('channel', None, 'show the steps of this channel alone')
flags.DEFINE_float('fps', 2, 'steps per second')
flags.DEFINE_integer('seed', 0, 'seed of the numbers', lower_bound=0)
flags.DEFINE_integer('max_frames', 200, 'the most steps to draw', lower_bound=1)
cli.define_path('output', 'conv.gif', 'file (.gif, .mp4) or folder to write')

PER_AXIS = ('size', 'window', 'strides', 'dilation', 'input_dilation', 'output_padding')
SCALARS = ('groups', 'padding_mode', 'transposed', 'in_features', 'out_features')
COMMON = ('op', 'view', 'channel', 'fps', 'seed', 'max_frames')


def main(argv):
    del argv
    with cli.bad_input():
        from cnn_jax import viz
        from cnn_jax.ops.geometry import each_axis
        from cnn_jax.viz.animation import writing

        f = flags.FLAGS
        writing.check_output(f.output)
        arguments = _of_problem(f.problem) if f.problem else _of_flags()
        arguments |= {name: f[name].value for name in COMMON}
        size, window = each_axis(size=arguments['size'], window=arguments['window'])
        arguments |= {'x': _array('x', size), 'kernel': _array('kernel', window)}
        animation = viz.animate(**arguments)
        images = animation.images
        animation.save(f.output)
    print(f'{len(images)} frames of {images[0].width}x{images[0].height} written to {f.output}')


def _of_flags():
    f = flags.FLAGS
    for name in ('size', 'window'):
        if not f[name].value:
            raise UserError(f'give --{name}, such as --{name}=5,5, or --problem')
    arguments = {name: f[name].value for name in SCALARS}
    arguments |= {name: _ints(name, f[name].value) for name in PER_AXIS}
    return arguments | {'padding': _padding(f.padding)}


def _ints(name, texts):
    try:
        numbers = tuple(map(int, texts))
    except ValueError:
        given = ','.join(texts)
        raise UserError(f'{name}={given!r}: must be one int, or one per spatial axis') from None
    # One number holds for every axis of the other arguments.
    return numbers[0] if len(numbers) == 1 else numbers


def _padding(texts):
    if len(texts) == 1 and texts[0].isidentifier():
        return texts[0]
    try:
        pairs = tuple(tuple(map(int, text.split(':'))) for text in texts)
    except ValueError:
        given = ','.join(texts)
        raise UserError(
            f'padding={given!r}: must be a name such as SAME, one int, or one int or lo:hi pair '
            f'per spatial axis'
        ) from None
    sides = tuple(pair[0] if len(pair) == 1 else pair for pair in pairs)
    return sides[0] if len(sides) == 1 and isinstance(sides[0], int) else sides


def _array(name, shape):
    """Returns the numbers of a flag, or None."""
    import numpy as np

    texts = flags.FLAGS[name].value
    if not texts:
        return None
    try:
        return np.array(texts, np.float32).reshape(shape)
    except ValueError:
        given = ','.join(texts)
        raise UserError(f'{name}={given!r}: must be numbers for the shape {shape}') from None


def _of_problem(text):
    from cnn_jax.bench.kernels import problem as problems

    given = [n for n in (*PER_AXIS, *SCALARS, 'padding') if flags.FLAGS[n].present]
    if given:
        raise UserError(f'give --problem or --{given[0]}, not both')
    problem = problems.parse(text)
    if problem.op in problems.POOLS:
        raise UserError(f'problem={text!r}: only convolutions are animated, not pools')
    return {
        'size': problem.input_size,
        'window': problem.window,
        'strides': problem.strides,
        'padding': problem.padding,
        'dilation': problem.dilation,
        'groups': problem.groups,
        'in_features': problem.in_features,
        'out_features': problem.out_features,
        'transposed': problem.op == 'conv_transpose',
        'output_padding': problem.output_padding,
    }


if __name__ == '__main__':
    cli.run(main)
