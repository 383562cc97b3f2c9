// The panes: picture, layer and boxes over each other, all at one zoom.
import { byId, element, shape } from "../dom.js";
import { difference, patchPixels } from "../model/grid.js";
import { config, state, view } from "../model/state.js";
import { paintDifference, paintMask, paintOwner, paintWeights } from "./colours.js";
import { scaleOf, shiftOf } from "./geometry.js";
import { drawMarks } from "./marks.js";
import { drawReadout } from "./readout.js";

export const panes = {}; // a, b, d: their parts

export const NAMES = { a: "A", b: "B", d: "B − A" };

const WIDE = 2.2; // panes of pictures wider than so many heights stand below each other

export const PRESETS = {
  recommended: "recommended",
  improved: "improved",
  baseline: "baseline",
  cas_detr: "CaS-DETR",
};

export function buildPanes(onPreset, onReset) {
  for (const name of ["a", "b", "d"]) {
    const picture = element("img", { alt: "", draggable: false });
    const layer = element("canvas", { role: "img", "aria-label": "" });
    const marks = shape("svg", {
      class: "marks",
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    const world = element("div", { class: "world" }, picture, layer, marks);
    const port = element(
      "div",
      {
        class: "port",
        tabIndex: 0,
        role: "group",
        "aria-roledescription": "drawing area",
        "aria-label": `Mask ${NAMES[name]}: arrow keys read the patches, n adds a box`,
      },
      world,
    );
    port.dataset.pane = name;
    const readout = element("p", { class: "readout" });
    const title = element("h2", { class: `badge ${name}` }, NAMES[name]);
    const head = element("div", { class: "pane-head" }, title);
    let preset = null,
      reset = null;
    if (name === "d") head.append(element("span", { class: "words" }, "Difference"));
    else {
      preset = element(
        "select",
        { "aria-label": `Preset of ${NAMES[name]}` },
        ...Object.keys(config.presets).map((key) => new Option(PRESETS[key] ?? key, key)),
      );
      preset.addEventListener("change", () => onPreset(name, preset.value));
      reset = element("button", { type: "button", class: "quiet", hidden: true });
      reset.addEventListener("click", () => onReset(name));
      head.append(preset, reset);
    }
    const note = element("span", { class: "legend" });
    head.append(element("span", { class: "space" }), note);
    const root = element(
      "section",
      { class: "pane card", "aria-label": `Mask ${NAMES[name]}` },
      head,
      port,
      readout,
    );
    root.setAttribute("aria-busy", "true");
    panes[name] = {
      name,
      root,
      port,
      world,
      picture,
      layer,
      marks,
      readout,
      preset,
      reset,
      note,
      result: null,
    };
    byId("panes").append(root);
  }
}

export const shownPanes = () => (state.layer === "difference" ? [panes.d] : [panes.a, panes.b]);

// What the page shows of a side's answer: { patchSize, mask, owner, weights, milliseconds }.
export function setResult(name, result) {
  panes[name].result = result;
  const { a, b, d } = panes;
  if (a.result && b.result) d.result = difference(a.result, b.result) ?? d.result;
}

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
    const scale = scaleOf(port),
      [left, top] = shiftOf(port);
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
  // An answer about another picture is about to be replaced.
  layer.hidden = result?.size.join() !== state.size.join();
  if (layer.hidden) return;
  const kind = pane.name === "d" ? "difference" : state.layer;
  if (pane.painted?.result === result && pane.painted.kind === kind) return;
  pane.painted = { result, kind };
  drawLegend(pane, kind);
  if (kind === "difference") paintDifference(layer, result.mask);
  else if (kind === "owner" && result.owner) paintOwner(layer, result.owner);
  else if (kind === "weights") paintWeights(layer, result.weights, result.mostWeight);
  else if (kind === "mask") paintMask(layer, result.mask, Math.max(1, result.most));
  else layer.width = layer.height = 1; // nobody owns a sum
  stretchLayer(pane);
}

function drawLegend({ note, result }, kind) {
  const most = kind === "weights" ? result.mostWeight : Math.max(1, result.most ?? 0);
  const bar = element("i", { class: kind });
  const words = {
    difference: ["−1", bar, "1"],
    owner: [result.owner ? "colour of the box" : "nobody owns a sum"],
  }[kind];
  note.replaceChildren(...(words ?? ["0", bar, String(Math.round(100 * most) / 100)]));
}

// The last patches may reach beyond the picture.
function stretchLayer({ result, layer }) {
  const [high, wide] = patchPixels(result);
  const [rows, columns] = result.mask.shape;
  layer.style.height = `${(100 * rows * high) / result.size[0]}%`;
  layer.style.width = `${(100 * columns * wide) / result.size[1]}%`;
}
