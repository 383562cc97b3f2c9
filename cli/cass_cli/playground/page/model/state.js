// What is set: one object, changed by `change`, with undo, and written into the page's address.
import { quiet, toast } from "../dom.js";

export const SIDES = ["a", "b"];
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
export const config = {}; // of the server: presets, defaults, data set

const listeners = [];
let frame = 0;
let past = [],
  at = -1; // snapshots, and the one that is shown

export const onChange = (listener) => listeners.push(listener);

export function change(edit) {
  edit?.(state, view);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const listener of listeners) listener();
    remember();
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
export function changesOf(side, base = config.presets[side.preset]) {
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

// ---- the link: base64url of JSON behind the #

const rounded = ({ xyxy, ...rest }) => ({
  ...rest,
  xyxy: xyxy.map((x) => Math.round(x * 100) / 100),
});
const compact = ({ weight, label, ...rest }) => ({
  ...rest,
  ...(weight === 1 ? {} : { weight }),
  ...(label ? { label } : {}),
});

export function snapshot() {
  const sides = Object.fromEntries(
    SIDES.map((name) => [
      name,
      {
        preset: state.sides[name].preset,
        spec: changesOf(state.sides[name]),
        weights: weightChanges(state.sides[name]),
      },
    ]),
  );
  return JSON.stringify({
    ...state,
    boxes: state.boxes.map(rounded).map(compact),
    ignored: state.ignored.map(rounded),
    valid: state.valid && rounded(state.valid),
    line: state.line.map(Math.round),
    sides,
  });
}

// Rejects what is no state: links come from anywhere, and options of another version may differ.
export function restored(text) {
  const given = JSON.parse(text);
  const isBox = (one) =>
    Array.isArray(one?.xyxy) && one.xyxy.length === 4 && one.xyxy.every(Number.isFinite);
  const ok =
    given &&
    [...given.boxes, ...given.ignored, ...(given.valid ? [given.valid] : [])].every(isBox) &&
    given.size.length === 2 &&
    given.size.every((side) => Number.isInteger(side) && side > 0) &&
    Number.isInteger(given.stride) &&
    given.stride > 0 &&
    given.line.length === 4 &&
    given.line.every(Number.isFinite) &&
    ["street", "data", "file"].includes(given.picture.kind) &&
    ["mask", "owner", "weights", "difference"].includes(given.layer) &&
    SIDES.every((name) => given.sides[name].preset in config.presets);
  if (!ok) throw new Error("not a state");
  const known = (changes, base) =>
    Object.fromEntries(Object.entries(changes).filter(([name]) => name in base));
  return {
    picture: given.picture,
    size: given.size,
    boxes: given.boxes.map(({ xyxy, weight = 1, label = "" }) => ({
      xyxy,
      weight: Number(weight),
      label: String(label),
    })),
    ignored: given.ignored.map(({ xyxy }) => ({ xyxy })),
    valid: given.valid ? { xyxy: given.valid.xyxy } : null,
    stride: given.stride,
    line: given.line,
    layer: given.layer,
    sides: Object.fromEntries(
      SIDES.map((name) => {
        const { preset, spec, weights } = given.sides[name];
        return [
          name,
          makeSide(preset, known(spec, config.presets[preset]), known(weights, config.weights)),
        ];
      }),
    ),
  };
}

export function linkOf(text = snapshot()) {
  const bytes = new TextEncoder().encode(text);
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const code = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.href.split("#")[0]}#${code}`;
}

export function fromLink(link) {
  const code = link.slice(link.indexOf("#") + 1);
  if (!code) return null;
  try {
    const binary = atob(code.replaceAll("-", "+").replaceAll("_", "/"));
    return restored(new TextDecoder().decode(Uint8Array.from(binary, (c) => c.charCodeAt(0))));
  } catch {
    toast("The link cannot be read.");
    return null;
  }
}

// ---- undo: a snapshot whenever things come to rest

const remember = quiet(300, commit);

// What is done by now is one step to undo.
export function commit() {
  const text = snapshot();
  if (text === past[at]) return;
  past = [...past.slice(Math.max(0, at - 99), at + 1), text];
  at = past.length - 1;
  history.replaceState(null, "", linkOf(text));
  announceHistory();
}

let announceHistory = () => {};
export const onHistory = (listener) => {
  announceHistory = () => listener(at > 0, at < past.length - 1);
};

// The state before the last change, or after the next one; null if there is none.
export function travel(by) {
  if (!(at + by in past)) return null;
  at += by;
  history.replaceState(null, "", linkOf(past[at]));
  announceHistory();
  return restored(past[at]);
}
