// Patches over the picture: which one holds a point, and what two masks differ by.
//
// An answer has the `size` of its picture and its `cells`, each height and width, and its
// `patchSize` in cells, whatever is set meanwhile.

// Height and width of a patch in pixels.
export function patchPixels({ size, cells, patchSize }) {
  return size.map((side, k) => (side / cells[k]) * Math.min(patchSize, cells[k]));
}

// Row and column of the patch that holds a point, or null outside the picture.
export function patchAt(answer, [x, y]) {
  const [height, width] = answer.size;
  if (!(x >= 0 && y >= 0 && x < width && y < height)) return null;
  const [high, wide] = patchPixels(answer);
  return [Math.floor(y / high), Math.floor(x / wide)];
}

export function valueAt(tensor, patch) {
  const [rows, columns] = tensor.shape;
  if (!patch || patch[0] >= rows || patch[1] >= columns) return null;
  return tensor.values[patch[0] * columns + patch[1]];
}

// The second minus the first, patch by patch, or by cells where patches differ in size; null where
// they are of different maps, as one of them is about to be replaced.
export function difference(first, second) {
  const { size, cells } = first;
  if ([...size, ...cells].join() !== [...second.size, ...second.cells].join()) return null;
  const isSame = first.patchSize === second.patchSize;
  const shape = isSame ? first.mask.shape : cells;
  const [rows, columns] = shape;
  const values = new Float32Array(rows * columns);
  const at = ({ mask, patchSize }, row, column) => {
    const step = isSame ? 1 : patchSize;
    return mask.values[Math.floor(row / step) * mask.shape[1] + Math.floor(column / step)];
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      values[row * columns + column] = at(second, row, column) - at(first, row, column);
    }
  }
  return { mask: { values, shape }, size, cells, patchSize: isSame ? first.patchSize : 1 };
}

// Where a line crosses from patch to patch, as shares of its length from 0 to 1.
export function crossings(answer, [x1, y1, x2, y2]) {
  const [high, wide] = patchPixels(answer);
  const shares = [0, 1];
  for (const [from, to, step] of [
    [x1, x2, wide],
    [y1, y2, high],
  ]) {
    const [low, top] = [Math.min(from, to), Math.max(from, to)];
    for (let k = Math.floor(low / step) + 1; k * step < top; k++) {
      shares.push((k * step - from) / (to - from));
    }
  }
  return [...new Set(shares)].sort((a, b) => a - b);
}
