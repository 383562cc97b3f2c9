// What is set: one object, changed by `change`.

export const SIDES = ["a", "b"];
export const LAYERS = ["mask", "owner", "weights", "difference"];
export const state = {
  picture: { kind: "street", seed: 0 }, // or { kind: "data", index }, { kind: "file", name }
  size: [0, 0], // height and width in pixels
  boxes: [], // { xyxy, weight, label }
  ignored: [], // { xyxy }
  valid: null, // { xyxy } of the picture in a padded image
  stride: 8,
  sides: {}, // a and b: { preset, spec, weights }
  line: [0, 0, 0, 0], // of the profile
  layer: "mask",
};
// What a link does not hold.
export const view = {
  tool: "select",
  side: "b",
  selected: null,
  hover: null,
  opacity: 75,
  zoom: 1,
  centre: null,
  picture: true,
  boxes: true,
};
export const config = {}; // of the server: presets, weights, target

const listeners = [];
let frame = 0;

export const onChange = (listener) => listeners.push(listener);

export function change(edit) {
  edit?.(state, view);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const listener of listeners) listener();
  });
}

export function makeSide(preset, changes = {}, weights = {}) {
  return {
    preset,
    spec: { ...structuredClone(config.presets[preset]), ...changes },
    weights: { ...config.weights, ...weights },
  };
}

// The options of a side that differ from its preset.
export function changesOf(side) {
  const base = config.presets[side.preset];
  return Object.fromEntries(
    Object.entries(side.spec).filter(
      ([name, value]) => JSON.stringify(value) !== JSON.stringify(base[name]),
    ),
  );
}

export function weightChanges(side) {
  return Object.fromEntries(
    Object.entries(side.weights).filter(([name, value]) => value !== config.weights[name]),
  );
}

export const cellsOf = (one = state) => one.size.map((side) => Math.ceil(side / one.stride));
