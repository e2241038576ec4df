"""Tests accelerator_report.py: a small report on this CPU, a table from it, and bad input."""

import json

from tools import scripts


def test_small_report_and_the_choices_from_it(tmp_path):
    suite = tmp_path / 'shapes'
    suite.write_text('mb2ic3ih6oc4kh3ph1')
    text = scripts.run(
        'accelerator_report.py',
        '--parts=kernels,training',
        f'--suite={suite}',
        '--nopytorch',
        f'--output={tmp_path}',
        CNN_JAX_REPORT='small',
    )
    path = tmp_path / 'report.json'
    assert text.splitlines()[-1] == f'0 wrong results; to send back: {path}'
    report = json.loads(path.read_text())
    assert {part['status'] for part in report['parts'].values()} == {'complete', 'skipped'}
    ours, theirs = report['parts']['training']['rows']
    assert ours['network'] == 'resnet18' and ours['step_s'] > 0 and ours['steps'] >= 2
    assert theirs['reason'] == 'not asked for'
    assert (tmp_path / 'report.md').read_text() in text
    timed = report['parts']['kernels']['rows']
    assert {row['problem'] for row in timed} == {'mb2_ic3ih6oc4kh3ph1'}
    assert {row['direction'] for row in timed} == {'forward', 'input_grad', 'filter_grad'}

    out, guess = tmp_path / 'choices.json', tmp_path / 'estimates.json'
    some = [row for row in timed if row['steady_s'] and row['right']]
    renamed = [
        {
            **{key: row[key] for key in ('problem', 'kernel', 'dtype')},
            **{'map': row['direction'], 'chip': 'x', 'microseconds': 1e6 * row['steady_s']},
        }
        for row in some
    ]
    guess.write_text(json.dumps(renamed))
    text = scripts.run(
        'accelerator_report.py', f'--choices={out}', f'--estimates={guess}', str(path)
    )
    assert 'rank agreement (Kendall) 1.00' in text and f'written to {out}' in text
    assert json.loads(out.read_text())['platform'] == 'cpu'


def test_bad_input(tmp_path):
    lines = scripts.errors(
        'accelerator_report.py',
        ('--parts=nope',),
        ('--networks=resnet5',),
        ('--suite=none',),
        ('report.json',),
        (f'--choices={tmp_path}/out.json', f'{tmp_path}/none.json'),
    )
    expected = (
        "parts: 'nope' must be one of machine, checks",
        "unknown model 'resnet5'",
        "suite='none': must be one of lecture",
        'report.json: reports are read with --choices or --estimates',
        'No such file or directory',
    )
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith('error: ') and part in line
