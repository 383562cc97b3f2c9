// Where pictures and boxes come from: the drawn street, the data set, a file of one's own.
import { byId, clamp, say, toast } from "./dom.js";
import { commit } from "./model/history.js";
import { change, state } from "./model/state.js";
import { panes } from "./view/panes.js";

let originals = []; // the boxes as the picture came with them
let known = { count: 0 }; // of the data set
let ticket = 0; // of the newest picture: an older one that comes later is not shown
let wanted = { kind: "" }; // the newest picture asked for, which may still be on its way
let url = null; // of a file of one's own

export function useData(data) {
  known = data ?? known;
  byId("jump").hidden = !data;
}

async function getJson(path) {
  const response = await fetch(path);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

const toBoxes = ({ boxes, labels }) =>
  boxes.map((xyxy, i) => ({ xyxy, weight: 1, label: labels[i] ?? "" }));

// The line through the middle of the largest box, or of the picture.
function lineThrough(boxes, [height, width]) {
  const area = ({ xyxy: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  const largest = [...boxes].sort((a, b) => area(b) - area(a))[0];
  const middle = Math.round(largest ? (largest.xyxy[1] + largest.xyxy[3]) / 2 : height / 2);
  const y = clamp(middle, 0, height);
  return [0, y, width, y];
}

// Show a picture with the boxes that it comes with; with `keep` those of a link stay.
export async function showPicture(picture, keep = false) {
  const mine = ++ticket;
  wanted = picture;
  if (picture.kind === "file") return showNamed(picture);
  const path = picture.kind === "street" ? `street/${picture.seed}` : `data/${picture.index}`;
  try {
    const scene = await getJson(`${path}.json`);
    if (mine !== ticket) return false;
    const source = scene.picture ? `${path}.jpg` : null;
    const name = picture.kind === "street" ? `Drawn street ${picture.seed + 1}` : `${scene.id}`;
    put({ picture, name, source, size: scene.size, boxes: toBoxes(scene), keep });
    return true;
  } catch (error) {
    if (mine === ticket) wanted = state.picture;
    toast(error.message);
    return false;
  }
}

function put({ picture, name, source, size, boxes, keep }) {
  originals = structuredClone(boxes);
  change((s, v) => {
    const same = s.size[0] === size[0] && s.size[1] === size[1];
    Object.assign(s, { picture, size });
    if (!keep || !same) {
      Object.assign(s, { boxes, ignored: [], valid: null, line: lineThrough(boxes, size) });
    }
    Object.assign(v, { selected: null, hover: null, zoom: 1, centre: null });
  });
  commit();
  showSource(source, name);
}

function showSource(source, name) {
  showName(name);
  for (const pane of Object.values(panes)) {
    pane.picture.hidden = !source;
    if (source) pane.picture.src = source;
    pane.picture.alt = source ? `Picture ${name}` : "";
  }
}

function showName(name) {
  const of =
    state.picture.kind === "data"
      ? `${state.picture.index + 1} of ${known.count.toLocaleString("en")}`
      : "";
  byId("picture-name").textContent = name;
  byId("picture-place").textContent = of;
  byId("picture-name").title = `${name}, ${state.size[1]} × ${state.size[0]} pixels`;
  byId("previous").disabled =
    state.picture.kind === "data"
      ? state.picture.index === 0
      : state.picture.kind === "street" && state.picture.seed === 0;
  byId("next").disabled = state.picture.kind === "data" && state.picture.index >= known.count - 1;
  document.title = `${name} – CASS playground`;
}

// A picture of one's own, named by a link: only its boxes are there until it is dropped again.
function showNamed(picture) {
  const isHere = url !== null && picture.name === shownFile;
  originals = structuredClone(state.boxes);
  showSource(isHere ? url : null, picture.name);
  if (!isHere) toast(`This link was made over ${picture.name}: drop that picture here to see it.`);
  return true;
}

let shownFile = "";

// A file of one's own; the same size as what is shown keeps the boxes.
export async function showFile(file) {
  const mine = ++ticket,
    source = URL.createObjectURL(file);
  const image = new Image();
  image.src = source;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(source);
    toast(`${file.name} is not a picture that this browser can show.`);
    return;
  }
  if (mine !== ticket) return;
  wanted = { kind: "file", name: file.name };
  if (url) URL.revokeObjectURL(url);
  url = source;
  shownFile = file.name;
  const size = [image.naturalHeight, image.naturalWidth];
  const again = state.picture.kind === "file" && state.picture.name === file.name;
  put({
    picture: { kind: "file", name: file.name },
    name: file.name,
    source,
    size,
    boxes: [],
    keep: again,
  });
  if (!state.boxes.length)
    change((_, v) => {
      v.tool = "box";
    });
  say(`${file.name}, ${size[1]} by ${size[0]} pixels. Draw boxes, or press n for one.`);
}

// The next picture of its kind, or the first one after one's own.
export function step(by) {
  if (wanted.kind === "data" || (wanted.kind === "file" && known.count)) {
    const index = wanted.kind === "data" ? wanted.index + by : 0;
    return index >= 0 && index < known.count && showPicture({ kind: "data", index });
  }
  const seed = wanted.kind === "street" ? wanted.seed + by : 0;
  return seed >= 0 && showPicture({ kind: "street", seed });
}

export async function jump(id) {
  try {
    const { index } = await getJson(`data/find?${new URLSearchParams({ id })}`);
    return await showPicture({ kind: "data", index });
  } catch (error) {
    toast(error.message);
    return false;
  }
}

export function restoreBoxes() {
  change((s, v) => {
    s.boxes = structuredClone(originals);
    Object.assign(s, { ignored: [], valid: null });
    v.selected = null;
  });
  commit();
}

export function clearBoxes() {
  change((s, v) => {
    Object.assign(s, { boxes: [], ignored: [], valid: null });
    v.selected = null;
  });
  commit();
}

// Whether the boxes are those of the annotations file.
export const areOriginal = () =>
  state.picture.kind === "data" &&
  JSON.stringify(state.boxes) === JSON.stringify(originals) &&
  !state.ignored.length &&
  !state.valid;
export const nameOfFile = () =>
  state.picture.kind === "file"
    ? state.picture.name
    : `street-${(state.picture.seed ?? 0) + 1}.png`;
export { known as dataSet };
