// What is drawn over a layer: boxes, regions, the line of the profile, the patch under the pointer.
import { shape } from "../dom.js";
import { patchAt, patchPixels } from "../model/grid.js";
import { selectedItem } from "../model/items.js";
import { state, view } from "../model/state.js";
import { OWNERS } from "./colours.js";
import { handlesOf } from "./geometry.js";

// `pixel` is one of the screen, in pixels of the picture.
export function drawMarks(pane, pixel) {
  const ends = [state.line.slice(0, 2), state.line.slice(2)];
  const item = selectedItem();
  pane.marks.replaceChildren(
    ...regions(),
    ...boxes(pane.result?.owned),
    line("line back"),
    line("line"),
    ...ends.map((end) => dot(end, 4 * pixel, "end")),
    ...(view.probe ? [dot(view.probe, 5 * pixel, "probe")] : []),
    ...patchUnder(pane.result),
    ...(item ? handlesOf(item.xyxy).map((place) => handle(place, 4.5 * pixel)) : []),
  );
}

function classOf(kind, index, more = "") {
  const { selected } = view;
  const isSelected = selected?.kind === kind && selected.index === index;
  return `${kind}${more}${isSelected ? " selected" : ""}`;
}

function regions() {
  const made = state.ignored.map(({ xyxy }, i) => rectangle(xyxy, classOf("ignored", i)));
  if (!state.valid) return made;
  const [x1, y1, x2, y2] = state.valid.xyxy;
  const [height, width] = state.size;
  const outside = `M0 0H${width}V${height}H0zM${x1} ${y1}V${y2}H${x2}V${y1}z`;
  const picture = rectangle(state.valid.xyxy, classOf("valid", 0));
  return [shape("path", { class: "outside", d: outside }), picture, ...made];
}

function boxes(owned) {
  return state.boxes.flatMap(({ xyxy }, i) => {
    if (!view.boxes && !(view.selected?.kind === "boxes" && view.selected.index === i)) return [];
    const isBare = owned && !owned.has(i);
    const box = rectangle(xyxy, classOf("boxes", i, isBare ? " bare" : ""));
    if (state.layer === "owner" && !isBare) box.style.stroke = OWNERS[i % OWNERS.length];
    return [rectangle(xyxy, "halo"), box];
  });
}

function patchUnder(result) {
  const patch = view.hover && result && patchAt(result, view.hover);
  if (!patch) return [];
  const [high, wide] = patchPixels(result);
  const [y, x] = [patch[0] * high, patch[1] * wide];
  return [rectangle([x, y, x + wide, y + high], "patch")];
}

function rectangle([x1, y1, x2, y2], className) {
  return shape("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: className });
}

function line(className) {
  const [x1, y1, x2, y2] = state.line;
  return shape("line", { x1, y1, x2, y2, class: className });
}

const dot = ([cx, cy], r, className) => shape("circle", { cx, cy, r, class: className });
const handle = ([x, y], r) => rectangle([x - r, y - r, x + r, y + r], "handle");
