// What is set as a link: base64url of JSON behind the #.
import { toast } from "../dom.js";
import { changesOf, config, LAYERS, makeSide, SIDES, state, weightChanges } from "./state.js";

const rounded = ({ xyxy, ...rest }) => ({
  ...rest,
  xyxy: xyxy.map((x) => Math.round(x * 100) / 100),
});

function compact({ weight, label, ...rest }) {
  return { ...rest, ...(weight === 1 ? {} : { weight }), ...(label ? { label } : {}) };
}

export function snapshot() {
  const sides = SIDES.map((name) => {
    const side = state.sides[name];
    return [name, { preset: side.preset, spec: changesOf(side), weights: weightChanges(side) }];
  });
  return JSON.stringify({
    ...state,
    boxes: state.boxes.map(rounded).map(compact),
    ignored: state.ignored.map(rounded),
    valid: state.valid && rounded(state.valid),
    line: state.line.map(Math.round),
    sides: Object.fromEntries(sides),
  });
}

// ---- and back: links come from anywhere, and options of another version may differ

const isCount = (value) => Number.isInteger(value) && value >= 0;
const areNumbers = (value, count) =>
  Array.isArray(value) && value.length === count && value.every(Number.isFinite);
const isItem = (item) => areNumbers(item?.xyxy, 4);

const PICTURES = {
  street: ({ seed }) => isCount(seed),
  data: ({ index }) => isCount(index),
  file: ({ name }) => typeof name === "string",
};

function isState({ picture, size, boxes, ignored, valid, stride, line, layer, sides }) {
  return (
    Object.hasOwn(PICTURES, picture.kind) &&
    PICTURES[picture.kind](picture) &&
    areNumbers(size, 2) &&
    size.every((side) => isCount(side) && side > 0) &&
    boxes.every(isItem) &&
    ignored.every(isItem) &&
    (valid === null || isItem(valid)) &&
    isCount(stride) &&
    stride > 0 &&
    areNumbers(line, 4) &&
    LAYERS.includes(layer) &&
    SIDES.every((name) => Object.hasOwn(config.presets, sides[name].preset))
  );
}

// Whether a control can show a value; whether it makes sense is the service's to say.
function fits(name, value, base) {
  if (name === "base_sigma") return Number.isFinite(value) || areNumbers(value, 2);
  if (name === "level_ranges") {
    return value === null || (value.length === 1 && Array.isArray(value[0]));
  }
  return Object.hasOwn(base, name) && typeof value === typeof base[name];
}

const known = (changes, base) =>
  Object.fromEntries(Object.entries(changes).filter(([name, value]) => fits(name, value, base)));

// Throws where it is no state.
export function restored(text) {
  const given = JSON.parse(text);
  if (!isState(given)) throw new Error("not a state");
  const { picture, size, ignored, valid, stride, line, layer } = given;
  const boxes = given.boxes.map(({ xyxy, weight = 1, label = "" }) => {
    return { xyxy, weight: Number(weight), label: String(label) };
  });
  const sides = SIDES.map((name) => {
    const { preset, spec, weights } = given.sides[name];
    const changes = known(spec, config.presets[preset]);
    return [name, makeSide(preset, changes, known(weights, config.weights))];
  });
  return {
    picture,
    size,
    boxes,
    ignored,
    valid,
    stride,
    line,
    layer,
    sides: Object.fromEntries(sides),
  };
}

export function linkOf(text = snapshot()) {
  const bytes = new TextEncoder().encode(text);
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const code = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.href.split("#")[0]}#${code}`;
}

// What a link holds; null if it holds nothing.
export function fromLink(link) {
  const code = link.slice(link.indexOf("#") + 1);
  if (!code) return null;
  try {
    const binary = atob(code.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
    return restored(new TextDecoder().decode(bytes));
  } catch {
    toast("The link cannot be read.");
    return null;
  }
}
