"""experiments/animate.py: writes what its last line says; wrong flags give one line."""

from cnn_jax.viz import animate
from cnn_jax.viz.animation import writing
from tools import scripts


def test_flags_and_problem_strings_are_the_arguments(tmp_path):
    kernel = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    expected = animate(
        (2, 3), 3, strides=2, padding=1, transposed=True, output_padding=1, kernel=kernel, fps=4
    )
    common = ('--fps=4', '--kernel=1,2,3,4,5,6,7,8,9')
    cases = (
        ('--size=2,3', '--window=3', '--strides=2', '--padding=1', '--output_padding=1',
         '--transposed'),
        ('--problem=conv_transpose:ic1ih2iw3oc1kh3sh2ph1oh4ow6',),
    )  # fmt: skip
    files = [tmp_path / f'{i}.gif' for i in range(len(cases))]
    processes = [
        scripts.start('animate.py', *common, *flags, f'--output={file}')
        for flags, file in zip(cases, files, strict=True)
    ]
    size = '{}x{}'.format(*expected.images[0].size)
    for process, file in zip(processes, files, strict=True):
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert output == f'24 frames of {size} written to {file}\n'
        assert file.read_bytes() == writing.gif(expected.images, 4)


def test_bad_flags(tmp_path):
    common = (f'--output={tmp_path / "conv.gif"}',)
    cases = {
        ('--size=5', '--window=3', '--strides=1.5'): "strides='1.5': must be one int",
        ('--problem=ic1ih4oc1kh3', '--strides=2'): '--problem or --strides, not both',
    }
    lines = scripts.errors('animate.py', *((*common, *flags) for flags in cases))
    for line, part in zip(lines, cases.values(), strict=True):
        assert line.startswith('error: ') and part in line
    assert not list(tmp_path.iterdir())
