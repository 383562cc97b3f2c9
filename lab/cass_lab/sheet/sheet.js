// The contact sheet: pages through the images of a data set, all of which stand in this file.
"use strict";
const byId = (id) => document.getElementById(id);
const sheet = JSON.parse(byId("sheet").textContent);
const rgbOf = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const INFERNO = ["#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4"].map(rgbOf);
const OWNERS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#e377c2", "#bcbd22"];
const OWNERS_RGB = OWNERS.map(rgbOf);
const BARE = "#ff9500"; // boxes in which no patch has its centre, as in figures
const BLUE = rgbOf("#2166ac"), RED = rgbOf("#b2182b");

const state = {
  at: 0, layer: "improved", picture: true, boxes: true, prune: true, opacity: 70, keep: 30,
  smallest: "", onlyLost: false,
};
let current = null; // the image in view, decoded
let ticket = 0; // of the newest decoding: an older one that ends later is not shown

// ---- data

async function decode(i) {
  const entry = sheet.images[i];
  const stored = JSON.parse(byId(`image-${i}`).textContent);
  const bytes = Uint8Array.from(atob(stored.layers), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  const n = entry.grid[0] * entry.grid[1];
  // Written by cass_lab.sheet.page: four bytes a patch first, so that all are aligned.
  const image = {
    ...entry,
    at: i,
    picture: `data:image/jpeg;base64,${stored.jpeg}`,
    owner: new Int32Array(buffer, 0, n),
    baseline: new Uint8Array(buffer, 4 * n, n),
    improved: new Uint8Array(buffer, 5 * n, n),
  };
  if (sheet.predictor !== null) {
    // A copy: its place need not be a multiple of four.
    image.logits = new Float32Array(buffer.slice(6 * n, 10 * n));
    const order = Uint32Array.from(image.logits, (_, patch) => patch);
    order.sort((a, b) => image.logits[b] - image.logits[a] || a - b);
    image.ranks = new Uint32Array(n);
    order.forEach((patch, rank) => { image.ranks[patch] = rank; });
    image.top = scoreOf(image.logits[order[0]]);
  }
  return image;
}

// As Python rounds: halves to the even number.
function numKept(patches) {
  const exact = patches * (state.keep / 100);
  const rounded = Math.round(exact);
  return Math.max(1, exact % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded);
}

function isLost(entry, object) {
  return entry.best[object] >= numKept(entry.grid[0] * entry.grid[1]);
}

function shareKept(image, object) {
  const [r0, r1, c0, c1] = image.ranges[object];
  const count = numKept(image.ranks.length);
  let kept = 0;
  for (let r = r0; r < r1; r++) {
    for (let c = c0; c < c1; c++) kept += image.ranks[r * image.grid[1] + c] < count;
  }
  return kept / ((r1 - r0) * (c1 - c0));
}

function passes(entry) {
  if (state.smallest !== "" && Math.min(...entry.sizes) !== Number(state.smallest)) return false;
  return !state.onlyLost || entry.best.some((_, object) => isLost(entry, object));
}

function passing() {
  return sheet.images.map((_, i) => i).filter((i) => passes(sheet.images[i]));
}

// ---- drawing

function colourOf(image, patch) {
  const strength = (share) => (share === 0 ? 0 : 0.25 + 0.75 * share);
  if (state.layer === "owner") {
    const owner = image.owner[patch];
    return owner < 0 ? null : [...OWNERS_RGB[owner % OWNERS.length], 1];
  }
  if (state.layer === "difference") {
    const change = (image.improved[patch] - image.baseline[patch]) / 255;
    return [...(change < 0 ? BLUE : RED), strength(Math.abs(change))];
  }
  // Scores may all be small: they go up to the largest of the image.
  const value = state.layer === "scores"
    ? scoreOf(image.logits[patch]) / image.top : image[state.layer][patch] / 255;
  const place = value * (INFERNO.length - 1);
  const low = Math.min(Math.floor(place), INFERNO.length - 2);
  const rgb = INFERNO[low].map((from, i) => from + (place - low) * (INFERNO[low + 1][i] - from));
  return [...rgb, strength(value)];
}

function scoreOf(logit) {
  return 1 / (1 + Math.exp(-logit));
}

// One colour a patch, or null for none.
function paint(context, grid, colour) {
  const small = new OffscreenCanvas(grid[1], grid[0]);
  const pixels = new ImageData(grid[1], grid[0]);
  for (let patch = 0; patch < grid[0] * grid[1]; patch++) {
    const rgba = colour(patch);
    if (rgba) pixels.data.set([rgba[0], rgba[1], rgba[2], 255 * rgba[3]], 4 * patch);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

function draw(image) {
  const [height, width] = image.size;
  const canvas = byId("canvas"), context = canvas.getContext("2d");
  const scale = Math.max(1, Math.round(2000 / width));
  Object.assign(canvas, { width: width * scale, height: height * scale });
  context.imageSmoothingEnabled = false;
  byId("image").classList.toggle("off", !state.picture);
  byId("image").classList.toggle("grey", state.layer !== "none");
  const pruning = state.prune && image.ranks;
  if (pruning) {
    const count = numKept(image.ranks.length);
    paint(context, image.grid, (patch) => (image.ranks[patch] < count ? null : [0, 0, 0, 0.78]));
  }
  if (state.layer !== "none") {
    context.globalAlpha = state.opacity / 100;
    paint(context, image.grid, (patch) => colourOf(image, patch));
    context.globalAlpha = 1;
  }
  if (!state.boxes) return;
  const line = (1.6 * canvas.width) / (canvas.clientWidth || canvas.width);
  image.boxes.forEach(([x1, y1, x2, y2], object) => {
    const lost = pruning && isLost(image, object);
    const bare = image.bare[object];
    context.lineWidth = lost || bare ? 1.5 * line : line;
    context.setLineDash(lost ? [4 * line, 2 * line] : bare ? [line, 2 * line] : []);
    context.strokeStyle = lost ? "#ff453a" : bare ? BARE
      : state.layer === "owner" ? OWNERS[object % OWNERS.length] : "#00e5ff";
    context.strokeRect(x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale);
  });
}

// ---- words

// All text of the data set goes in as text: a file's name may hold anything.
function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function tell(image) {
  const [height, width] = image.size, objects = image.boxes.length;
  const bare = image.bare.filter(Boolean).length;
  byId("caption").textContent = `${image.id} · ${image.name} · ${width} × ${height} px`
    + (bare ? ` · ${bare} of ${objects} objects have no patch (dotted)` : "");
  const lost = image.ranks ? image.best.filter((_, object) => isLost(image, object)).length : 0;
  byId("canvas").setAttribute("aria-label", `Layer ${state.layer} of ${image.id}: `
    + `${objects} objects${image.ranks ? `, ${lost} lost at ${state.keep} %` : ""}`);
  byId("key").replaceChildren(...({
    none: [],
    owner: ["a patch has the colour of its box"],
    difference: ["−1", element("i", "", "change"), "1"],
    scores: ["0", element("i", "", "mask"), image.top?.toFixed(2)],
  }[state.layer] ?? ["0", element("i", "", "mask"), "1"]));
  const groups = [["all", image.boxes.map(() => true)]];
  sheet.sizes.forEach((name, k) => groups.push([name, image.sizes.map((size) => size === k)]));
  sheet.classes.forEach((name, k) => groups.push([name, image.labels.map((l) => l === k)]));
  byId("numbers").replaceChildren(...groups.filter(([name, member]) =>
    name === "all" || member.some(Boolean)).map(([name, member]) => row(image, name, member)));
}

function row(image, name, member) {
  const made = document.createElement("tr"), head = element("th", name);
  head.scope = "row";
  made.append(head, element("td", member.filter(Boolean).length));
  if (image.ranks) {
    // An object beyond the border has no patch to keep or to lose.
    const there = member.flatMap((is, object) => (is && image.best[object] >= 0 ? [object] : []));
    const sum = there.reduce((total, object) => total + shareKept(image, object), 0);
    const lost = there.filter((object) => isLost(image, object)).length;
    made.append(element("td", there.length ? `${((100 * sum) / there.length).toFixed(1)} %` : "–"),
      element("td", lost, lost ? "some" : ""));
  }
  return made;
}

function tellTotal() {
  if (sheet.predictor === null) return;
  byId("kept").textContent = `${state.keep} %`;
  const objects = sheet.images.flatMap((entry) =>
    entry.best.flatMap((best, object) => (best < 0 ? [] : [isLost(entry, object)])));
  const lost = objects.filter(Boolean).length;
  byId("total").textContent = `All ${sheet.images.length} images: `
    + `${lost} of ${objects.length} objects are lost at ${state.keep} %.`;
}

// ---- moving about

// Show the state; go to the nearest image that passes the filter.
async function show() {
  const list = passing(), found = list.length > 0;
  if (found && !list.includes(state.at)) state.at = list.find((i) => i > state.at) ?? list.at(-1);
  const place = list.indexOf(state.at);
  byId("place").textContent = found ? `${place + 1} of ${list.length}` : "no such image";
  byId("previous").disabled = !(place > 0);
  byId("next").disabled = !(place < list.length - 1);
  byId("figure").hidden = !found;
  document.querySelector("table").hidden = !found;
  tellTotal();
  history.replaceState(null, "", `#image-${state.at}`); // for a reload
  if (!found) return;
  const mine = ++ticket;
  if (current?.at !== state.at) {
    byId("figure").setAttribute("aria-busy", "true");
    const image = await decode(state.at);
    if (mine !== ticket) return;
    current = image;
    byId("image").src = image.picture;
    byId("image").alt = `Picture ${image.name}`;
    byId("stage").style.setProperty("--width", image.size[1]);
    byId("stage").style.setProperty("--height", image.size[0]);
  }
  draw(current);
  tell(current);
  byId("figure").setAttribute("aria-busy", "false");
}

function step(by) {
  const list = passing(), place = list.indexOf(state.at) + by;
  if (list.length) state.at = list[Math.max(0, Math.min(list.length - 1, place))];
  return show();
}

function jump(id) {
  const i = sheet.images.findIndex((entry) => entry.id === id);
  byId("wanted").setCustomValidity(i < 0 ? "No image has this id." : "");
  if (!byId("jump").reportValidity()) return;
  Object.assign(state, { at: i, smallest: "", onlyLost: false });
  byId("smallest").value = "";
  byId("only-lost").checked = false;
  show();
}

const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  p: () => byId("picture").click(),
  b: () => byId("boxes").click(),
  k: () => sheet.predictor !== null && byId("prune").click(),
};
const layerInputs = [...document.getElementsByName("layer")];

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const own = { radio: /Arrow/, range: /Arrow|Home|End/, checkbox: /^$/ }[event.target.type];
  // Fields that are typed into keep all keys, others those that move them.
  if (event.target.matches("input, select") && (own?.test(event.key) ?? true)) return;
  const input = layerInputs[/^[0-5]$/.test(event.key) ? Number(event.key) : -1];
  if (input && !input.closest("[hidden]")) input.click();
  else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
  else return;
  event.preventDefault();
});

byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("jump").addEventListener("submit", (event) => {
  event.preventDefault();
  jump(byId("wanted").value);
});
byId("wanted").addEventListener("input", () => byId("wanted").setCustomValidity(""));
for (const input of layerInputs) {
  input.addEventListener("change", () => { state.layer = input.value; show(); });
}
for (const [id, name, property] of [
  ["picture", "picture", "checked"], ["boxes", "boxes", "checked"], ["prune", "prune", "checked"],
  ["opacity", "opacity", "valueAsNumber"], ["keep", "keep", "valueAsNumber"],
  ["smallest", "smallest", "value"], ["only-lost", "onlyLost", "checked"],
]) {
  // What a browser kept from before a reload counts too.
  state[name] = byId(id)[property];
  byId(id).addEventListener("input", () => { state[name] = byId(id)[property]; show(); });
}
window.addEventListener("resize", () => current && draw(current));

for (const part of document.querySelectorAll(".scored")) part.hidden = sheet.predictor === null;
byId("about").textContent = `${sheet.images.length} images, stride ${sheet.stride}`
  + (sheet.predictor === null ? "" : `, scores of ${sheet.predictor}`);
byId("ids").append(...sheet.images.map((entry) => new Option("", entry.id)));
byId("smallest").append(...sheet.sizes.map((name, k) => new Option(name, k)));
state.layer = layerInputs.find((input) => input.checked).value;
const asked = Number(location.hash.replace("#image-", ""));
if (asked in sheet.images) state.at = asked;
show();
