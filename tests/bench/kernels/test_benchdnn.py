"""Tests of reading benchdnn's input files, on small files that the tests write."""

import pytest

from cnn_jax.bench.kernels import benchdnn
from cnn_jax.bench.kernels.problem import parse


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def problems(suite):
    return [entry.problem for entry in suite.entries]


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ('ic3ih32oc16kh3ph1', 'mb2_ic3ih32oc16kh3ph1'),  # the batch defaults to 2
        ('mb1ic3ih9oc4oh9kh3', 'mb1_ic3ih9oc4kh3ph1'),  # half of what the output size needs
        ('mb1ic3ih224oc4oh112kh3sh2', 'mb1_ic3ih224oc4kh3sh2oh112'),  # rounded down
        ('mb1ic3ih9oc4kh3sh2ph1_iw8kw3', 'mb1_ic3ih9iw8oc4kh3sh2sw1ph1pw0'),  # w has its own values
        ('mb1_ic2oc4_ih2oh1kh2_iw9kw3dw1', 'mb1_ic2ih2iw9oc4kh2kw3dh0dw1'),
        ('mb1_g4ic4oc8_iw20kw5sw2pw2_n"net:dw"', 'g4mb1_ic4iw20oc8kw5sw2pw2'),
        ('mb3ic2id6oc4kd3pd1', 'mb3_ic2id6oc4kd3pd1'),
        ('mb1ic3ih9oc4kh3dh1sd1dd0', 'mb1_ic3ih9oc4kh3dh1'),  # no third axis
    ],
)
def test_descriptors(theirs, ours):
    assert benchdnn.describe(theirs)[0] == parse(ours)


def test_descriptors_of_transposed_convolutions():
    problem, name, repeats = benchdnn.describe('mb1ic8ih4oc3oh8kh4sh2n"up*3"', 'conv_transpose')
    assert problem == parse('conv_transpose:mb1_ic8ih4oc3kh4sh2ph1')
    assert (name, repeats) == ('up*3', 3)


def test_options_includes_comments_and_repeats(tmp_path):
    inputs = tmp_path / 'conv'
    write(
        inputs / 'shapes_net',
        '# a comment\n\n'
        'mb8ic3ih8oc4oh8kh3ph1n"net:conv1*2"   # and another\n'
        '# mb8ic3ih8oc4oh8kh3ph1n"net:conv2"\n'
        'mb8ic4ih8oc4kh1n"net:conv3"\n',
    )
    file = write(
        inputs / 'test_net',
        '--reset --mb=1,16 --dir=FWD_B,BWD_D\n--dt=f32,bf16,u8:s8:u8, \\\n     s8:s8:s32\n'
        '--attr-post-ops=, \\\n    relu\n--stag=any\n--batch=shapes_net\n'
        '--reset\n--match=.*conv3.*\n--dir=bwd_w --batch=shapes_net\n',
    )
    suite = benchdnn.read(str(file))
    assert [p.batch for p in problems(suite)] == [1, 16, 1, 16, 8]
    first, *_, last = suite.entries
    assert (first.file.name, first.line, first.name) == ('shapes_net', 3, 'net:conv1*2')
    assert first.passes == ('forward', 'input_grad')
    assert first.dtypes == ('float32', 'bfloat16', 'int8')
    assert (last.passes, last.dtypes) == (('filter_grad',), None)

    counts = suite.tasks()
    assert len(counts) == 4 * 2 * 3 + 1
    assert counts[first.problem, 'int8', 'input_grad'] == 2
    assert counts[last.problem, 'float32', 'filter_grad'] == 1
    assert suite.tasks(['float64'], ['forward']) == {
        (p, 'float64', 'forward'): n for p, n in zip(problems(suite), (2, 2, 1, 1, 1), strict=True)
    }
    ignored, left_out = suite.notes()
    assert ignored == 'ignored: biases, --attr-post-ops, --stag'
    assert 'u8:s8:u8 (2)' in left_out
    assert suite.notes(['float32']) == [ignored]


def test_a_line_repeated_under_ignored_options_counts_once(tmp_path):
    write(tmp_path / 'shapes', 'ic3ih8oc4kh3n"a*5"\nic3ih8oc4kh3n"b"\n')
    file = write(tmp_path / 'both', '--stag=any --batch=shapes --stag=abx --batch=shapes')
    suite = benchdnn.read(str(file))
    assert len(suite.entries) == 4
    assert suite.tasks(passes=['forward']) == {(parse('mb2ic3ih8oc4kh3'), 'float32', 'forward'): 6}


def test_the_folder_the_name_or_a_prefix_names_the_operation(tmp_path):
    text = 'mb1ic8ih4oc3kh4sh2ph1'
    for name in ('deconv/shapes', 'conv/test_deconv_ci'):
        (problem,) = problems(benchdnn.read(str(write(tmp_path / name, text))))
        assert problem == parse(f'conv_transpose:{text}')
    file = write(tmp_path / 'mine', f'{text}\nmax_pool:ic3ih8kh2sh2\nconv_transpose:{text}')
    ops = [p.op for p in problems(benchdnn.read(str(file)))]
    assert ops == ['conv', 'max_pool', 'conv_transpose']
    assert len(benchdnn.read(str(file)).tasks()) == 3 + 2 + 3  # a pool has no filter gradient
    assert problems(benchdnn.read(f'conv_transpose:{file}'))[0].op == 'conv_transpose'
    assert benchdnn.is_file(str(file)) and not benchdnn.is_file('small')


def test_a_sample_has_some_problems_of_each_file(tmp_path):
    for name in 'ab':
        write(tmp_path / name, '\n'.join(f'ic{n}ih8oc4kh3' for n in range(1, 9)))
    suite = benchdnn.read(str(write(tmp_path / 'both', '--dt=f32 --batch=a --batch=b')))
    some = suite.sample(3, seed=1)
    assert [e.file.name for e in some.entries] == ['a'] * 3 + ['b'] * 3
    assert some == suite.sample(3, seed=1) != suite.sample(3, seed=2)
    assert suite.sample(9, seed=1) == suite
    assert {p.batch for p in problems(some.with_batch(5))} == {5}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('ic3ih8oc4kh3\nic3ih8oc4n"a"', ':2: problem \'ic3ih8oc4n"a"\': kh is missing'),
        ('ic3ih8oc4kh3x', "cannot read 'x'; write, for example"),
        ('ic3ih8oc4kh3id4kd1', 'values on the axes d, h: give w (1-D), h or h and w (2-D)'),
        ('ic3ih2oc4kh3', 'oh would be 0: enlarge ih or change ph'),
        ('ic3oc4', 'no input size'),
        ('g2ic3ih8oc4kh3', 'g2 must divide ic3 and oc4'),
        ('--dir=FWD', "--dir=FWD: 'fwd' must be one of FWD_B, FWD_D"),
        ('--mb=-1', '--mb=-1: must be whole numbers'),
        ('--match=(', '--match=(: not a regular expression'),
        ('--batch=none', '--batch=none: there is no such file in '),
        ('--batch=file', '--batch=file: the file includes itself'),
        ('-dt=f32', "option '-dt=f32': options are written --name=value"),
    ],
)
def test_bad_lines(tmp_path, text, message):
    file = write(tmp_path / 'file', text)
    with pytest.raises(ValueError) as caught:
        benchdnn.read(str(file))
    assert message in str(caught.value) and str(caught.value).startswith(f'{file}:')
    assert '\n' not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="suite='no/such': there is no such file"):
        benchdnn.read('no/such')
