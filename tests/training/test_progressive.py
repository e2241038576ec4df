"""Tests progressive resizing: the images, the switches between sizes, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cnn_jax import training
from cnn_jax.data import Dataset, Split
from cnn_jax.errors import UserError
from cnn_jax.training import TrainConfig, Workdir
from cnn_jax.training.devices import Devices
from cnn_jax.training.interrupt import Interrupt
from cnn_jax.training.job import Job, common_parts, make_net, task_parts
from cnn_jax.training.members import make_members
from cnn_jax.training.progressive import parse
from cnn_jax.training.state import FunctionalModel
from tests.training.tiny import Tiny, tiny_dataset

DATA = tiny_dataset()
SMALL = {'model': 'small_cnn', 'model_options': 'stages=((4,),(8,))', 'steps': 6, 'batch_size': 8}


def job_for(dataset, **options):
    config = TrainConfig(**SMALL | options)
    net = make_net(config, dataset)
    return Job(**task_parts(config, dataset, net), **common_parts(config, dataset, Devices.all()))


def images(height, width, channels=1):
    split = Split(
        np.random.default_rng(0).integers(0, 256, (8, height, width, channels)).astype(np.uint8),
        np.arange(8, dtype=np.int32) % 2,
    )
    statistics = (0.5,) * channels, (0.25,) * channels
    return Dataset('noise', 'image', {'train': split}, ('a', 'b'), *statistics)


@pytest.mark.parametrize('size', [(12, 8), (9, 17)])
def test_images_are_resized_as_by_pillow_after_the_augmentation(size):
    dataset = images(*size)
    (stage,) = parse('5:0.5', dataset)
    assert min(stage.shape[:2]) == 5
    x = np.random.default_rng(1).normal(size=(3, *size, 1)).astype(np.float32)
    found, targets = stage.after(lambda key, x, y: (2 * x, y + 1))(None, x, np.arange(3))
    height, width, _ = stage.shape
    for image, small in zip(x, found, strict=True):
        expected = Image.fromarray(2 * image[..., 0]).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        np.testing.assert_allclose(small[..., 0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(targets, [1, 2, 3])
    assert stage.after(None)(None, x, 0)[0].shape == (3, *stage.shape)


def test_each_stage_trains_on_images_of_its_size():
    job = job_for(images(32, 16), progressive='4:0.5,8:0.75', steps=8)
    ends, steps = zip(*job.stages(), strict=True)
    assert ends == (4, 6, 8)
    split, state = job.dataset.splits['train'], job.init()
    batch = {'inputs': split.inputs, 'labels': split.labels}
    for step, size in zip(steps, ((8, 4), (16, 8), (32, 16)), strict=True):
        program = str(jax.make_jaxpr(step)(state, batch))
        assert f'f32[8,{size[0]},{size[1]},4] = conv_general_dilated' in program
    assert str(jax.make_jaxpr(steps[-1])(state, batch)) == str(
        jax.make_jaxpr(job_for(images(32, 16), steps=8).step())(state, batch)
    )


LONG = {
    'progressive': '3:0.5',
    'augment': 'crop:1',
    'optimizer': 'sgd',  # the first steps of Adam amplify rounding
    'log_every': 1,
    'eval_every': '4steps',
}


def run(folder):
    job = job_for(DATA, **LONG)
    with Workdir(folder, job.config).hold():
        return *training.train(job, Workdir(folder, job.config)), training.read_metrics(folder)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp('progressive') / 'run')


@pytest.mark.parametrize('at', [3, 4])  # the switch is after step 3
def test_a_run_interrupted_around_a_switch_ends_with_the_same_bits(
    whole, tmp_path, monkeypatch, at
):
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, 'at', lambda self, step: 'SIGTERM' if step == at else None)
        with pytest.raises(training.Interrupted, match=f'after step {at} of 6, saved'):
            run(tmp_path / 'run')
    state, result, rows = run(tmp_path / 'run')
    jax.tree.map(np.testing.assert_array_equal, (state, result), whole[:2])
    losses = [[row['train_loss'] for row in r if 'train_loss' in row] for r in (rows, whole[2])]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_no_call_of_several_steps_crosses_a_switch(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(Devices, 'platform', 'tpu')  # on accelerators, calls have many steps
    state, _, _ = run(tmp_path / 'run')
    assert int(state.step) == 6
    for name, value in whole[0].params.items():
        np.testing.assert_allclose(state.params[name], value, rtol=1e-4, atol=1e-5)


def test_the_form_of_the_network_is_that_of_full_size():
    job = job_for(images(64, 64, 3), model='resnet18', model_options='', progressive='32:0.5')
    assert job.net.params['layers/conv1/kernel'].shape == (7, 7, 3, 64)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'progressive': '14'}, "progressive='14': must be sides of images, each with the frac"),
        ({'progressive': '14:x'}, 'such as 14:0.4,20:0.7'),
        ({'progressive': '0:0.5'}, 'the sides must increase and be above 0 and below 16'),
        ({'progressive': '16:0.5'}, 'the sides must increase'),
        ({'progressive': '8:0.5,4:0.7'}, 'the sides must increase'),
        ({'progressive': '4:0.5,8:0.5'}, 'the fractions must increase and be above 0 and below 1'),
        ({'progressive': '4:0.5,8:1.0'}, 'the fractions must increase'),
        (
            {'progressive': '8:0.5', 'model': 'lecture_cnn', 'model_options': ''},
            'does not take images of 16 x 8 with the parameters for full size: layer dense1: ',
        ),
        ({'progressive': '1:0.5'}, 'does not take images of 2 x 1 .*: layer pool1: '),
    ],
)
def test_what_cannot_work_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as found:
        job_for(images(32, 16), **options)
    assert '\n' not in str(found.value)


def test_a_model_of_ones_own_need_not_have_an_input_shape(tmp_path):
    def flat(rngs):
        return nnx.Sequential(lambda x: x.reshape(len(x), -1), nnx.Linear(25, 3, rngs=rngs))

    message = 'the model does not take images of 4 x 4 with the parameters for full size: dot_gen'
    with pytest.raises(UserError, match=message):
        training.fit(flat, DATA, workdir=tmp_path, batch_size=8, progressive='4:0.5')
    net, x = FunctionalModel(Tiny), jnp.ones((2, 3, 3, 1))
    params = net.init(0)
    np.testing.assert_array_equal(
        net.for_inputs((3, 3, 1)).predict(*params, x), net.predict(*params, x)
    )


def test_other_kinds_of_data_and_tasks_are_refused():
    split = Split(np.zeros((4, 20, 1), np.float32), np.zeros(4, np.int32))
    sound = Dataset('sound', 'audio', {'train': split}, ('a',), (0.0,), (1.0,))
    with pytest.raises(UserError, match="progressive='8:0.5': does not apply to audio data"):
        parse('8:0.5', sound)
    scenes = TrainConfig(dataset='digit_scenes', model='unet', progressive='8:0.5')
    with pytest.raises(UserError, match="progressive='8:0.5': does not apply to segmentation"):
        training.make_job(scenes)
    with pytest.raises(UserError, match='progressive=.8:0.5.: not for runs that train together'):
        make_members([TrainConfig(**SMALL, progressive='8:0.5')])
