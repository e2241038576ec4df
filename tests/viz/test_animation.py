"""Animations: the steps add up to the float64 oracle's results; pictures and files show them."""

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest
from matplotlib.animation import FFMpegWriter

from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.errors import UserError
from cnn_jax.ops.kernels.views import input_grad_spec, swap_features
from cnn_jax.ops.spec import ConvSpec
from cnn_jax.viz import animate
from cnn_jax.viz.animation import drawing, products, writing
from cnn_jax.viz.animation.scene import Scene, compute, plan


def random_spec(seed: int) -> tuple[ConvSpec, str]:
    """Returns a convolution in 1-D to 3-D, and how it is padded; zero padding may crop."""
    rng = np.random.default_rng(seed)
    ndim = 1 + seed % 3
    ints = lambda low, high: tuple(map(int, rng.integers(low, high + 1, ndim)))  # noqa: E731
    mode = ('zeros', 'zeros', 'reflect', 'replicate', 'circular')[seed % 5]
    size, window, dilation = ints(2, 5), ints(1, 3), ints(1, 2)
    holes = ints(1, 2) if mode == 'zeros' else (1,) * ndim
    low = -1 if mode == 'zeros' else 0
    # At least as large as the kernel; `reflect` allows no more than 1 here.
    size = tuple(map(max, size, ((k - 1) * d + 2 for k, d in zip(window, dilation, strict=True))))
    groups, inputs, outputs = map(int, rng.integers(1, 3, 3))
    padding = tuple(zip(ints(low, 1), ints(0, 1), strict=True))
    spec = ConvSpec(
        batch=1,
        input_size=size,
        in_features=inputs * groups,
        window=window,
        out_features=outputs * groups,
        strides=ints(1, 3),
        padding=padding,
        input_dilation=holes,
        dilation=dilation,
        groups=groups,
        dtype='float32',
    )
    return spec, mode


@pytest.mark.parametrize('seed', range(20))
def test_steps_add_up_to_the_result(seed):
    spec, mode = random_spec(seed)
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.normal(size=shape) for shape in (spec.x_shape, spec.kernel_shape, spec.y_shape))
    y, dx, dw = oracle.conv(
        x,
        w,
        dy,
        strides=spec.strides,
        padding=spec.padding,
        dilation=spec.dilation,
        input_dilation=spec.input_dilation,
        groups=spec.groups,
        mode=mode,
    )
    maps = {
        'forward': (x[0], w, y[0]),
        'input_grad': (dy[0], w, dx[0]),
        'filter_grad': (x[0], dy[0], dw),
    }
    for op, (first, second, expected) in maps.items():
        steps = products.frames(spec, op, first, second, padding_mode=mode)
        assert len(steps) == products.count(spec, op)
        found = products.assemble(steps, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    if mode == 'zeros':
        flipped = np.flip(swapped(w, spec.groups), range(spec.ndim))
        steps = products.frames(input_grad_spec(spec), 'forward', dy[0], flipped)
        found = products.assemble(steps, dx[0].shape)
        np.testing.assert_allclose(found, dx[0], rtol=1e-10, atol=1e-10)


def swapped(w, groups):
    """(*window, a / groups, b) -> (*window, b / groups, a), one group after the other."""
    return np.concatenate([np.swapaxes(part, -1, -2) for part in np.split(w, groups, -1)], -1)


def make_scene(**arguments) -> Scene:
    return compute(plan(**arguments))


TRANSPOSED = {
    'stride': dict(size=(3, 2), window=(3, 2), strides=2, padding=0),
    'asymmetric crop': dict(size=(3,), window=(4,), strides=2, padding=((1, 2),)),
    'output padding': dict(size=(2, 3), window=(3, 3), strides=(3, 2), padding=1,
                           output_padding=(2, 1)),
    'groups and dilation': dict(size=(4,), window=(3,), strides=2, padding=2, dilation=2,
                                groups=2, in_features=4, out_features=2),
    'window below stride': dict(size=(3,), window=(1,), strides=3, padding='SAME'),
}  # fmt: skip


@pytest.mark.parametrize('name', TRANSPOSED)
def test_transposed_convolutions_and_their_gradients(name):
    arguments = TRANSPOSED[name] | {'transposed': True}
    forward = {view: make_scene(**arguments, view=view) for view in ('gather', 'scatter')}
    scene = forward['scatter']  # shows x and y as they are, and the kernel with swapped features
    groups = arguments.get('groups', 1)
    kernel = swapped(scene.operands[1], groups)
    lo = scene.spec.padding
    out = scene.result.shape

    def expected(x, w):
        spec, ndim = scene.spec, scene.spec.ndim
        sizes = zip(x.shape, spec.strides, spec.dilated_window, strict=False)
        full = [(n - 1) * s + k for n, s, k in sizes]
        crops = [(a, f - a - n) for (a, _), f, n in zip(lo, full, out[:ndim], strict=True)]
        return oracle.conv_transpose(
            x[None], w, strides=spec.strides, crops=crops, dilation=spec.dilation, groups=groups
        )[0]

    x = scene.operands[0]
    for one in forward.values():
        sums = products.assemble(products.frames(one.spec, one.op, *one.operands), out)
        np.testing.assert_array_equal(sums, expected(x, kernel))
        np.testing.assert_allclose(one.result, sums, rtol=1e-5, atol=1e-5)

    # A gradient is the inner product of dy with the result for each unit vector.
    one = make_scene(**arguments, op='input_grad')
    dy, basis = one.operands[0], np.eye(x.size).reshape(x.size, *x.shape)
    dx = np.reshape([np.vdot(dy, expected(unit, kernel)) for unit in basis], x.shape)
    sums = products.assemble(products.frames(one.spec, one.op, *one.operands), x.shape)
    np.testing.assert_array_equal(sums, dx)

    one = make_scene(**arguments, op='filter_grad')
    dy, basis = one.operands[0], np.eye(kernel.size).reshape(kernel.size, *kernel.shape)
    dw = np.reshape([np.vdot(dy, expected(x, unit)) for unit in basis], kernel.shape)
    shape = one.spec.kernel_shape
    sums = products.assemble(products.frames(one.spec, one.op, *one.operands), shape)
    np.testing.assert_array_equal(swapped(sums, groups), dw)


def test_swapped_is_what_the_package_swaps():
    w = np.arange(24.0).reshape(2, 2, 6)
    np.testing.assert_array_equal(swapped(w, 3), swap_features(w, 3))


def test_a_step_names_its_cells():
    x, kernel = [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 2], [3, -1]]
    animation = animate((3, 3), 2, strides=2, padding=((1, 0), (0, 1)), x=x, kernel=kernel)
    assert [frame.at for frame in animation.frames] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
    first, last = animation.frames[0], animation.frames[3]
    assert first.x == ((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0))
    assert first.products == (0, 0, 3, -2) and first.sums == {(0, 0, 0): 1}
    assert last.x == ((2, 2, 0), (2, 3, 0), (3, 2, 0), (3, 3, 0))
    assert last.w == ((0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0))
    assert last.products == (6, 0, 27, 0) and last.sums == {(1, 1, 0): 33}
    np.testing.assert_allclose(animation.scene.result[..., 0], [[1, 9], [27, 33]], atol=1e-5)


def test_an_input_gradient_scatters_each_element_of_dy():
    animation = animate(3, 2, padding=((1, 0),), padding_mode='replicate', op='input_grad')
    dy, kernel = (operand.ravel() for operand in animation.scene.operands)
    first = animation.frames[0]  # both taps reach x[0], one of them through the padding
    assert first.x == ((0, 0), (1, 0)) and first.products == tuple(dy[0] * kernel)
    assert first.sums == {(0, 0): dy[0] * kernel.sum()}


def test_channels_come_one_after_the_other_and_can_be_chosen():
    options = dict(size=4, window=2, padding='VALID', groups=2, in_features=4)
    every = animate(**options)
    assert [f.at for f in every.frames] == [(i, o) for o in range(2) for i in range(3)]
    one = animate(**options, channel=1)
    assert one.frames == every.frames[3:]
    assert {cell[-1] for frame in one.frames for cell in frame.x} == {2, 3}
    assert one.images[0].height < every.images[0].height


@pytest.mark.parametrize(
    ('parts', 'lines'),
    [
        (['y = ', '1·2 ', '= 2'], ['y = 1·2 = 2']),
        (['y = ', *['+ 1000·2000 '] * 12, '= 2'], 3),
        (['y = ', *['+ 1000·2000 '] * 99, '= 2'], 3),
    ],
)
def test_a_long_sum_is_shortened_to_three_lines(parts, lines):
    found = drawing.wrapped(parts, 600)
    assert found == lines or len(found) == lines
    assert ('…' in ' '.join(found)) == (len(parts) > 50)
    assert found[0].startswith('y = ') and found[-1].endswith('= 2')


def test_numbers():
    shown = map(drawing.number, (0.0, -0.0, 12345.0, -2.0, 1 / 3))
    assert list(shown) == ['0', '0', '12345', '−2', '0.333']


def test_pictures_mark_the_window_and_fill_the_result():
    animation = animate(5, 2, strides=2, padding='VALID')
    painter = drawing.Painter(animation.scene, animation.frames)
    images = list(painter.images())
    assert len(images) == 2 and {image.size for image in images} == {painter.size}
    assert painter.size[0] % 2 == painter.size[1] % 2 == 0
    x, _, y = painter._layout.panels
    for step, image in enumerate(images):
        # just inside the upper left corner of each cell, where no number is
        at = lambda panel, i: (panel.left + i * drawing.CELL + 6, panel.top + 6)  # noqa: E731
        blue = [i for i in range(5) if image.getpixel(at(x, i)) == (159, 212, 245)]
        assert blue == [2 * step, 2 * step + 1]
        white = [i for i in range(2) if image.getpixel(at(y, i)) == (255, 255, 255)]
        assert white == list(range(step + 1, 2))


@pytest.mark.parametrize('op', ['forward', 'input_grad', 'filter_grad'])
@pytest.mark.parametrize('mode', ['zeros', 'reflect'])
@pytest.mark.parametrize('transposed', [False, True])
def test_everything_can_be_drawn(op, mode, transposed):
    animation = animate(
        (3, 4), 3, strides=2, padding=1, padding_mode=mode, op=op, transposed=transposed,
        groups=2, in_features=4, channel=0, max_frames=40,
    )  # fmt: skip
    painter = drawing.Painter(animation.scene, animation.frames)
    assert next(painter.images()).getcolors(1 << 16)


def test_a_notebook_displays_the_gif():
    animation = animate(4, 2)
    assert repr(animation) == "<Animation of y = conv(x, kernel, padding='SAME'): 4 steps>"
    shown = animation._repr_html_()
    found = re.fullmatch(r'<img src="data:image/gif;base64,([^"]+)" alt="([^"]+)">', shown)
    assert found and 'conv(x, kernel' in found[2]
    with PIL.Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.n_frames == 4 and image.info['duration'] == 500
        assert image.convert('RGB').getpixel((0, 0)) == (255, 255, 255)


def test_files(tmp_path):
    animation = animate(4, 2, fps=4)
    animation.save(tmp_path / 'new' / 'conv.gif')
    with PIL.Image.open(tmp_path / 'new' / 'conv.gif') as image:
        assert image.n_frames == 4 and image.size == animation.images[0].size
        durations = []
        for i in range(4):
            image.seek(i)
            durations.append(image.info['duration'])
        assert durations == [250, 250, 250, 750]
    folder = tmp_path / 'frames'
    for each in (animation, animate(3, 2)):  # the second replaces the first
        each.save(folder)
        names = [f'frame_{i:03}.png' for i in range(1, len(each.frames) + 1)]
        assert sorted(path.name for path in folder.iterdir()) == names
    first = PIL.Image.open(folder / 'frame_001.png').convert('RGB')
    assert first.tobytes() == animate(3, 2).images[0].tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['frames', 'new']


@pytest.mark.parametrize('name', ['conv.gif', 'frames'])
def test_a_failure_leaves_nothing(tmp_path, name):
    images = [*animate(3, 2).images, 'no picture']
    with pytest.raises(AttributeError):
        writing.write(images, tmp_path / name, 2)
    assert not list(tmp_path.iterdir())


def test_video(tmp_path):
    path = tmp_path / 'conv.mp4'
    if not FFMpegWriter.isAvailable():
        with pytest.raises(UserError, match='MP4 needs ffmpeg'):
            animate(3, 2).save(path)
        return
    animate(3, 2).save(path)
    assert path.read_bytes()[4:8] == b'ftyp'


def test_outputs_that_are_refused(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('keep')
    (tmp_path / 'conv.gif').mkdir()
    for name, message in {
        'mine': 'not a folder of frames alone',
        'conv.gif': 'is a folder',
        'conv.avi': 'must end with .gif or .mp4',
    }.items():
        with pytest.raises(UserError, match=message):
            writing.check_output(tmp_path / name)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'window': 7, 'padding': 'VALID'}, 'spans 7 positions .* only 5'),
        ({'groups': 2, 'in_features': 3}, r'groups must divide in_features \(3\)'),
        ({'strides': 1.5}, 'strides must be a static int, got 1.5'),
        ({'size': (5, 5, 5)}, r'1 or 2 spatial axes to be drawn, got \(5, 5, 5\)'),
        ({'size': (5, 5), 'window': (3, 3, 3)}, 'one int per spatial axis'),
        ({'size': 99}, 'at most 40 positions'),
        ({'size': (20, 20)}, '400 steps are more than max_frames=200'),
        ({'op': 'backward'}, 'op must be one of forward, input_grad, filter_grad'),
        ({'view': 'scatter'}, "view 'scatter' is for"),
        ({'op': 'input_grad', 'view': 'gather', 'padding_mode': 'reflect'}, 'needs padding_mode'),
        ({'input_dilation': 2, 'transposed': True}, 'has no input_dilation'),
        ({'output_padding': 1}, 'needs a transposed convolution'),
        ({'transposed': True, 'dilation': 3, 'output_padding': 1}, 'less than the strides'),
        ({'channel': 1}, 'channel must be less than 1, got 1'),
        ({'fps': 0}, 'fps must be more than 0'),
        ({'seed': -1}, 'seed must be at least 0'),
        ({'kernel': [1, 2]}, r'kernel must have shape \(3, 1, 1\)'),
    ],
)
def test_bad_specifications(changes, message):
    with pytest.raises(UserError, match=message):
        animate(**{'size': 5, 'window': 3, **changes})
