// Patches over the picture: which one holds a point, and what two masks differ by.
import { cellsOf } from "./state.js";

// Height and width of a patch in pixels.
export function patchPixels(state, patchSize) {
  const cells = cellsOf(state);
  return state.size.map((side, k) => (side / cells[k]) * Math.min(patchSize, cells[k]));
}

// Row and column of the patch that holds a point, or null outside the picture.
export function patchAt(state, patchSize, [x, y]) {
  const [height, width] = state.size;
  if (!(x >= 0 && y >= 0 && x < width && y < height)) return null;
  const [high, wide] = patchPixels(state, patchSize);
  return [Math.floor(y / high), Math.floor(x / wide)];
}

export function valueAt(tensor, patch) {
  const [rows, columns] = tensor.shape;
  if (!patch || patch[0] >= rows || patch[1] >= columns) return null;
  return tensor.values[patch[0] * columns + patch[1]];
}

// The second minus the first, patch by patch, or by cells where patches differ in size.
export function difference(state, first, second) {
  const same = first.patchSize === second.patchSize;
  const shape = same ? first.mask.shape : cellsOf(state);
  const [rows, columns] = shape;
  const values = new Float32Array(rows * columns);
  const at = ({ mask, patchSize }, row, column) => {
    const step = same ? 1 : patchSize;
    return mask.values[Math.floor(row / step) * mask.shape[1] + Math.floor(column / step)];
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      values[row * columns + column] = at(second, row, column) - at(first, row, column);
    }
  }
  return { values, shape, patchSize: same ? first.patchSize : 1 };
}

// Where a line crosses from patch to patch, as shares of its length from 0 to 1.
export function crossings(state, patchSize, [x1, y1, x2, y2]) {
  const [high, wide] = patchPixels(state, patchSize);
  const shares = [0, 1];
  for (const [from, to, step] of [[x1, x2, wide], [y1, y2, high]]) {
    if (from === to) continue;
    const [low, top] = [Math.min(from, to), Math.max(from, to)];
    for (let k = Math.ceil(low / step); k * step < top; k++) shares.push((k * step - from) / (to - from));
  }
  return [...new Set(shares)].sort((a, b) => a - b);
}
