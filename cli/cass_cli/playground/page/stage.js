// The panes: picture, layer and boxes over each other, all at one zoom, and the numbers below.
import { OWNERS, paintDifference, paintMask, paintOwner, paintWeights } from "./colours.js";
import { byId, clamp, element, number, shape } from "./dom.js";
import { difference, patchAt, patchPixels, valueAt } from "./grid.js";
import { config, state, view } from "./state.js";

export const panes = {}; // a, b, d: their parts
const NAMES = { a: "A", b: "B", d: "B − A" };
const WIDE = 2.2; // panes of pictures wider than so many heights stand below each other
export const PRESETS = { recommended: "recommended", improved: "improved", baseline: "baseline", cas_detr: "CaS-DETR" };

export function buildPanes(onPreset, onReset) {
  for (const name of ["a", "b", "d"]) {
    const picture = element("img", { alt: "", draggable: false });
    const layer = element("canvas", { role: "img", "aria-label": "" });
    const marks = shape("svg", { class: "marks", preserveAspectRatio: "none", "aria-hidden": "true" });
    const world = element("div", { class: "world" }, picture, layer, marks);
    const port = element("div", {
      class: "port", tabIndex: 0, role: "group", "aria-roledescription": "drawing area",
      "aria-label": `Mask ${NAMES[name]}: arrow keys read the patches, n adds a box`,
    }, world);
    port.dataset.pane = name;
    const readout = element("p", { class: "readout" });
    const title = element("h2", { class: `badge ${name}` }, NAMES[name]);
    const head = element("div", { class: "pane-head" }, title);
    let preset = null, reset = null;
    if (name === "d") head.append(element("span", { class: "words" }, "Difference"));
    else {
      preset = element("select", { "aria-label": `Preset of ${NAMES[name]}` },
        ...Object.keys(config.presets).map((key) => new Option(PRESETS[key] ?? key, key)));
      preset.addEventListener("change", () => onPreset(name, preset.value));
      reset = element("button", { type: "button", class: "quiet", hidden: true });
      reset.addEventListener("click", () => onReset(name));
      head.append(preset, reset);
    }
    const note = element("span", { class: "legend" });
    head.append(element("span", { class: "space" }), note);
    const root = element("section", { class: "pane card", "aria-label": `Mask ${NAMES[name]}` },
      head, port, readout);
    root.setAttribute("aria-busy", "true");
    panes[name] = { name, root, port, world, picture, layer, marks, readout, preset, reset, note, result: null };
    byId("panes").append(root);
  }
}

export const shownPanes = () => (state.layer === "difference" ? [panes.d] : [panes.a, panes.b]);

// What the page shows of a side's answer: { patchSize, mask, owner, weights, milliseconds }.
export function setResult(name, result) {
  panes[name].result = result;
  const { a, b } = panes;
  if (a.result && b.result) {
    const same = a.result.cells === b.result.cells; // else one of them is about to be replaced
    if (same) panes.d.result = difference(state, a.result, b.result);
  }
}

// ---- geometry

export function scaleOf(port) {
  const fit = Math.min(port.clientWidth / state.size[1], port.clientHeight / state.size[0]);
  return fit * view.zoom;
}

function shiftOf(port) {
  const scale = scaleOf(port), [height, width] = state.size;
  const [x, y] = view.centre ?? [width / 2, height / 2];
  // A picture that does not fill the pane stays in its middle.
  const place = (middle, side, room) => (side * scale <= room ? (room - side * scale) / 2
    : clamp(room / 2 - middle * scale, room - side * scale, 0));
  return [place(x, width, port.clientWidth), place(y, height, port.clientHeight)];
}

export function pointOf(port, event) {
  const bounds = port.getBoundingClientRect(), scale = scaleOf(port), [left, top] = shiftOf(port);
  return [(event.clientX - bounds.left - left) / scale, (event.clientY - bounds.top - top) / scale];
}

// Zoom by a factor so that a point of the picture stays where it is in a pane.
export function zoomAt(port, factor, point) {
  const zoom = clamp(view.zoom * factor, 1, 64), [x, y] = view.centre ?? [state.size[1] / 2, state.size[0] / 2];
  const share = view.zoom / zoom;
  view.centre = zoom === 1 ? null : [point[0] + (x - point[0]) * share, point[1] + (y - point[1]) * share];
  view.zoom = zoom;
}

export function pan(port, dx, dy) {
  const scale = scaleOf(port), [height, width] = state.size;
  const [x, y] = view.centre ?? [width / 2, height / 2];
  const half = [port.clientWidth / scale / 2, port.clientHeight / scale / 2];
  const keep = (value, side, reach) => (side <= 2 * reach ? side / 2 : clamp(value, reach, side - reach));
  view.centre = [keep(x - dx / scale, width, half[0]), keep(y - dy / scale, height, half[1])];
}

// ---- drawing

export function drawPanes() {
  const single = state.layer === "difference";
  const [height, width] = state.size;
  byId("panes").classList.toggle("single", single);
  byId("panes").classList.toggle("wide", width > WIDE * height);
  for (const pane of Object.values(panes)) {
    pane.root.hidden = single !== (pane.name === "d");
    if (pane.root.hidden) continue;
    const { port, world, marks } = pane;
    port.style.setProperty("--ratio", width / height);
    port.dataset.tool = view.tool;
    const scale = scaleOf(port), [left, top] = shiftOf(port);
    world.style.width = `${width * scale}px`;
    world.style.height = `${height * scale}px`;
    world.style.transform = `translate(${left}px, ${top}px)`;
    world.classList.toggle("no-picture", !view.picture);
    pane.layer.style.opacity = view.opacity / 100;
    marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawLayer(pane);
    drawMarks(pane, 1 / scale);
    drawReadout(pane);
  }
}

function drawLayer(pane) {
  const { result, layer } = pane;
  if (!result) return;
  const kind = pane.name === "d" ? "difference" : state.layer;
  const key = `${kind} ${result.most ?? ""}`;
  if (pane.painted?.result === result && pane.painted.key === key) return stretchLayer(pane);
  pane.painted = { result, key };
  drawLegend(pane, kind);
  if (kind === "difference") paintDifference(layer, result);
  else if (kind === "owner" && result.owner) paintOwner(layer, result.owner);
  else if (kind === "weights") paintWeights(layer, result.weights, result.mostWeight);
  else if (kind === "mask") paintMask(layer, result.mask, Math.max(1, result.most));
  else layer.width = layer.height = 1; // nobody owns a sum
  return stretchLayer(pane);
}

function drawLegend({ note, result }, kind) {
  const most = kind === "weights" ? result.mostWeight : Math.max(1, result.most ?? 0);
  const bar = element("i", { class: kind });
  const words = { difference: ["−1", bar, "1"], owner: [result.owner ? "colour of the box" : "nobody owns a sum"] }[kind];
  note.replaceChildren(...(words ?? ["0", bar, String(Math.round(100 * most) / 100)]));
}

// The last patches may reach beyond the picture.
function stretchLayer({ result, layer }) {
  const [high, wide] = patchPixels(state, result.patchSize);
  const shape_ = (result.mask ?? result).shape;
  layer.style.height = `${(100 * shape_[0] * high) / state.size[0]}%`;
  layer.style.width = `${(100 * shape_[1] * wide) / state.size[1]}%`;
}

function rectangle([x1, y1, x2, y2], className, extra = {}) {
  const place = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
  return shape("rect", { ...place, class: className, ...extra });
}

function drawMarks(pane, pixel) {
  const made = [], owned = pane.result?.owned, { selected } = view;
  const is = (kind, index) => selected?.kind === kind && (selected.index ?? 0) === index;
  if (state.valid) {
    const [x1, y1, x2, y2] = state.valid.xyxy, [height, width] = state.size;
    made.push(shape("path", { class: "outside",
      d: `M0 0H${width}V${height}H0zM${x1} ${y1}V${y2}H${x2}V${y1}z` }));
    made.push(rectangle(state.valid.xyxy, `valid${is("valid", 0) ? " selected" : ""}`));
  }
  state.ignored.forEach(({ xyxy }, i) => made.push(rectangle(xyxy, `ignored${is("ignored", i) ? " selected" : ""}`)));
  if (view.boxes || selected) {
    state.boxes.forEach(({ xyxy }, i) => {
      if (!view.boxes && !is("boxes", i)) return;
      const bare = owned && !owned.has(i);
      const box = rectangle(xyxy, `box${bare ? " bare" : ""}${is("boxes", i) ? " selected" : ""}`);
      if (state.layer === "owner" && !bare) box.style.stroke = OWNERS[i % OWNERS.length];
      made.push(rectangle(xyxy, "halo"), box);
    });
  }
  const [x1, y1, x2, y2] = state.line;
  made.push(shape("line", { x1, y1, x2, y2, class: "line back" }), shape("line", { x1, y1, x2, y2, class: "line" }));
  for (const [cx, cy] of [[x1, y1], [x2, y2]]) made.push(shape("circle", { cx, cy, r: 4 * pixel, class: "end" }));
  if (view.probe) made.push(shape("circle", { cx: view.probe[0], cy: view.probe[1], r: 5 * pixel, class: "probe" }));
  const patch = view.hover && pane.result && patchAt(state, pane.result.patchSize, view.hover);
  if (patch) {
    const [high, wide] = patchPixels(state, pane.result.patchSize);
    made.push(rectangle([patch[1] * wide, patch[0] * high, (patch[1] + 1) * wide, (patch[0] + 1) * high], "patch"));
  }
  const active = selected && selectedItem();
  if (active) {
    for (const [x, y] of handlesOf(active.xyxy)) {
      const r = 4.5 * pixel;
      made.push(shape("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, class: "handle" }));
    }
  }
  pane.marks.replaceChildren(...made);
}

export function selectedItem() {
  const { selected } = view;
  if (!selected) return null;
  return selected.kind === "valid" ? state.valid : state[selected.kind][selected.index] ?? null;
}

export function handlesOf([x1, y1, x2, y2]) {
  const x = (x1 + x2) / 2, y = (y1 + y2) / 2;
  return [[x1, y1], [x, y1], [x2, y1], [x2, y], [x2, y2], [x, y2], [x1, y2], [x1, y]];
}

// ---- numbers

export function wordsAt(pane, point) {
  const { result } = pane;
  const patch = result && point && patchAt(state, result.patchSize, point);
  if (!patch) return null;
  const value = valueAt(result.mask ?? result, patch);
  if (value === null) return null;
  const parts = [];
  if (result.owner) {
    const owner = valueAt(result.owner, patch);
    parts.push(owner < 0 ? "no owner" : `owner ${owner + 1}`);
  }
  if (result.weights) parts.push(`weight ${number(valueAt(result.weights, patch))}`);
  parts.push(`row ${patch[0]}, column ${patch[1]}`);
  return { value, parts };
}

function drawReadout(pane) {
  const { result, readout } = pane;
  if (!result) return readout.replaceChildren("…");
  const words = wordsAt(pane, view.hover);
  if (!words) return readout.replaceChildren(summaryOf(pane));
  const sign = pane.name === "d" && words.value > 0 ? "+" : "";
  return readout.replaceChildren(element("b", {}, sign + number(words.value)), ` · ${words.parts.join(" · ")}`);
}

export function summaryOf({ name, result }) {
  result.summary ??= summarize(name, result);
  return result.summary;
}

function summarize(name, result) {
  const { values } = result.mask ?? result, count = values.length.toLocaleString("en");
  let above = 0, most = 0, total = 0;
  for (const value of values) {
    above += value !== 0;
    most = Math.max(most, Math.abs(value));
    total += Math.abs(value);
  }
  const share = `${((100 * above) / values.length).toFixed(1)} % of ${count} patches`;
  if (name === "d") return above ? `${share} differ, by ${number(total / above)} on average and ${number(most)} at most` : `All ${count} patches are equal`;
  const bare = result.owned ? state.boxes.length - result.owned.size : 0;
  return `${share} above 0${most > 1 ? `, at most ${number(most)}` : ""}${bare > 0 ? ` · ${bare} of ${state.boxes.length} boxes own no patch` : ""}`;
}
