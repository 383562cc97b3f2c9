// The options of a side, with what differs from its preset, and where a wrong one is named.
import { byId, element, icon } from "../dom.js";
import { fieldOf, GROUPS } from "../model/options.js";
import { change, changesOf, config, SIDES, state, view } from "../model/state.js";
import { PRESETS } from "./panes.js";
import { rowOf } from "./rows.js";
import { drawBoxes } from "./table.js";

const controls = new Map(); // by the field that errors name: { row, show }

const current = () => state.sides[view.side];

export function buildControls() {
  for (const name of SIDES) {
    byId("sides").append(
      segment("side", name, `${name.toUpperCase()}`, () =>
        change((_, v) => {
          v.side = name;
        }),
      ),
    );
  }
  for (const group of GROUPS) {
    const body = element("div");
    for (const option of group.options) body.append(build(group, option));
    byId("controls").append(
      element(
        "details",
        { class: "card", open: true },
        element("summary", {}, element("h2", {}, group.title, element("span", { class: "chip" }))),
        body,
      ),
    );
  }
  const stride = rowOf(
    {
      name: "stride",
      label: "Stride",
      kind: "number",
      low: 1,
      high: 64,
      step: 1,
      unit: "pixels",
      help: "Pixels of a cell, of both sides; the map is the picture divided by it, rounded up.",
    },
    () => state.stride,
    (value) =>
      change((s) => {
        s.stride = Math.max(1, Math.round(value));
      }),
  );
  controls.set("feature_map", stride);
  byId("shared").append(stride.row, element("p", { class: "hint", id: "cells" }));
}

export function segment(name, value, words, onPick, title = words) {
  const input = element("input", {
    type: "radio",
    name,
    value,
    class: "unseen",
    "aria-label": title,
  });
  input.addEventListener("change", () => onPick(value));
  const label = element("label", { title }, input);
  label.append(...(typeof words === "string" ? [element("span", {}, words)] : [words]));
  return label;
}

function build(group, option) {
  const get = () => current()[group.of][option.name];
  const set = (value) =>
    change(() => {
      current()[group.of][option.name] = value;
    });
  const made = rowOf(option, get, set);
  const base = () =>
    (group.of === "spec" ? config.presets[current().preset] : config.weights)[option.name];
  const reset = element(
    "button",
    {
      type: "button",
      class: "reset",
      "aria-label": `Reset ${option.label}`,
      title: "As in the preset",
    },
    icon("i-reset"),
  );
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
  controls.set(fieldOf(group, option), made);
  return made.row;
}

export function drawControls() {
  for (const input of document.getElementsByName("side")) {
    const side = state.sides[input.value];
    input.checked = input.value === view.side;
    const words = Object.keys(changesOf(side)).length
      ? `${PRESETS[side.preset] ?? side.preset} *`
      : (PRESETS[side.preset] ?? side.preset);
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

// The words of the service under the control that they are about, if there is one.
export function showError(error) {
  for (const { row, error: place } of controls.values()) {
    place.hidden = true;
    row.classList.remove("wrong");
  }
  const [, made] = [...controls].find(([field]) => error?.field.startsWith(field)) ?? [];
  if (!made) return;
  made.error.textContent = error.reason;
  made.error.hidden = false;
  made.row.classList.add("wrong");
}
