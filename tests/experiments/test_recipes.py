"""Every recipe states its result and its command, parses, and fits its data set."""

import pathlib
import re

import pytest
from absl import flags

from cnn_jax import cli, data
from cnn_jax.data import Dataset, catalog
from cnn_jax.data.loading import parse
from cnn_jax.data.text import PAD, UNKNOWN
from cnn_jax.training import TrainConfig
from cnn_jax.training.generation_config import GenerateConfig
from cnn_jax.training.generation_job import make_nets
from cnn_jax.training.job import make_net
from tools import scripts

ROOT = pathlib.Path(__file__).parents[2]
ALL = sorted((ROOT / 'experiments' / 'recipes').glob('*.flags'))
GENERATORS = [recipe for recipe in ALL if 'generate.py' in recipe.read_text()]
RECIPES = [recipe for recipe in ALL if recipe not in GENERATORS]

# The first line of a recipe of a generator; the number is the mean distance of its samples.
DISTANCE = r'# Fréchet distance (\d+\.\d+) \+- \d+\.\d+ \(\d+ seeds, .*\); .* a run on'
# The first line of a recipe; the number is the mean test accuracy.
RESULT = r'# (?:(\d+\.\d+) % (?:\+- \d+\.\d+ )?\(\d+ seeds?, .*\); .* a run on|No result yet\.)'


def read(recipe, config_class=TrainConfig):
    values = flags.FlagValues()
    cli.define_flags(config_class, values)
    values(['script', f'--flagfile={recipe}'])
    return cli.from_flags(config_class, values)


def row(recipe) -> str:
    """The recipe's row in docs/results.md."""
    lines = (ROOT / 'docs' / 'results.md').read_text().splitlines()
    return next(line for line in lines if line.startswith(f'| `{recipe.stem}` |'))


def stand_in(spec: str) -> Dataset:
    """The data set of a recipe without examples, built from its catalog entry."""
    name, options = parse(spec)
    entry = catalog.CATALOG[name]
    sizes = {'length': 60, **catalog.options(entry.read), **options}
    shape = [int(sizes.get(size) or 60) if isinstance(size, str) else size for size in entry.shape]
    channels = shape[-1] if entry.kind != 'text' else 0
    return Dataset.described(
        {
            'name': spec,
            'kind': entry.kind,
            'input_shape': shape,
            'dtype': {'image': 'uint8', 'audio': 'int16', 'text': 'int32'}[entry.kind],
            'sizes': {'train': 0, 'test': 0},
            'class_names': [str(i) for i in range(entry.classes)],
            'mean': [0.5] * channels,
            'std': [0.5] * channels,
            'meta': {'vocabulary': [PAD, UNKNOWN, 'word']} if entry.kind == 'text' else {},
        }
    )


def test_the_table_of_data_sets_is_shown():
    shown = scripts.run('train.py', '--list_datasets')
    assert shown == data.table() + '\n'


@pytest.mark.parametrize('script', ['train.py', 'generate.py', 'compare_pytorch.py'])
def test_help_lists_the_flags_of_the_configuration(script):
    process = scripts.start(script, '--help')
    shown, _ = process.communicate()
    names = re.findall(r'^  --(?:\[no\])?(\w+):', shown, re.M)
    assert {'dataset', 'model', 'learning_rate', 'nesterov', 'eval_every'} <= set(names)


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_says_its_result_as_the_documentation_and_builds_its_model(recipe):
    lines = recipe.read_text().splitlines()
    result = re.match(RESULT, lines[0])
    assert result, lines[0]
    assert f'| {result[1] or "none yet"} ' in row(recipe), row(recipe)
    assert f'--recipes=experiments/recipes/{recipe.name}' in lines[1]
    head = ' '.join(line.removeprefix('# ') for line in lines if line.startswith('#'))
    assert 'Published' in head
    config = read(recipe)
    assert not config.data_dir
    net = make_net(config, stand_in(config.dataset))
    # The number of parameters of text models depends on the vocabulary.
    if not config.dataset.startswith(('trec', 'movie_reviews')):
        assert f' {net.num_parameters:,} |' in row(recipe), net.num_parameters


@pytest.mark.parametrize('recipe', GENERATORS, ids=lambda recipe: recipe.stem)
def test_a_recipe_of_a_generator_says_its_result_and_builds_its_networks(recipe):
    lines = recipe.read_text().splitlines()
    result = re.match(DISTANCE, lines[0])
    assert result, lines[0]
    assert f'| {result[1]} ' in row(recipe), row(recipe)
    assert f'--flagfile=experiments/recipes/{recipe.name}' in lines[1]
    config = read(recipe, GenerateConfig)
    assert not config.data_dir and not config.classifier_workdir
    nets = make_nets(config, stand_in(config.dataset))
    for net in nets.values():
        assert f'{net.num_parameters:,}' in row(recipe), net.num_parameters
