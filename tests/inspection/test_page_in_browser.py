"""The page that explains a network in a real browser: its numbers, its controls, its manners."""

import json

import jax
import numpy as np
import pytest

from cnn_jax.inspection import flops
from cnn_jax.inspection.page import agreement, content, document, layers
from tests.inspection.test_page import inputs, network
from tools import browser

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f'no browser: none of {", ".join(browser.NAMES)} is on PATH'
)

CONVOLUTIONS = ('conv1', 'block.conv', 'block.grouped', 'block.shortcut.conv', 'flax')


@pytest.fixture(scope='module')
def recorded():
    return content.record(network(), inputs())


@pytest.fixture(scope='module')
def file(recorded, tmp_path_factory):
    classes = ['</script>', 'b & c', 'd']
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    about = {
        'model': 'test', 'dataset': '<random>', 'step': 7, 'parameters': 123, 'dtype': 'bfloat16',
        'jax': 'JAX', 'reading': 'As it is.', 'classes': classes,
        'examples': [{'name': f'no. {n}', 'label': n, 'image': image} for n in range(2)],
    }  # fmt: skip
    path = tmp_path_factory.mktemp('page') / 'a page.html'
    page, _ = document.fitting(recorded, flops.summary(network()), about, 10**6)
    path.write_text(page, encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def window():
    with browser.browser(PROGRAM) as page:
        yield page


@pytest.fixture
def page(window, file):
    window.open(file, width=1200, height=900, dark=False)
    yield window
    assert window.problems == []
    assert [url for url in window.requests if not url.startswith('file:')] == []


def of(name, selector=''):
    """A CSS selector within a layer's part of the page."""
    return f'[id="layer-{name}"] {selector}'


def number(page, name, selector):
    return float(page.text(of(name, selector)))


def table(page, name, selector):
    cells = f'[...document.querySelectorAll({json.dumps(of(name, selector + " td"))})]'
    return np.array(page.evaluate(f'{cells}.map((cell) => Number(cell.textContent))'))


def place(page, name):
    """Returns the chosen (row, column, channel)."""
    value = lambda part: page.evaluate(  # noqa: E731
        f'Number(document.querySelector({json.dumps(of(name, part))}).value)'
    )
    return value('input.row'), value('input.column'), value('.channels input:checked')


def unfold(page, name):
    if not page.evaluate(f'document.querySelector({json.dumps(of(name))}).open'):
        page.click(of(name, 'summary'))
        page.evaluate('new Promise(requestAnimationFrame)')


def choose(page, name, row, column, channel):
    """Chooses an element with the mouse, in a layer that is then open."""
    unfold(page, name)
    page.click(of(name, f'.channels label:has(input[value="{channel}"])'))
    height, width = page.evaluate(
        f'(({{height, width}}) => [height, width])(result({json.dumps(name)}))'
    )
    page.click(of(name, 'canvas.map'), (column + 0.5) / width, (row + 0.5) / height)
    assert place(page, name) == (row, column, channel)


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_sums_are_the_networks_numbers(page, recorded, name):
    layer = next(layer for layer in recorded.layers if layer.name == name)
    x, maps, windows = recorded.maps[layer.source], recorded.maps[name], recorded.windows[name]
    kernel, bias = layers.kernel_and_bias(layer.module)
    _, height, width, channels = maps.shape
    for row, column, channel in ((0, 0, 0), (height - 1, width - 1, channels - 1), (1, 2, 3)):
        choose(page, name, row, column, channel)
        value = maps[0, row, column, channel]
        exact = agreement.in_float64(x, kernel, bias, windows, (0, row, column, channel))
        assert number(page, name, '.total') == pytest.approx(exact, rel=1e-12, abs=1e-12)
        assert np.float32(number(page, name, '.network')) == value
        difference = pytest.approx(float(value) - exact, rel=0.06, abs=1e-12)
        assert number(page, name, '.difference') == difference
        assert f'{row}, column {column}' in page.text(of(name, '.value'))

        taps, weights = table(page, name, '.window'), table(page, name, 'table.kernel')
        np.testing.assert_allclose(weights, kernel[:, :, 0, channel].ravel(), rtol=1e-4)
        np.testing.assert_allclose(table(page, name, '.products'), taps * weights, rtol=2e-4)
        assert number(page, name, '.part') == pytest.approx(taps @ weights, rel=1e-2, abs=1e-3)
        dy = recorded.gradients[name][0, row, column, channel]
        np.testing.assert_allclose(table(page, name, '.to-input'), dy * weights, rtol=2e-4)
        np.testing.assert_allclose(table(page, name, '.to-kernel'), dy * taps, rtol=2e-4)
        assert f'dy = {dy:.3g}'[:6] in page.text(of(name, '.gradient'))


def test_buttons_go_to_what_every_kernel_computes(page, recorded):
    for button, check in enumerate(content.checks(recorded, 'conv1')[:3], start=1):
        page.click(of('conv1', f'.jumps button:nth-child({button})'))
        assert place(page, 'conv1') == tuple(check['position'][1:])
        shown = page.text(of('conv1', '.agreement'))
        assert check['why'] in shown and f'float64{check["float64"]}' in shown
        for name, value, difference in check['kernels']:
            assert f'{value}{difference}' in shown.replace(' *', '').partition(name)[2]
    choose(page, 'conv1', 3, 3, 3)
    assert 'the buttons below the map' in page.text(of('conv1', '.agreement'))


def test_pools_show_their_windows(page, recorded):
    x = recorded.maps['relu1'][0]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for row, column, channel in ((0, 0, 1), (2, 3, 5), (5, 4, 0)):
        choose(page, 'max', row, column, channel)
        window = padded[row : row + 3, 2 * column : 2 * column + 2, channel]
        i, j = np.unravel_index(window.argmax(), window.shape)
        where = f'row {row + i - 1}, column {2 * column + j - 1}'
        assert f'{where} won' in page.text(of('max', '.outcome'))
        assert where in page.text(of('max', '.gradient'))
        assert float(page.text(of('max', '.winner'))) == pytest.approx(window.max(), rel=1e-4)
    for name, element in (('mean', (0, 0, 2)), ('mean', (3, 2, 1)), ('pool', None)):
        if element:
            choose(page, name, *element)
        unfold(page, name)
        chosen = element or (0, 0, place(page, name)[2])
        maps = recorded.maps[name].reshape(2, *(() if element else (1, 1)),
                                           *recorded.maps[name].shape[1:])  # fmt: skip
        mean = float(page.text(of(name, '.outcome')).partition(': ')[2].partition('. The')[0])
        assert mean == pytest.approx(maps[0][chosen], rel=1e-5, abs=1e-6)


def test_keyboard_alone(page):
    focused = 'document.activeElement.matches({})'
    page.press('Tab')
    assert page.text(':focus') == 'Skip to the layers'
    page.press('Enter')
    for _ in range(10):  # to the first layer's channels, its map
        page.press('Tab')
        if page.evaluate(focused.format(json.dumps('.channels input'))):
            break
    before = place(page, 'conv1')
    page.press('ArrowRight')
    assert place(page, 'conv1')[2] == (before[2] + 1) % 8
    page.press('Tab')
    assert page.evaluate(focused.format('"canvas.map"'))
    assert page.evaluate('getComputedStyle(document.activeElement).outlineStyle') == 'solid'
    page.press('Home')
    for key, expected in (
        ('ArrowRight', 1), ('ArrowRight', 2), ('ArrowLeft', 1), ('End', 8), ('ArrowRight', 8),
    ):  # fmt: skip
        page.press(key)
        assert place(page, 'conv1')[1] == expected
    row = place(page, 'conv1')[0]
    page.press('ArrowUp')
    assert place(page, 'conv1')[0] == max(row - 1, 0)
    assert page.text('#announcement').startswith('conv1, channel')
    page.press('Enter')
    assert page.evaluate(focused.format('".explanation"'))
    page.press('Tab')
    assert page.evaluate(focused.format('"select.from"'))
    first = page.text(of('conv1', '.part'))
    page.press('ArrowDown')
    assert page.text(of('conv1', '.part')) != first
    assert page.evaluate('document.activeElement.selectedIndex') == 1


def test_number_fields_choose_an_element(page):
    for axis, typed, expected in (('row', '2', 2), ('column', '99', 8), ('row', '', 0)):
        page.evaluate(
            f'(() => {{ const field = document.querySelector({json.dumps(of("conv1", ".place"))})'
            f'.querySelector("input.{axis}"); field.value = "{typed}"; '
            'field.dispatchEvent(new Event("change")); })()'
        )
        assert place(page, 'conv1')[('row', 'column').index(axis)] == expected


def test_another_input_changes_everything(page, recorded):
    probabilities = np.asarray(jax.nn.softmax(recorded.logits))
    for example in (1, 0):
        page.click(f'#examples label:nth-of-type({example + 1})')
        best = recorded.logits[example].argmax()
        said = page.text('#prediction')
        assert f'{100 * probabilities[example, best]:.2f} %' in said
        assert ('which is right' in said) == (best == example)
        logits = page.evaluate(
            '[...document.querySelectorAll("#classes tbody td:nth-child(2)")]'
            '.map((cell) => Number(cell.textContent))'
        )
        np.testing.assert_allclose(logits, np.sort(recorded.logits[example])[::-1], rtol=1e-6)
        chosen = place(page, 'conv1')
        maps = recorded.maps['conv1'][example]
        assert maps[chosen] == maps.max() == np.float32(number(page, 'conv1', '.network'))


def test_layers_without_an_explanation(page, recorded):
    assert 'trained in bfloat16' in page.text('#facts')
    for name in ('relu1', 'tanh', 'logits'):
        unfold(page, name)
        shown = page.text(of(name, '.value'))
        row, column, channel = place(page, name)
        maps = recorded.maps[name][0]
        value = maps[row, column, channel] if maps.ndim == 3 else maps[channel]
        assert np.float32(shown.rpartition(': ')[2]) == value


def test_everything_that_takes_the_focus_has_a_name(page):
    page.send('Accessibility.enable')
    page.evaluate('document.querySelectorAll("details").forEach((each) => { each.open = true; })')
    page.evaluate('new Promise((done) => setTimeout(done, 50))')
    nodes = page.send('Accessibility.getFullAXTree')['nodes']
    focusable = [
        node for node in nodes
        if any(p['name'] == 'focusable' and p['value']['value'] for p in node.get('properties', ()))
    ]  # fmt: skip
    assert len(focusable) > 100
    assert [n for n in focusable if not n.get('name', {}).get('value')] == []


@pytest.mark.parametrize('width', [1200, 360])
@pytest.mark.parametrize('dark', [False, True])
def test_schemes_and_widths(page, file, width, dark):
    page.open(file, width=width, height=900, dark=dark)
    background = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert background == ('rgb(20, 23, 27)' if dark else 'rgb(255, 255, 255)')
    assert page.evaluate('document.documentElement.scrollWidth') <= width
