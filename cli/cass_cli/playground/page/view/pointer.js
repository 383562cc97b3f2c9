// What pointers do on the panes: draw, move and resize boxes, the line, the view.
import { insert, itemAt, ordered, selectedItem, within } from "../model/items.js";
import { commit } from "../model/history.js";
import { change, state, view } from "../model/state.js";
import { keyed } from "./arrows.js";
import { handlesOf, pan, pointOf, scaleOf, zoomAt } from "./geometry.js";
import { panes } from "./panes.js";

export const TOOLS = [
  ["select", "Select and move", "v"],
  ["box", "Draw a box", "b"],
  ["ignore", "Draw an ignored region", "i"],
  ["valid", "Draw the picture region", "r"],
  ["line", "Draw the line of the profile", "l"],
];

// Which coordinates each handle moves: of x1, y1, x2, y2, in the order of `handlesOf`.
const MOVES = [[0, 1], [1], [2, 1], [2], [2, 3], [3], [0, 3], [0]];

const LEAST = 3; // pixels on the screen that make a drag

export function setTool(tool) {
  change((_, v) => {
    v.tool = tool;
  });
}

export function buildTools() {
  for (const pane of Object.values(panes)) {
    const { port } = pane;
    port.addEventListener("pointerdown", (event) => begin(pane, event));
    port.addEventListener("pointermove", (event) => {
      if (!drag)
        change((_, v) => {
          v.hover = pointOf(port, event);
          v.probe = null;
        });
      if (!drag) port.style.cursor = cursorAt(port, event);
    });
    port.addEventListener("pointerleave", () =>
      change((_, v) => {
        v.hover = null;
      }),
    );
    port.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
        event.preventDefault();
        change(() => zoomAt(1.002 ** -event.deltaY, pointOf(port, event)));
      },
      { passive: false },
    );
    port.addEventListener("keydown", (event) => keyed(pane, event));
    // A finger scrolls the page, unless it is on something that it can move.
    port.addEventListener(
      "touchstart",
      (event) => {
        const [touch] = event.touches;
        if (event.touches.length === 1 && view.tool === "select" && isGrip(port, touch))
          event.preventDefault();
      },
      { passive: false },
    );
  }
}

let drag = null; // what the pointer that is down does

function begin(pane, event) {
  if (drag || event.button > 1) return;
  const { port } = pane;
  const start = pointOf(port, event);
  const move =
    event.button === 1 || event.shiftKey ? panning(port, event) : gesture(port, start, event);
  if (!move) return;
  event.preventDefault();
  port.focus({ preventScroll: true });
  port.setPointerCapture(event.pointerId);
  drag = move;
  const onMove = (next) => {
    if (next.pointerId !== event.pointerId) return;
    const point = pointOf(port, next);
    change((_, v) => {
      v.hover = point;
      v.probe = null;
      move.to?.(point, next);
    });
  };
  const onEnd = (next) => {
    if (next.pointerId !== event.pointerId) return;
    for (const name of ["pointermove", "pointerup", "pointercancel"])
      port.removeEventListener(name, name === "pointermove" ? onMove : onEnd);
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
  return {
    to: (_, next) => {
      pan(port, next.clientX - last[0], next.clientY - last[1]);
      last = [next.clientX, next.clientY];
    },
  };
}

function reach(port, event) {
  return (event.pointerType === "touch" ? 18 : 8) / scaleOf(port);
}

function handleAt(port, event) {
  const item = selectedItem(),
    [x, y] = pointOf(port, event),
    most = reach(port, event);
  if (!item) return -1;
  return handlesOf(item.xyxy).findIndex(([hx, hy]) => Math.hypot(hx - x, hy - y) <= most);
}

function endAt(port, event) {
  const [x, y] = pointOf(port, event),
    [x1, y1, x2, y2] = state.line,
    most = reach(port, event);
  return [
    [x1, y1],
    [x2, y2],
  ].findIndex(([ex, ey]) => Math.hypot(ex - x, ey - y) <= most);
}

function isGrip(port, touch) {
  const at = { clientX: touch.clientX, clientY: touch.clientY, pointerType: "touch" };
  return (
    handleAt(port, at) >= 0 ||
    endAt(port, at) >= 0 ||
    view.zoom > 1 ||
    Boolean(itemAt(pointOf(port, at), reach(port, at) / 3))
  );
}

function cursorAt(port, event) {
  const handle = handleAt(port, event);
  if (handle >= 0)
    return ["nwse", "ns", "nesw", "ew", "nwse", "ns", "nesw", "ew"][handle] + "-resize";
  if (view.tool === "select") {
    if (endAt(port, event) >= 0) return "grab";
    return itemAt(pointOf(port, event), reach(port, event) / 3)
      ? "move"
      : view.zoom > 1
        ? "grab"
        : "default";
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
    const before = [...state.line],
      from = within(start);
    return {
      to: (point) => {
        state.line = [...from, ...within(point)];
      },
      end: (point, cancelled) => {
        if (cancelled || isClick(port, start, point)) state.line = before;
      },
    };
  }
  if (view.tool !== "select")
    return drawing(port, start, { box: "boxes", ignore: "ignored", valid: "valid" }[view.tool]);
  const found = itemAt(start, reach(port, event) / 3);
  view.selected = found && { kind: found.kind, index: found.index };
  if (!found) return view.zoom > 1 ? panning(port, event) : {};
  const before = [...found.xyxy],
    item = selectedItem();
  return {
    to: ([x, y]) => {
      item.xyxy = before.map((value, k) => value + (k % 2 ? y - start[1] : x - start[0]));
    },
    end: (_, cancelled) => {
      if (cancelled) item.xyxy = before;
    },
  };
}

const isClick = (port, [x1, y1], [x2, y2]) => Math.hypot(x2 - x1, y2 - y1) * scaleOf(port) < LEAST;

function resizing(coordinates) {
  const item = selectedItem(),
    before = [...item.xyxy],
    raw = [...item.xyxy];
  return {
    to: (point) => {
      for (const k of coordinates) raw[k] = point[k % 2];
      item.xyxy = ordered(raw);
    },
    end: (_, cancelled) => {
      if (cancelled) item.xyxy = before;
    },
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
