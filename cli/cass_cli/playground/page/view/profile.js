// The profile: the values of both masks along a line over the picture.
import { byId, clamp, element, number, shape } from "../dom.js";
import { crossings, patchAt, valueAt } from "../model/grid.js";
import { change, state, view } from "../model/state.js";
import { panes } from "./panes.js";

const LEFT = 34,
  RIGHT = 10,
  TOP = 10,
  BOTTOM = 20;
const chart = byId("chart");
const ends = ["x1", "y1", "x2", "y2"].map((name, k) => {
  const input = element("input", { type: "number", step: 1, "aria-label": name, title: name });
  input.addEventListener("change", () => {
    if (Number.isFinite(input.valueAsNumber))
      change((s) => {
        s.line[k] = input.valueAsNumber;
      });
  });
  return input;
});

const along = ([x1, y1, x2, y2], share) => [x1 + share * (x2 - x1), y1 + share * (y2 - y1)];
const lengthOf = ([x1, y1, x2, y2]) => Math.hypot(x2 - x1, y2 - y1);

// The values of a side from crossing to crossing: [from, to, value], shares of the line's length.
function stepsOf({ result }) {
  const tensor = state.layer === "weights" ? result.weights : result.mask;
  const shares = crossings(result, state.line);
  return shares.slice(1).map((to, i) => {
    const from = shares[i];
    const patch = patchAt(result, along(state.line, (from + to) / 2));
    return [from, to, patch ? valueAt(tensor, patch) : null];
  });
}

export function buildProfile() {
  byId("ends").append("from", ends[0], ends[1], "to", ends[2], ends[3]);
  chart.addEventListener("pointermove", (event) => {
    const bounds = chart.getBoundingClientRect();
    const share = (event.clientX - bounds.left - LEFT) / (bounds.width - LEFT - RIGHT);
    const point = along(state.line, clamp(share, 0, 1));
    change((_, v) => {
      v.probe = v.hover = point;
    });
  });
  chart.addEventListener("pointerleave", () =>
    change((_, v) => {
      v.probe = v.hover = null;
    }),
  );
}

export function drawProfile() {
  ends.forEach((input, k) => {
    if (document.activeElement !== input) input.value = Math.round(state.line[k]);
  });
  const what = state.layer === "weights" ? "weight" : "value";
  byId("profile-note").textContent =
    `${what} along the line, ${Math.round(lengthOf(state.line))} px`;
  const width = chart.clientWidth,
    height = chart.clientHeight;
  if (!panes.a.result || !panes.b.result || !width) return;
  const sides = [
    ["a", stepsOf(panes.a)],
    ["b", stepsOf(panes.b)],
  ];
  const values = sides.flatMap(([, steps]) => steps.map(([, , value]) => value ?? 0));
  const most = Math.max(
    1,
    values.reduce((a, b) => Math.max(a, b), 0),
  );
  const x = (share) => LEFT + share * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - (value / most) * (height - TOP - BOTTOM);
  const made = [0, 0.5, 1].flatMap((share) => [
    shape("line", {
      x1: LEFT,
      x2: width - RIGHT,
      y1: y(share * most),
      y2: y(share * most),
      class: "grid",
    }),
    text(LEFT - 6, y(share * most) + 4, number(share * most, most > 10 ? 0 : 1), "end"),
  ]);
  const length = lengthOf(state.line),
    ticks = width > 600 ? 8 : 4;
  for (let i = 0; i <= ticks; i++) {
    const anchor = i === 0 ? "start" : i === ticks ? "end" : "middle";
    made.push(text(x(i / ticks), height - 5, `${Math.round((length * i) / ticks)}`, anchor));
  }
  for (const [name, steps] of sides) {
    let path = "",
      pen = false;
    for (const [from, to, value] of steps) {
      if (value === null) {
        pen = false;
        continue;
      }
      path += `${pen ? "L" : "M"}${x(from)} ${y(value)}H${x(to)}`;
      pen = true;
    }
    made.push(shape("path", { d: path, class: `curve ${name}` }));
  }
  if (view.hover && view.probe) {
    const share = length
      ? Math.hypot(view.probe[0] - state.line[0], view.probe[1] - state.line[1]) / length
      : 0;
    made.push(
      shape("line", { x1: x(share), x2: x(share), y1: TOP, y2: height - BOTTOM, class: "cursor" }),
    );
  }
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.replaceChildren(...made);
  const extremes = sides.map(([name, steps]) => {
    const largest = Math.max(0, ...steps.map(([, , value]) => value ?? 0));
    return `${name.toUpperCase()} up to ${number(largest)}`;
  });
  chart.setAttribute(
    "aria-label",
    `Profile: ${what} along ${Math.round(length)} pixels, ${extremes.join(", ")}`,
  );
}

function text(x, y, words, anchor) {
  const made = shape("text", { x, y, "text-anchor": anchor });
  made.textContent = words;
  return made;
}
