'use strict';
// Shows the network in #network (see content.py), with the help of the other scripts.

const network = JSON.parse(document.getElementById('network').textContent);
const byName = new Map(network.layers.map((layer) => [layer.name, layer]));
const MAP_PIXELS = 300; // side of the map in which an element is chosen
const OPEN = 6; // layers with explanations that are open at first
let example = 0;

const results = new Map(); // example and layer -> map

/** Returns the current example's result of a layer, or what the network reads for 'input'. */
function result(name) {
  const key = `${example} ${name}`;
  if (!results.has(key)) results.set(key, resultOf(name));
  return results.get(key);
}

function resultOf(name) {
  if (name === 'input') return mapOf(network.input, example);
  const { maps } = byName.get(name);
  if (typeof maps !== 'string') return mapOf(maps, example);
  const { height, width, channels, at } = result(maps); // of a ReLU
  return { height, width, channels, at: (i, j, c) => Math.max(at(i, j, c), 0) };
}

function clone(id) {
  return document.getElementById(id).content.cloneNode(true);
}

function element(tag, text = '', attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** A canvas in a label with a radio button, which gives it the keyboard and its name. */
function choice(group, value, text, name, checked, choose) {
  const label = element('label');
  const input = element('input', '', { type: 'radio', name: group, value, 'aria-label': name });
  input.checked = checked;
  input.addEventListener('change', choose);
  label.append(
    input,
    element('canvas', '', { 'aria-hidden': 'true' }),
    element('span', text, { 'aria-hidden': 'true' }),
  );
  return label;
}

class LayerView {
  constructor(layer, open) {
    this.layer = layer;
    this.channel = this.row = this.column = this.from = 0;
    this.details = clone('layer').querySelector('details');
    this.details.id = `layer-${layer.name}`;
    this.details.open = open;
    const part = (name) => this.details.querySelector(name);
    this.section = part('.explanation');
    this.map_canvas = part('canvas.map');
    part('h2').textContent = layer.name;
    const size = (shape) => shape.join(' × ');
    const shapes = `${size(layer.input_shape)} → ${size(layer.output_shape)}`;
    const cost = layer.macs ? ` · ${layer.macs.toLocaleString('en')} multiply–adds` : '';
    const weights = layer.parameters
      ? ` · ${layer.parameters.toLocaleString('en')} parameters`
      : '';
    part('.shape').textContent = `${layer.type} · ${shapes}${weights}${cost}`;
    part('.meaning').textContent = this.meaning();
    if (!layer.maps) return part('.body').remove();
    if (layer.windows)
      this.section.append(clone(layer.windows.kind === 'convolution' ? 'convolution' : 'pool'));
    else this.section.remove();
    this.section.setAttribute('aria-label', `Explanation of ${layer.name}`);
    this.listen(part);
    this.details.addEventListener('toggle', () => this.render());
  }

  meaning() {
    const { windows, meaning, source } = this.layer;
    const from = source === 'input' ? 'the input' : source;
    if (!windows) return [meaning, `reads ${from}`].filter(Boolean).join('; ');
    const { kind, size, strides, padding, dilation, groups } = windows;
    const facts = [
      `window ${size.join(' × ')}`,
      `stride ${strides.join(', ')}`,
      `padding before ${padding.join(', ')}`,
    ];
    if (Math.max(...dilation) > 1) facts.push(`dilation ${dilation.join(', ')}`);
    if (groups > 1) facts.push(`${groups} groups`);
    const formula = {
      convolution:
        'y[i, j, o] = Σ x[s i − p + d k, s j − p + d l, c] w[k, l, c, o] + b[o], over k, l, c',
      maximum: 'y[i, j, c] = the largest x[s i − p + d k, s j − p + d l, c], over k, l',
      mean: 'y[i, j, c] = the mean of x[s i − p + d k, s j − p + d l, c], over k, l',
    }[kind];
    return `${formula}; reads ${from}: ${facts.join(', ')}`;
  }

  listen(part) {
    const inputs = { row: part('input.row'), column: part('input.column') };
    for (const [axis, input] of Object.entries(inputs)) {
      input.addEventListener('change', () => this.choose({ [axis]: Number(input.value) || 0 }));
    }
    this.map_canvas.addEventListener('click', (event) => {
      const box = this.map_canvas.getBoundingClientRect();
      const share = (at, start, length) => (at - start - 1) / (length - 2); // without the border
      this.choose({
        row: Math.floor(share(event.clientY, box.top, box.height) * this.map.height),
        column: Math.floor(share(event.clientX, box.left, box.width) * this.map.width),
      });
    });
    this.map_canvas.addEventListener('keydown', (event) => {
      const { row, column } = this;
      const moves = {
        ArrowUp: { row: row - 1 },
        ArrowDown: { row: row + 1 },
        ArrowLeft: { column: column - 1 },
        ArrowRight: { column: column + 1 },
        Home: { column: 0 },
        End: { column: Infinity },
        PageUp: { row: 0 },
        PageDown: { row: Infinity },
      };
      if (event.key === 'Enter' && this.layer.windows) this.section.focus();
      else if (moves[event.key] && !event.ctrlKey && !event.altKey && !event.metaKey)
        this.choose(moves[event.key]);
      else return;
      event.preventDefault();
    });
    part('.from')?.addEventListener('change', (event) =>
      this.choose({ from: event.target.selectedIndex }),
    );
  }

  /** Changes what is chosen: channel, row, column, from (an input channel). */
  choose(changes) {
    Object.assign(this, changes);
    this.render();
    announce(`${this.layer.name}, ${this.details.querySelector('.value').textContent}`);
  }

  render() {
    if (!this.details.open || !this.layer.maps) return;
    const { layer } = this;
    this.map = result(layer.name);
    this.limit = largest(this.map);
    if (layer.windows) this.gradient = mapOf(layer.windows.gradient, example);
    if (this.drawn !== example) {
      this.drawn = example;
      if (layer.windows) this.begin();
      this.thumbnails();
    }
    const clip = (value, count) => Math.min(Math.max(Math.floor(value), 0), count - 1);
    this.row = clip(this.row, this.map.height);
    this.column = clip(this.column, this.map.width);
    this.element();
    if (layer.windows?.kind === 'convolution') explainConvolution(this, this.row, this.column);
    else if (layer.windows) explainPool(this, this.row, this.column);
  }

  thumbnails() {
    const { layer, map, limit } = this;
    const box = this.details.querySelector('.channels');
    const all = layer.output_shape.at(-1);
    const what = layer.output_shape.length > 1 ? 'channels' : 'features';
    const some = map.channels < all ? `, ${map.channels} of them shown` : '';
    box.querySelector('legend').textContent =
      `${all} ${what}${some}${layer.maps.levels ? ' (rounded)' : ''}`;
    const choices = Array.from({ length: map.channels }, (_, c) =>
      choice(`channel-${layer.name}`, c, c, `${layer.name}, channel ${c}`, c === this.channel, () =>
        this.choose({ channel: c }),
      ),
    );
    choices.forEach((label, c) =>
      paint(label.querySelector('canvas'), map.height, map.width, 1, (i, j) =>
        colour(map.at(i, j, c), limit),
      ),
    );
    box.querySelector('div').replaceChildren(...choices);
  }

  /** Chooses the element to begin with, and makes the buttons that go to the compared ones. */
  begin() {
    const mine = (this.layer.windows.checks ?? []).filter((check) => check.position[0] === example);
    const go = ({ position: [, row, column, channel] }) => {
      this.details.querySelector(`.channels input[value='${channel}']`).checked = true;
      this.choose({ row, column, channel });
    };
    this.details.querySelector('.jumps').replaceChildren(
      ...mine.map((check) => {
        const button = element('button', check.why, { type: 'button' });
        button.addEventListener('click', () => go(check));
        return button;
      }),
    );
    [this.row, this.column, this.channel] = mine.length
      ? mine[0].position.slice(1)
      : steepest(this.gradient);
  }

  /** Shows the chosen element in its map, and its value. */
  element() {
    const { layer, map, channel, row, column, limit } = this;
    const part = (name) => this.details.querySelector(name);
    const scale = Math.max(1, Math.floor(MAP_PIXELS / Math.max(map.height, map.width)));
    const isMap = map.height * map.width > 1;
    part('.place').hidden = this.map_canvas.hidden = !isMap;
    if (isMap) {
      const context = paint(this.map_canvas, map.height, map.width, scale, (i, j) =>
        colour(map.at(i, j, channel), limit),
      );
      frame(context, row, column, 1, 1, scale);
      this.map_canvas.setAttribute(
        'aria-label',
        `${layer.name}, channel ${channel}, ${map.height} rows and ${map.width} columns. ` +
          'Arrow keys choose an element' +
          (layer.windows ? ', Enter goes to its explanation.' : '.'),
      );
    }
    for (const [name, value, count] of [
      ['.row', row, map.height],
      ['.column', column, map.width],
    ]) {
      part(name).value = value;
      part(name).max = count - 1;
    }
    const value = map.at(row, column, channel);
    const place = isMap ? `, row ${row}, column ${column}` : '';
    part('.value').textContent =
      `channel ${channel}${place}: ${layer.maps.levels ? `about ${short(value)}` : exact(value)}`;
    part('.scale').textContent = `strongest colour: ±${short(limit)}`;
  }
}

/** Says a text to users of a screen reader. */
function announce(text) {
  document.getElementById('announcement').textContent = text;
}

function predicted() {
  const { values, shape } = decoded(network.logits);
  const mine = values.slice(example * shape[1], (example + 1) * shape[1]);
  return mine.indexOf(Math.max(...mine));
}

function showPrediction() {
  const { label } = network.examples[example];
  const probabilities = mapOf(network.probabilities, example);
  const logits = mapOf(network.logits, example);
  const best = predicted();
  const truth =
    label === null
      ? ''
      : label === best
        ? ', which is right'
        : `; the label is “${network.classes[label]}”`;
  document.getElementById('prediction').textContent =
    `Predicted: “${network.classes[best]}”, ` +
    `probability ${percent(probabilities.at(0, 0, best))}${truth}.`;
  const order = network.classes
    .map((_, c) => c)
    .sort((a, b) => logits.at(0, 0, b) - logits.at(0, 0, a))
    .slice(0, 10);
  document.querySelector('#classes tbody').replaceChildren(
    ...order.map((c) => {
      const row = element('tr');
      const share = probabilities.at(0, 0, c);
      row.append(
        element('th', network.classes[c], { scope: 'row' }),
        element('td', exact(logits.at(0, 0, c))),
        element('td', percent(share)),
      );
      row
        .insertCell()
        .append(element('div', '', { class: 'bar', style: `width: ${100 * share}%` }));
      return row;
    }),
  );
}

function showExamples(views) {
  const box = document.getElementById('examples');
  network.examples.forEach(({ name, label, image }, n) => {
    const truth = label === null ? '' : `, label ${network.classes[label]}`;
    const made = choice('example', n, name, name + truth, n === 0, () => {
      example = n;
      showPrediction();
      views.forEach((view) => view.render());
      announce(document.getElementById('prediction').textContent);
    });
    const {
      shape: [height, width, colours = 1],
      values,
    } = decoded(image);
    paint(made.querySelector('canvas'), height, width, 1, (i, j) =>
      [0, 1, 2].map((c) => values[(i * width + j) * colours + Math.min(c, colours - 1)]),
    );
    box.append(made);
  });
}

function start() {
  readPalette();
  document.title = `${network.model} on ${network.dataset}`;
  document.getElementById('title').textContent =
    `${network.model} on ${network.dataset}, number by number`;
  const trained =
    network.dtype === 'float32'
      ? ''
      : ` It was trained in ${network.dtype}; this page computes in float32.`;
  document.getElementById('facts').textContent =
    `Step ${network.step} · ${network.parameters.toLocaleString('en')} parameters · ` +
    `computed by ${network.jax}.${trained}`;
  document.getElementById('reading').textContent = network.reading;
  document.getElementById('notes').append(...network.notes.map((note) => element('li', note)));
  let explained = 0;
  const views = network.layers.map(
    (layer) => new LayerView(layer, Boolean(layer.windows) && explained++ < OPEN),
  );
  document.getElementById('layers').append(...views.map((view) => view.details));
  document.getElementById('contents').append(
    ...views.map((view) => {
      const item = element('li');
      const link = element('a', view.layer.name, { href: `#${view.details.id}` });
      link.addEventListener('click', () => {
        view.details.open = true;
      });
      item.append(link);
      return item;
    }),
  );
  showExamples(views);
  showPrediction();
  views.forEach((view) => view.render());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    readPalette();
    views.forEach((view) => {
      view.drawn = undefined;
      view.render();
    });
  });
}

start();
