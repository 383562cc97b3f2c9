// The options of a side as sliders, switches and numbers, and the table of boxes.
import { byId, element, icon } from "./dom.js";
import { fieldOf, GROUPS } from "./options.js";
import { PRESETS } from "./stage.js";
import { SIDES, change, changesOf, config, state, view } from "./state.js";
import { removeSelected } from "./tools.js";

const controls = new Map(); // by the field that errors name: { row, show }
const current = () => state.sides[view.side];

export function buildControls() {
  for (const name of SIDES) {
    byId("sides").append(segment("side", name, `${name.toUpperCase()}`, () => change((_, v) => { v.side = name; })));
  }
  for (const group of GROUPS) {
    const body = element("div");
    for (const option of group.options) body.append(build(group, option));
    byId("controls").append(element("details", { class: "card", open: true },
      element("summary", {}, element("h2", {}, group.title, element("span", { class: "chip" }))), body));
    byId("controls").lastChild.dataset.group = group.title;
  }
  const stride = rowOf({ name: "stride", label: "Stride", kind: "number", low: 1, high: 64, step: 1,
    unit: "pixels", help: "Pixels of a cell, of both sides; the map is the picture divided by it, rounded up." },
  () => state.stride, (value) => change((s) => { s.stride = Math.max(1, Math.round(value)); }));
  controls.set("feature_map", stride);
  byId("shared").append(stride.row, element("p", { class: "hint", id: "cells" }));
}

export function segment(name, value, words, onPick, title = words) {
  const input = element("input", { type: "radio", name, value, class: "unseen", "aria-label": title });
  input.addEventListener("change", () => onPick(value));
  const label = element("label", { title }, input);
  label.append(...(typeof words === "string" ? [element("span", {}, words)] : [words]));
  return label;
}

function build(group, option) {
  const get = () => current()[group.of][option.name];
  const set = (value) => change(() => { current()[group.of][option.name] = value; });
  const made = rowOf(option, get, set);
  const base = () => (group.of === "spec" ? config.presets[current().preset] : config.weights)[option.name];
  const reset = element("button", { type: "button", class: "reset", "aria-label": `Reset ${option.label}`, title: "As in the preset" }, icon("i-reset"));
  reset.addEventListener("click", () => set(structuredClone(base())));
  made.row.querySelector(".head").append(reset);
  const show = made.show;
  made.show = () => {
    show();
    const changed = JSON.stringify(get()) !== JSON.stringify(base());
    made.row.classList.toggle("changed", changed);
    reset.hidden = !changed;
    const idle = !option.when(current().spec);
    made.row.classList.toggle("idle", idle);
    const other = state.sides[view.side === "a" ? "b" : "a"][group.of][option.name];
    made.row.classList.toggle("differs", JSON.stringify(other) !== JSON.stringify(get()));
  };
  made.group = group.title;
  controls.set(fieldOf(group, option), made);
  return made.row;
}

function rowOf(option, get, set) {
  const id = `option-${option.name}`;
  const error = element("p", { class: "error", id: `${id}-error`, hidden: true });
  const help = element("p", { class: "unseen", id: `${id}-help` }, option.help);
  const unit = option.unit ? element("span", { class: "unit" }, option.unit) : "";
  const head = element("div", { class: "head" });
  const row = element("div", { class: `option ${option.kind}` }, head);
  const explain = () => {
    const more = row.classList.contains("idle") ? ` ${option.needs}` : "";
    byId("explain").replaceChildren(element("b", {}, option.label), ` ${option.help}${more}`);
  };
  row.addEventListener("pointerenter", explain);
  row.addEventListener("focusin", explain);
  const described = { "aria-describedby": `${id}-help ${id}-error` };
  const title = (forId) => element("label", { for: forId, class: "name" }, option.label);
  let show;
  if (option.kind === "number") {
    const slider = sliderOf(option, id, { ...described, "aria-label": option.label });
    const exact = exactOf(option, `${id}-exact`, option.label, described);
    head.append(title(id), slider, exact, unit);
    on(slider, set);
    on(exact, set);
    show = () => { put(slider, get()); put(exact, get()); };
  } else if (option.kind === "pair") {
    const parts = [0, 1].map((k) => [sliderOf(option, k ? `${id}-y` : id, described), exactOf(option, `${id}-${k}`, `${option.label} along ${"xy"[k]}`, described)]);
    const pair = element("input", { type: "checkbox", id: `${id}-pair` });
    const two = element("label", { class: "check", title: "One width for x and another for y" }, pair, "xy");
    const second = element("div", { class: "head" }, element("span", { class: "name unit" }, "along y"), ...parts[1], element("span", { class: "unit" }));
    head.append(title(id), ...parts[0], two);
    row.append(second);
    const read = () => [get()].flat();
    parts.forEach(([slider, exact], k) => {
      const store = (value) => {
        const both = read();
        if (both.length === 1) return set(value);
        both[k] = value;
        return set(both);
      };
      slider.setAttribute("aria-label", `${option.label}${k ? " along y" : ""}`);
      on(slider, store);
      on(exact, store);
    });
    pair.addEventListener("change", () => set(pair.checked ? [read()[0], read()[0]] : read()[0]));
    show = () => {
      const both = read();
      pair.checked = both.length === 2;
      second.hidden = both.length === 1;
      both.forEach((value, k) => parts[k].forEach((input) => put(input, value)));
    };
  } else if (option.kind === "choice") {
    const select = element("select", { id, ...described }, ...option.choices.map((one) => new Option(one, one)));
    select.addEventListener("change", () => set(select.value));
    head.append(title(id), select);
    show = () => { select.value = get(); };
  } else if (option.kind === "flag") {
    const box = element("input", { type: "checkbox", class: "switch", role: "switch", id, ...described });
    box.addEventListener("change", () => set(box.checked));
    head.append(title(id), box);
    show = () => { box.checked = get(); };
  } else { // a range of one level: null, or one pair
    const low = exactOf({ low: 0, step: 1 }, id, "above, pixels", described);
    const high = exactOf({ low: 0, step: 1 }, `${id}-high`, "at most, pixels", described);
    high.placeholder = "∞";
    low.placeholder = "0";
    head.append(title(id), low, element("span", { class: "unit" }, "to"), high, element("span", { class: "unit" }, "px"));
    const store = () => {
      const pair = [low.value === "" ? 0 : low.valueAsNumber, high.value === "" ? null : high.valueAsNumber];
      set(pair[0] === 0 && pair[1] === null ? null : [pair]);
    };
    low.addEventListener("change", store);
    high.addEventListener("change", store);
    show = () => {
      const [[from, to]] = get() ?? [[0, null]];
      if (document.activeElement !== low) low.value = from || "";
      if (document.activeElement !== high) high.value = to ?? "";
    };
  }
  row.append(help, error);
  return { row, show, error };
}

const sliderOf = ({ low, high, step }, id, more) =>
  element("input", { type: "range", min: low, max: high, step, id, ...more });
const exactOf = ({ step, low }, id, label, more) =>
  element("input", { type: "number", step: "any", min: low, id, "aria-label": `${label}, exactly`, inputMode: "decimal", ...more });
const on = (input, store) => input.addEventListener("input", () => {
  if (Number.isFinite(input.valueAsNumber)) store(input.valueAsNumber);
});

function put(input, value) {
  if (document.activeElement === input && input.type === "number") return; // half of a number is typed
  if (input.valueAsNumber !== value) input.value = value;
  if (input.type === "range") {
    const share = (Number(input.value) - input.min) / (input.max - input.min);
    input.style.setProperty("--share", `${100 * share}%`);
  }
}

export function drawControls() {
  for (const input of document.getElementsByName("side")) {
    const side = state.sides[input.value];
    input.checked = input.value === view.side;
    const words = Object.keys(changesOf(side)).length ? `${PRESETS[side.preset] ?? side.preset} *` : PRESETS[side.preset] ?? side.preset;
    input.nextSibling.textContent = `${input.value.toUpperCase()} · ${words}`;
    input.setAttribute("aria-label", `Options of ${input.value.toUpperCase()}, ${words}`);
  }
  byId("options").dataset.side = view.side;
  for (const { show } of controls.values()) show();
  for (const details of byId("controls").children) {
    const count = details.querySelectorAll(".option.changed").length;
    details.querySelector(".chip").textContent = count ? `${count} changed` : "";
  }
  drawBoxes();
}

// The words of the service under the control that they are about; true if there is one.
export function showError(error) {
  for (const { row, error: place } of controls.values()) {
    place.hidden = true;
    row.classList.remove("wrong");
  }
  const [, made] = [...controls].find(([field]) => error?.field.startsWith(field)) ?? [];
  if (!made) return false;
  made.error.textContent = error.reason;
  made.error.hidden = false;
  made.row.classList.add("wrong");
  return true;
}

// ---- the table of boxes and regions

let listed = "";

function drawBoxes() {
  const body = document.querySelector("#boxes tbody");
  const items = [
    ...state.boxes.map((item, index) => ({ kind: "boxes", index, item, name: item.label || "box" })),
    ...state.ignored.map((item, index) => ({ kind: "ignored", index, item, name: "ignored" })),
    ...(state.valid ? [{ kind: "valid", index: 0, item: state.valid, name: "picture" }] : []),
  ];
  byId("count").textContent = state.boxes.length;
  const key = items.map(({ kind, name }) => `${kind} ${name}`).join();
  if (key !== listed) {
    listed = key;
    body.replaceChildren(...items.map(rowOfItem));
  }
  items.forEach(({ item, kind, index }, k) => {
    const inputs = body.rows[k].querySelectorAll("input");
    [...item.xyxy, item.weight ?? 1].forEach((value, i) => {
      const input = inputs[i];
      if (input && document.activeElement !== input) input.value = Math.round(value * 10) / 10;
    });
    const chosen = view.selected?.kind === kind && view.selected.index === index;
    if (chosen && !body.rows[k].classList.contains("selected")) bringIntoView(body.rows[k]);
    body.rows[k].classList.toggle("selected", chosen);
  });
}

// Within the list alone: the page itself must not jump while one draws.
function bringIntoView(row) {
  const list = row.closest(".scroll");
  const low = row.offsetTop + row.offsetHeight - list.clientHeight;
  list.scrollTop = Math.max(low, Math.min(list.scrollTop, row.offsetTop - row.offsetHeight));
}

const itemOf = (kind, index) => (kind === "valid" ? state.valid : state[kind][index]);

function rowOfItem({ kind, index, name }) {
  const select = element("button", { type: "button", class: "quiet", title: "Select" }, kind === "boxes" ? `${index + 1} ${name}` : name);
  select.addEventListener("click", () => change((_, v) => { v.selected = { kind, index }; }));
  const cells = ["x1", "y1", "x2", "y2"].map((label, k) => numberCell(`${label} of ${name} ${index + 1}`, (value) => { itemOf(kind, index).xyxy[k] = value; }, kind, index));
  if (kind === "boxes") cells.push(numberCell(`weight of ${name} ${index + 1}`, (value) => { itemOf(kind, index).weight = value; }, kind, index));
  else cells.push(element("td"));
  const remove = element("button", { type: "button", class: "square quiet", "aria-label": `Remove ${name} ${index + 1}`, title: "Remove" }, icon("i-trash"));
  remove.addEventListener("click", () => {
    view.selected = { kind, index };
    removeSelected();
  });
  return element("tr", { class: kind }, element("th", { scope: "row" }, select), ...cells, element("td", {}, remove));
}

function numberCell(label, store, kind, index) {
  const input = element("input", { type: "number", step: "any", "aria-label": label });
  input.addEventListener("input", () => {
    if (Number.isFinite(input.valueAsNumber)) change(() => store(input.valueAsNumber));
  });
  input.addEventListener("focus", () => change((_, v) => { v.selected = { kind, index }; }));
  return element("td", {}, input);
}
