// What pointers and keys do on the panes: draw, move, resize and delete boxes, the line, the view.
import { clamp, say } from "./dom.js";
import { patchPixels } from "./grid.js";
import { handlesOf, pan, panes, pointOf, scaleOf, selectedItem, shownPanes, wordsAt, zoomAt } from "./stage.js";
import { change, commit, state, view } from "./state.js";

export const TOOLS = [
  ["select", "Select and move", "v"], ["box", "Draw a box", "b"], ["ignore", "Draw an ignored region", "i"],
  ["valid", "Draw the picture region", "r"], ["line", "Draw the line of the profile", "l"],
];
// Which coordinates each handle moves: of x1, y1, x2, y2, in the order of `handlesOf`.
const MOVES = [[0, 1], [1], [2, 1], [2], [2, 3], [3], [0, 3], [0]];
const LEAST = 3; // pixels on the screen that make a drag

export function setTool(tool) {
  change((_, v) => { v.tool = tool; });
}

export function buildTools() {
  for (const pane of Object.values(panes)) {
    const { port } = pane;
    port.addEventListener("pointerdown", (event) => begin(pane, event));
    port.addEventListener("pointermove", (event) => {
      if (!drag) change((_, v) => { v.hover = pointOf(port, event); v.probe = null; });
      if (!drag) port.style.cursor = cursorAt(port, event);
    });
    port.addEventListener("pointerleave", () => change((_, v) => { v.hover = null; }));
    port.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      change(() => zoomAt(port, 1.002 ** -event.deltaY, pointOf(port, event)));
    }, { passive: false });
    port.addEventListener("keydown", (event) => keyed(pane, event));
    // A finger scrolls the page, unless it is on something that it can move.
    port.addEventListener("touchstart", (event) => {
      const [touch] = event.touches;
      if (event.touches.length === 1 && view.tool === "select" && isGrip(port, touch)) event.preventDefault();
    }, { passive: false });
  }
}

// ---- pointers

let drag = null; // what the pointer that is down does

function begin(pane, event) {
  if (drag || event.button > 1) return;
  const { port } = pane;
  const start = pointOf(port, event);
  const move = event.button === 1 || event.shiftKey ? panning(port, event) : gesture(port, start, event);
  if (!move) return;
  event.preventDefault();
  port.focus({ preventScroll: true });
  port.setPointerCapture(event.pointerId);
  drag = move;
  const onMove = (next) => {
    if (next.pointerId !== event.pointerId) return;
    const point = pointOf(port, next);
    change((_, v) => { v.hover = point; v.probe = null; move.to?.(point, next); });
  };
  const onEnd = (next) => {
    if (next.pointerId !== event.pointerId) return;
    for (const name of ["pointermove", "pointerup", "pointercancel"]) port.removeEventListener(name, name === "pointermove" ? onMove : onEnd);
    drag = null;
    change(() => move.end?.(pointOf(port, next), next.type === "pointercancel"));
    commit();
  };
  port.addEventListener("pointermove", onMove);
  port.addEventListener("pointerup", onEnd);
  port.addEventListener("pointercancel", onEnd);
  change();
}

function panning(port, event) {
  let last = [event.clientX, event.clientY];
  return { to: (_, next) => {
    pan(port, next.clientX - last[0], next.clientY - last[1]);
    last = [next.clientX, next.clientY];
  } };
}

function reach(port, event) {
  return (event.pointerType === "touch" ? 18 : 8) / scaleOf(port);
}

function handleAt(port, event) {
  const item = selectedItem(), [x, y] = pointOf(port, event), most = reach(port, event);
  if (!item) return -1;
  return handlesOf(item.xyxy).findIndex(([hx, hy]) => Math.hypot(hx - x, hy - y) <= most);
}

function endAt(port, event) {
  const [x, y] = pointOf(port, event), [x1, y1, x2, y2] = state.line, most = reach(port, event);
  return [[x1, y1], [x2, y2]].findIndex(([ex, ey]) => Math.hypot(ex - x, ey - y) <= most);
}

// The smallest thing under a point: large ones must not hide those within them.
function itemAt([x, y], margin) {
  const all = [
    ...(view.boxes ? state.boxes.map(({ xyxy }, index) => ({ kind: "boxes", index, xyxy })) : []),
    ...state.ignored.map(({ xyxy }, index) => ({ kind: "ignored", index, xyxy })),
    ...(state.valid ? [{ kind: "valid", index: 0, xyxy: state.valid.xyxy }] : []),
  ].filter(({ kind, xyxy: [x1, y1, x2, y2] }) => {
    const inside = x >= x1 - margin && x <= x2 + margin && y >= y1 - margin && y <= y2 + margin;
    // The picture region is as large as the picture: only its border is it.
    const border = Math.min(Math.abs(x - x1), Math.abs(x - x2), Math.abs(y - y1), Math.abs(y - y2)) <= 2 * margin;
    return inside && (kind !== "valid" || border);
  });
  const area = ({ xyxy: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  return all.sort((a, b) => area(a) - area(b))[0] ?? null;
}

function isGrip(port, touch) {
  const at = { clientX: touch.clientX, clientY: touch.clientY, pointerType: "touch" };
  return handleAt(port, at) >= 0 || endAt(port, at) >= 0 || view.zoom > 1 || Boolean(itemAt(pointOf(port, at), reach(port, at) / 3));
}

function cursorAt(port, event) {
  const handle = handleAt(port, event);
  if (handle >= 0) return ["nwse", "ns", "nesw", "ew", "nwse", "ns", "nesw", "ew"][handle] + "-resize";
  if (view.tool === "select") {
    if (endAt(port, event) >= 0) return "grab";
    return itemAt(pointOf(port, event), reach(port, event) / 3) ? "move" : view.zoom > 1 ? "grab" : "default";
  }
  return "crosshair";
}

function gesture(port, start, event) {
  const handle = handleAt(port, event);
  if (handle >= 0) return resizing(MOVES[handle]);
  const end = endAt(port, event);
  if (end >= 0 && ["select", "line"].includes(view.tool)) {
    return { to: (point) => state.line.splice(2 * end, 2, ...within(point)) };
  }
  if (view.tool === "line") {
    const before = [...state.line], from = within(start);
    return {
      to: (point) => { state.line = [...from, ...within(point)]; },
      end: (point, cancelled) => { if (cancelled || isClick(port, start, point)) state.line = before; },
    };
  }
  if (view.tool !== "select") return drawing(port, start, { box: "boxes", ignore: "ignored", valid: "valid" }[view.tool]);
  const found = itemAt(start, reach(port, event) / 3);
  view.selected = found && { kind: found.kind, index: found.index };
  if (!found) return view.zoom > 1 ? panning(port, event) : {};
  const before = [...found.xyxy], item = selectedItem();
  return {
    to: ([x, y]) => { item.xyxy = before.map((value, k) => value + (k % 2 ? y - start[1] : x - start[0])); },
    end: (_, cancelled) => { if (cancelled) item.xyxy = before; },
  };
}

const isClick = (port, [x1, y1], [x2, y2]) => Math.hypot(x2 - x1, y2 - y1) * scaleOf(port) < LEAST;
const within = ([x, y]) => [clamp(x, 0, state.size[1]), clamp(y, 0, state.size[0])];
const ordered = ([x1, y1, x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];

function resizing(coordinates) {
  const item = selectedItem(), before = [...item.xyxy], raw = [...item.xyxy];
  return {
    to: (point) => {
      for (const k of coordinates) raw[k] = point[k % 2];
      item.xyxy = ordered(raw);
    },
    end: (_, cancelled) => { if (cancelled) item.xyxy = before; },
  };
}

function drawing(port, start, kind) {
  const from = within(start);
  let item = null;
  const before = state.valid;
  return {
    to: (point) => {
      item ??= insert(kind, [...from, ...from]);
      item.xyxy = ordered([...from, ...within(point)]);
    },
    end: (point, cancelled) => {
      if (!item || (!cancelled && !isClick(port, start, point))) return;
      if (kind === "valid") state.valid = before;
      else state[kind].pop();
      const found = cancelled ? null : itemAt(start, 0); // a click selects
      view.selected = found && { kind: found.kind, index: found.index };
    },
  };
}

export function insert(kind, xyxy) {
  const item = kind === "boxes" ? { xyxy, weight: 1, label: "" } : { xyxy };
  if (kind === "valid") state.valid = item;
  else state[kind].push(item);
  view.selected = { kind, index: kind === "valid" ? 0 : state[kind].length - 1 };
  return item;
}

export function removeSelected() {
  const { selected } = view;
  if (!selectedItem()) return;
  change((s, v) => {
    if (selected.kind === "valid") s.valid = null;
    else s[selected.kind].splice(selected.index, 1);
    v.selected = null;
  });
  commit();
  say(`Removed. ${state.boxes.length} boxes.`);
}

export function addBox() {
  const [height, width] = state.size, [x, y] = view.centre ?? [width / 2, height / 2];
  const side = Math.min(height, width) / 8 / view.zoom;
  change((_, v) => {
    insert("boxes", [x - side, y - side, x + side, y + side].map(Math.round));
    v.boxes = true;
  });
  commit();
  say(`Box ${state.boxes.length} added and selected: arrow keys move it.`);
}

// ---- keys on a pane

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function keyed(pane, event) {
  const arrow = ARROWS[event.key];
  if (!arrow || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  event.stopPropagation();
  const item = selectedItem(), by = event.altKey ? 10 : 1;
  if (item) {
    const [dx, dy] = arrow.map((value) => value * by);
    change(() => {
      const [x1, y1, x2, y2] = item.xyxy;
      item.xyxy = event.shiftKey ? ordered([x1, y1, Math.max(x1 + 1, x2 + dx), Math.max(y1 + 1, y2 + dy)])
        : [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
    });
    return;
  }
  if (!pane.result) return;
  const [high, wide] = patchPixels(state, pane.result.patchSize), [height, width] = state.size;
  const [x, y] = view.hover ?? [width / 2, height / 2];
  const next = [(Math.floor(x / wide) + 0.5 + arrow[0] * by) * wide, (Math.floor(y / high) + 0.5 + arrow[1] * by) * high];
  change((_, v) => { v.hover = [clamp(next[0], 0, width - 1e-3), clamp(next[1], 0, height - 1e-3)]; });
  say(shownPanes().map((one) => {
    const words = wordsAt(one, view.hover);
    return words ? `${one.name === "d" ? "" : one.name.toUpperCase()} ${words.value.toFixed(3)}, ${words.parts.join(", ")}` : "";
  }).join(". "));
}
