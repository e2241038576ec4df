'use strict';
// How an element of a layer is computed, and where its gradient goes.

/** Fills a table of the shape of the window with numbers; `mark` returns the class of a cell. */
function fill(table, values, size, mark = () => '') {
  const limit = Math.max(...values.map(Math.abs)) || 1;
  const body = table.tBodies[0];
  body.replaceChildren();
  for (let k = 0; k < size[0]; k++) {
    const row = body.insertRow();
    for (let l = 0; l < size[1]; l++) {
      const t = k * size[1] + l;
      const cell = row.insertCell();
      cell.textContent = short(values[t]);
      cell.className = mark(t);
      if (cell.className === 'outside') continue;
      const [r, g, b] = colour(values[t], limit);
      cell.style.background = `rgb(${r}, ${g}, ${b})`;
      cell.style.color = luminance(r, g, b) > 0.179 ? '#000' : '#fff'; // the greater contrast
    }
  }
}

function explainConvolution(view, row, column) {
  const { layer, section, map, gradient } = view;
  const { windows } = layer;
  const part = (name) => section.querySelector(`.${name}`);
  const input = result(layer.source);
  const places = taps(windows, row, column, input);
  const channels = convolved(layer, input, row, column, view.channel);
  view.from = Math.min(view.from, channels.length - 1);
  const chosen = channels[view.from];
  const select = part('from');
  select.replaceChildren(
    ...channels.map((c) => element('option', `${c.channel}: sum ${short(c.sum)}`)),
  );
  select.selectedIndex = view.from;

  paintSource(part('source'), input, chosen.channel, places);
  const outside = (t) => (places[t].inside ? '' : 'outside');
  fill(part('window'), chosen.window, windows.size, outside);
  fill(part('kernel'), chosen.kernel, windows.size);
  fill(part('products'), chosen.products, windows.size, outside);

  const sum = channels.reduce((total, c) => total + c.sum, 0);
  const bias = decoded(windows.bias).values[view.channel];
  const value = map.at(row, column, view.channel);
  const count = channels.length;
  part('part').textContent = chosen.sum;
  part('all').textContent =
    count === 1
      ? 'sum of all products'
      : `sum of the ${count * places.length} products of all ${count} input channels`;
  part('sum').textContent = sum;
  part('bias-name').textContent = windows.has_bias
    ? `bias of channel ${view.channel}`
    : 'bias (the layer has none)';
  part('bias').textContent = exact(bias);
  part('total').textContent = sum + bias;
  part('network').textContent = exact(value);
  part('difference').textContent = (value - (sum + bias)).toExponential(1);

  part('agreement').replaceChildren(agreement(view, row, column));
  const dy = gradient.at(row, column, view.channel);
  part('gradient').textContent =
    derivative(dy) +
    (dy === 0
      ? ' What follows lets nothing of this element through.'
      : ` Through input channel ${chosen.channel} it passes on:`);
  fill(
    part('to-input'),
    chosen.kernel.map((w) => dy * w),
    windows.size,
    outside,
  );
  fill(
    part('to-kernel'),
    chosen.window.map((x) => dy * x),
    windows.size,
  );
}

function derivative(dy) {
  return (
    `dy = ${exact(dy)} is the derivative of the logit of “${network.classes[predicted()]}”, ` +
    'the predicted class, with respect to this element.'
  );
}

/** The table of what each kernel computes for an element, or where there are such tables. */
function agreement(view, row, column) {
  const { windows } = view.layer;
  const here = [example, row, column, view.channel].join();
  const check = windows.checks.find((c) => c.position.join() === here);
  if (!check) {
    const where = 'Compared at three elements of this layer; the buttons below the map go there.';
    return element('p', where);
  }
  const table = element('table');
  const by = `as computed by ${network.jax}; * marks the kernel that the network uses`;
  table.append(element('caption', `At the ${check.why} of this layer, ${by}`));
  const head = table.createTHead().insertRow();
  for (const text of ['kernel', 'value', 'difference from float64']) {
    head.append(element('th', text, { scope: 'col' }));
  }
  const body = table.createTBody();
  for (const [name, value, difference] of [['float64', check.float64, ''], ...check.kernels]) {
    const mark = name === windows.implementation ? ' *' : '';
    const line = body.insertRow();
    line.append(element('th', name + mark, { scope: 'row' }));
    line.append(element('td', value), element('td', difference));
  }
  return table;
}

function explainPool(view, row, column) {
  const { layer, section, map, gradient, channel } = view;
  const { windows } = layer;
  const part = (name) => section.querySelector(`.${name}`);
  const input = result(layer.source);
  const places = taps(windows, row, column, input);
  const values = places.map((t) => (t.inside ? input.at(t.row, t.column, channel) : 0));
  const value = map.at(row, column, channel);
  const dy = gradient.at(row, column, channel);
  let winner = -1;
  if (windows.kind === 'maximum') {
    places.forEach((t, i) => {
      if (t.inside && (winner < 0 || values[i] > values[winner])) winner = i;
    });
    const { row: i, column: j } = places[winner];
    const ties = places.filter((t, n) => t.inside && values[n] === values[winner]).length;
    part('outcome').textContent =
      `The element in row ${i}, column ${j} won, with ${exact(values[winner])}` +
      (ties > 1 ? ` (the first of ${ties} equal ones).` : '.') +
      ` The network has ${exact(value)}.`;
    part('gradient').textContent =
      `${derivative(dy)} All of it goes to the element that won, in row ${i}, column ${j}.`;
  } else {
    const sum = values.reduce((a, b) => a + b, 0);
    const divisor = decoded(windows.divisors).values[row * map.width + column];
    part('outcome').textContent =
      `Sum ${sum}, divided by ${divisor}: ${sum / divisor}. The network has ${exact(value)}.`;
    part('gradient').textContent =
      `${derivative(dy)} dy / ${divisor} = ${short(dy / divisor)} goes to each of its elements.`;
  }
  paintSource(part('source'), input, channel, places);
  fill(part('window'), values, windows.size, (t) =>
    t === winner ? 'winner' : places[t].inside ? '' : 'outside',
  );
}
