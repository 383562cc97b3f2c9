// Boxes, ignored regions and the picture region: found, added, removed.
import { clamp, say } from "../dom.js";
import { commit } from "./history.js";
import { change, state, view } from "./state.js";

export function selectedItem() {
  const { selected } = view;
  if (!selected) return null;
  return selected.kind === "valid" ? state.valid : (state[selected.kind][selected.index] ?? null);
}

// The smallest thing under a point: large ones must not hide those within them.
export function itemAt([x, y], margin) {
  const all = [
    ...(view.boxes ? state.boxes.map(({ xyxy }, index) => ({ kind: "boxes", index, xyxy })) : []),
    ...state.ignored.map(({ xyxy }, index) => ({ kind: "ignored", index, xyxy })),
    ...(state.valid ? [{ kind: "valid", index: 0, xyxy: state.valid.xyxy }] : []),
  ].filter(({ kind, xyxy: [x1, y1, x2, y2] }) => {
    const inside = x >= x1 - margin && x <= x2 + margin && y >= y1 - margin && y <= y2 + margin;
    // The picture region is as large as the picture: only its border is it.
    const border =
      Math.min(Math.abs(x - x1), Math.abs(x - x2), Math.abs(y - y1), Math.abs(y - y2)) <=
      2 * margin;
    return inside && (kind !== "valid" || border);
  });
  const area = ({ xyxy: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  return all.sort((a, b) => area(a) - area(b))[0] ?? null;
}

export const ordered = ([x1, y1, x2, y2]) => [
  Math.min(x1, x2),
  Math.min(y1, y2),
  Math.max(x1, x2),
  Math.max(y1, y2),
];

export const within = ([x, y]) => [clamp(x, 0, state.size[1]), clamp(y, 0, state.size[0])];

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
  const [height, width] = state.size,
    [x, y] = view.centre ?? [width / 2, height / 2];
  const side = Math.min(height, width) / 8 / view.zoom;
  change((_, v) => {
    insert("boxes", [x - side, y - side, x + side, y + side].map(Math.round));
    v.boxes = true;
  });
  commit();
  say(`Box ${state.boxes.length} added and selected: arrow keys move it.`);
}
