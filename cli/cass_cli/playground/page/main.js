// The page: puts its parts together, and says what happens when.
import { byId, element, icon, toast } from "./dom.js";
import { learn, update } from "./live.js";
import { commit, onHistory, remember, travel } from "./model/history.js";
import { fromLink } from "./model/link.js";
import { getPresets } from "./model/api.js";
import { addBox, removeSelected } from "./model/items.js";
import {
  cellsOf,
  change,
  changesOf,
  config,
  LAYERS,
  makeSide,
  onChange,
  SIDES,
  state,
  view,
} from "./model/state.js";
import {
  clearBoxes,
  jump,
  restoreBoxes,
  showFile,
  showPicture,
  step,
  useData,
} from "./pictures.js";
import { buildShare } from "./share.js";
import { buildControls, drawControls, segment } from "./view/controls.js";
import { zoomAt } from "./view/geometry.js";
import { buildPanes, drawPanes, panes } from "./view/panes.js";
import { buildTools, setTool, TOOLS } from "./view/pointer.js";
import { buildProfile, drawProfile } from "./view/profile.js";

function buildBar() {
  for (const [tool, words, key] of TOOLS) {
    const input = segment("tool", tool, icon(`i-${tool}`), setTool, `${words} (${key})`);
    byId("tools").append(input);
  }
  for (const layer of LAYERS) {
    const words = layer[0].toUpperCase() + layer.slice(1);
    byId("layers").append(
      segment("layer", layer, words, (value) =>
        change((s) => {
          s.layer = value;
        }),
      ),
    );
  }
  for (const [id, name, words = ""] of [
    ["previous", "left"],
    ["next", "right"],
    ["open", "open", "Open"],
    ["share", "share", "Copy"],
    ["undo", "undo"],
    ["redo", "redo"],
    ["help", "help"],
  ])
    byId(id).append(icon(`i-${name}`), ...(words ? [element("span", {}, words)] : []));
  const click = (id, action) => byId(id).addEventListener("click", action);
  click("previous", () => step(-1));
  click("next", () => step(1));
  click("open", () => byId("file").click());
  click("zoom-in", () => zoom(1.5));
  click("zoom-out", () => zoom(1 / 1.5));
  click("zoom-fit", fit);
  click("undo", () => go(-1));
  click("redo", () => go(1));
  click("help", () => byId("help-dialog").showModal());
  click("add", addBox);
  click("clear", clearBoxes);
  click("original", restoreBoxes);
  byId("file").addEventListener("change", () => {
    if (byId("file").files[0]) showFile(byId("file").files[0]);
    byId("file").value = ""; // the same one again
  });
  byId("jump").addEventListener("submit", (event) => {
    event.preventDefault();
    jump(byId("wanted").value.trim());
  });
  for (const [id, name] of [
    ["opacity", "opacity"],
    ["show-picture", "picture"],
    ["show-boxes", "boxes"],
  ]) {
    const input = byId(id),
      property = input.type === "range" ? "valueAsNumber" : "checked";
    input[property] = view[name];
    input.addEventListener("input", () =>
      change((_, v) => {
        v[name] = input[property];
      }),
    );
  }
  onHistory((back, forth) => {
    byId("undo").disabled = !back;
    byId("redo").disabled = !forth;
  });
}

function zoom(factor) {
  const [height, width] = state.size;
  change((_, v) => zoomAt(factor, v.centre ?? [width / 2, height / 2]));
}

const fit = () => change((_, v) => Object.assign(v, { zoom: 1, centre: null }));

function drawBar() {
  for (const name of ["tool", "layer"]) {
    const value = name === "tool" ? view.tool : state.layer;
    for (const input of document.getElementsByName(name)) input.checked = input.value === value;
  }
  byId("opacity").style.setProperty("--share", `${view.opacity}%`);
  byId("zoom-fit").textContent = `${Math.round(100 * view.zoom)} %`;
  const [rows, columns] = cellsOf();
  byId("cells").textContent =
    `${state.size[1]} × ${state.size[0]} pixels, a map of ${columns} × ${rows} cells`;
}

function drawHeads() {
  for (const name of SIDES) {
    const side = state.sides[name],
      count = Object.keys(changesOf(side)).length;
    const { preset, reset } = panes[name];
    preset.value = side.preset;
    reset.hidden = !count;
    reset.textContent = `Reset ${count} change${count === 1 ? "" : "s"}`;
  }
}

function draw() {
  if (!state.size[0]) return;
  drawPanes();
  drawHeads();
  drawControls();
  drawBar();
  drawProfile();
}

function restore(found) {
  const moved = JSON.stringify(found.picture) !== JSON.stringify(state.picture);
  change((s, v) => {
    Object.assign(s, found);
    v.selected = null;
  });
  if (moved) showPicture(found.picture, true);
}

function go(by) {
  const found = travel(by);
  if (found) restore(found);
}

function setSide(name, side) {
  change((s) => {
    s.sides[name] = side;
  });
  commit();
}

const KEYS = {
  ...Object.fromEntries(TOOLS.map(([tool, , key]) => [key, () => setTool(tool)])),
  ...Object.fromEntries(
    LAYERS.map((layer, i) => [
      `${i + 1}`,
      () =>
        change((s) => {
          s.layer = layer;
        }),
    ]),
  ),
  n: addBox,
  a: () =>
    change((_, v) => {
      v.side = v.side === "a" ? "b" : "a";
    }),
  o: () => byId("file").click(),
  "[": () => step(-1),
  "]": () => step(1),
  "+": () => zoom(1.5),
  "=": () => zoom(1.5),
  "-": () => zoom(1 / 1.5),
  0: fit,
  "?": () => byId("help-dialog").showModal(),
  Delete: removeSelected,
  Backspace: removeSelected,
  Escape: () => change((_, v) => Object.assign(v, { selected: null, tool: "select" })),
};

function listen() {
  document.addEventListener("keydown", (event) => {
    if (
      document.querySelector("dialog[open]") ||
      event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), select")
    )
      return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      go(event.shiftKey ? 1 : -1);
    } else if (
      !event.ctrlKey &&
      !event.metaKey &&
      !event.altKey &&
      Object.hasOwn(KEYS, event.key)
    ) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    byId("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true;
  });
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    if (event.dataTransfer.files[0]) showFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.target.closest("input")) return;
    const [file] = event.clipboardData.files,
      text = event.clipboardData.getData("text");
    const found = file ? null : text.includes("#") && fromLink(text);
    if (file) showFile(file);
    else if (found) restore(found);
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is a link to what is set
    byId("options").focus();
  });
  addEventListener("hashchange", () => {
    const found = fromLink(location.hash);
    if (found) restore(found);
  });
  new ResizeObserver(() => change()).observe(byId("panes"));
}

async function start() {
  const [{ mask_spec: presets, weight_spec: weights }, { target, data }] = await Promise.all([
    getPresets(),
    (await fetch("playground.json")).json(),
  ]);
  const names = ["recommended", "improved", "baseline", ...Object.keys(presets)].filter(
    (name) => name in presets,
  );
  Object.assign(config, {
    presets: Object.fromEntries(names.map((name) => [name, presets[name]])),
    weights: weights.default,
    target,
  });
  useData(data);
  state.sides = { a: makeSide("baseline"), b: makeSide("recommended") };
  buildPanes(
    (name, preset) => setSide(name, makeSide(preset, {}, state.sides[name].weights)),
    (name) => setSide(name, makeSide(state.sides[name].preset)),
  );
  buildTools();
  buildControls();
  buildProfile();
  buildShare();
  buildBar();
  onChange(update);
  onChange(draw);
  onChange(remember);
  listen();
  learn();
  const found = fromLink(location.hash);
  if (found) Object.assign(state, found);
  const first = data ? { kind: "data", index: 0 } : { kind: "street", seed: 0 };
  const shown = await showPicture(found?.picture ?? first, Boolean(found));
  if (!shown && found) await showPicture(first);
  change();
}

start().catch((error) => {
  toast(`The page could not start: ${error.message}`);
  throw error;
});
