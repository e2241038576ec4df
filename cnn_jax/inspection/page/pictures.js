'use strict';
// Maps as pictures, in colours of page.css.

const SOURCE_PIXELS = 200; // side of the map in which a window is shown
let palette;
function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const hex = (name) => style.getPropertyValue(name).trim();
  const rgb = (name) => [1, 3, 5].map((i) => parseInt(hex(name).slice(i, i + 2), 16));
  palette = {
    negative: rgb('--negative'),
    zero: rgb('--zero'),
    positive: rgb('--positive'),
    outside: rgb('--outside'),
    mark: hex('--mark'),
  };
}

function colour(value, limit) {
  const share = Math.min(Math.abs(value) / limit, 1);
  const end = value < 0 ? palette.negative : palette.positive;
  return palette.zero.map((zero, i) => Math.round(zero + share * (end[i] - zero)));
}

/** Relative luminance of WCAG 2, with its curve simplified to a power. */
const luminance = (...rgb) =>
  rgb.reduce((sum, c, i) => sum + [0.2126, 0.7152, 0.0722][i] * (c / 255) ** 2.2, 0);

/** Draws colours (row, column) -> [r, g, b] with `scale` pixels per element. */
function paint(canvas, height, width, scale, at) {
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext('2d');
  for (let i = 0; i < height; i++) {
    for (let j = 0; j < width; j++) {
      context.fillStyle = `rgb(${at(i, j)})`;
      context.fillRect(j * scale, i * scale, scale, scale);
    }
  }
  return context;
}

/** Frames elements; small ones from outside, so that the frame does not hide them. */
function frame(context, row, column, height, width, scale) {
  const thick = Math.min(Math.max(2, scale / 8), 4);
  const shift = (scale > 8 ? thick : -thick) / 2;
  context.strokeStyle = palette.mark;
  context.lineWidth = thick;
  context.strokeRect(
    column * scale + shift,
    row * scale + shift,
    width * scale - 2 * shift,
    height * scale - 2 * shift,
  );
}

/** Draws the input channel of a window, with the padding that the window reaches, and its frame. */
function paintSource(canvas, input, channel, places) {
  const limit = largest(input);
  const rows = places.map((t) => t.row);
  const columns = places.map((t) => t.column);
  const top = Math.min(0, ...rows);
  const left = Math.min(0, ...columns);
  const height = Math.max(input.height - 1, ...rows) - top + 1;
  const width = Math.max(input.width - 1, ...columns) - left + 1;
  const scale = Math.max(1, Math.floor(SOURCE_PIXELS / Math.max(height, width)));
  const context = paint(canvas, height, width, scale, (i, j) => {
    const [row, column] = [i + top, j + left];
    const inside = row >= 0 && column >= 0 && row < input.height && column < input.width;
    return inside ? colour(input.at(row, column, channel), limit) : palette.outside;
  });
  if (
    rows.at(-1) - rows[0] < places.at(-1).k + 1 &&
    columns.at(-1) - columns[0] < places.at(-1).l + 1
  ) {
    frame(
      context,
      rows[0] - top,
      columns[0] - left,
      places.at(-1).k + 1,
      places.at(-1).l + 1,
      scale,
    );
  } else {
    // the window has holes
    for (const t of places) frame(context, t.row - top, t.column - left, 1, 1, scale);
  }
  canvas.setAttribute(
    'aria-label',
    `Input channel ${channel} with the window, rows ${rows[0]} to ${rows.at(-1)}, ` +
      `columns ${columns[0]} to ${columns.at(-1)}`,
  );
}
