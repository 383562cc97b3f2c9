// Values as colours: one pixel a patch, which the page stretches over the picture.
const rgbOf = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const INFERNO = ["#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4"].map(rgbOf);
const VIRIDIS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"].map(rgbOf);
const BLUE = rgbOf("#2166ac"),
  RED = rgbOf("#b2182b");
// So that neighbours differ, as in figures.
export const OWNERS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#e377c2", "#bcbd22"];
const OWNERS_RGB = OWNERS.map(rgbOf);

function ramp(stops, alphaOf) {
  const table = new Uint8ClampedArray(4 * 256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const rgb = stops[low].map((from, k) => from + (place - low) * (stops[low + 1][k] - from));
    table.set([...rgb, 255 * alphaOf(i / 255)], 4 * i);
  }
  return table;
}

const strength = (share) => (share === 0 ? 0 : 0.25 + 0.75 * share);
const MASK = ramp(INFERNO, strength);
const WEIGHTS = ramp(VIRIDIS, () => 0.9);

function fill(canvas, grid, put) {
  const [rows, columns] = grid;
  if (canvas.width !== columns || canvas.height !== rows)
    Object.assign(canvas, { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  for (let patch = 0; patch < rows * columns; patch++) put(pixels.data, 4 * patch, patch);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function fromTable(canvas, tensor, table, most) {
  fill(canvas, tensor.shape, (data, to, patch) => {
    // A small value above 0 is not to look like none.
    const value = tensor.values[patch] / most;
    const from = 4 * (value > 0 ? Math.max(1, Math.round(255 * Math.min(value, 1))) : 0);
    for (let k = 0; k < 4; k++) data[to + k] = table[from + k];
  });
}

export const paintMask = (canvas, mask, most) => fromTable(canvas, mask, MASK, most);
export const paintWeights = (canvas, weights, most) =>
  fromTable(canvas, weights, WEIGHTS, most || 1);

export function paintOwner(canvas, owner) {
  fill(canvas, owner.shape, (data, to, patch) => {
    const box = owner.values[patch];
    if (box >= 0) data.set([...OWNERS_RGB[box % OWNERS.length], 235], to);
  });
}

export function paintDifference(canvas, difference) {
  fill(canvas, difference.shape, (data, to, patch) => {
    const change = difference.values[patch];
    const alpha = 255 * strength(Math.min(Math.abs(change), 1));
    data.set([...(change < 0 ? BLUE : RED), alpha], to);
  });
}
