'use strict';
// Arrays, windows and sums; nothing here knows the document.

/** Returns {shape, values} of a stored array: float32, or rounded to 256 levels. */
function decoded(stored) {
  if (stored.values) return stored;
  const { shape, dtype, base64 } = stored.levels ?? stored;
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  let values = bytes;
  if (dtype === 'float32') {
    const view = new DataView(bytes.buffer); // little-endian on every machine
    values = Float32Array.from({ length: bytes.length / 4 }, (_, i) =>
      view.getFloat32(4 * i, true),
    );
  }
  if (stored.levels) values = Float32Array.from(values, (v) => stored.low + stored.step * v);
  stored.shape = shape;
  stored.values = values;
  delete stored.base64;
  return stored;
}

/** Returns one example's map {height, width, channels, at(row, column, channel)} of an array. */
function mapOf(stored, which) {
  const { shape, values } = decoded(stored);
  const [height, width] = shape.length === 4 ? [shape[1], shape[2]] : [1, 1];
  const channels = shape[shape.length - 1];
  const start = which * height * width * channels;
  const at = (i, j, c) => values[start + (i * width + j) * channels + c];
  return { height, width, channels, at };
}

/** Returns the taps of the window of output (row, column): {tap, row, column, inside}. */
function taps(windows, row, column, input) {
  const { size, strides, padding, dilation } = windows;
  const found = [];
  for (let k = 0; k < size[0]; k++) {
    for (let l = 0; l < size[1]; l++) {
      const i = row * strides[0] - padding[0] + k * dilation[0];
      const j = column * strides[1] - padding[1] + l * dilation[1];
      const inside = i >= 0 && j >= 0 && i < input.height && j < input.width;
      found.push({ k, l, row: i, column: j, inside });
    }
  }
  return found;
}

/** Returns [{channel, window, kernel, products, sum}] of the input channels of an output. */
function convolved(layer, input, row, column, channel) {
  const { windows } = layer;
  const kernel = decoded(windows.kernel);
  const [, , perGroup, outputs] = kernel.shape;
  const first = Math.floor(channel / (outputs / windows.groups)) * perGroup;
  const places = taps(windows, row, column, input);
  return Array.from({ length: perGroup }, (_, c) => {
    const window = places.map((t) => (t.inside ? input.at(t.row, t.column, first + c) : 0));
    const weights = places.map((_, t) => kernel.values[(t * perGroup + c) * outputs + channel]);
    const products = window.map((x, t) => x * weights[t]); // exact in float64
    const sum = products.reduce((a, b) => a + b, 0);
    return { channel: first + c, window, kernel: weights, products, sum };
  });
}

/** The shortest decimal number that identifies a float32 number. */
function exact(value) {
  for (let digits = 1; digits < 9; digits++) {
    if (Math.fround(Number(value.toPrecision(digits))) === value)
      return String(Number(value.toPrecision(digits)));
  }
  return String(Number(value.toPrecision(9)));
}

const short = (value) => String(Number(value.toPrecision(5)));
const percent = (share) => `${(100 * share).toFixed(share > 0.001 ? 2 : 5)} %`;

/** Returns [row, column, channel] of the largest absolute value. */
function steepest(map) {
  let found = [0, 0, 0];
  for (let c = 0; c < map.channels; c++) {
    for (let i = 0; i < map.height; i++) {
      for (let j = 0; j < map.width; j++) {
        if (Math.abs(map.at(i, j, c)) > Math.abs(map.at(...found))) found = [i, j, c];
      }
    }
  }
  return found;
}

/** The largest absolute value of a map, or 1 if it is 0. */
function largest(map) {
  map.limit ??= Math.abs(map.at(...steepest(map))) || 1;
  return map.limit;
}
