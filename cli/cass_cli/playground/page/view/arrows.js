// Arrow keys on a pane: they move what is selected, or read the patches one by one.
import { clamp, say } from "../dom.js";
import { patchPixels } from "../model/grid.js";
import { ordered, selectedItem } from "../model/items.js";
import { change, state, view } from "../model/state.js";
import { NAMES, shownPanes } from "./panes.js";
import { wordsAt } from "./readout.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function keyed(pane, event) {
  const arrow = ARROWS[event.key];
  if (!arrow || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  event.stopPropagation();
  const item = selectedItem(),
    by = event.altKey ? 10 : 1;
  if (item) {
    const [dx, dy] = arrow.map((value) => value * by);
    change(() => {
      const [x1, y1, x2, y2] = item.xyxy;
      item.xyxy = event.shiftKey
        ? ordered([x1, y1, Math.max(x1 + 1, x2 + dx), Math.max(y1 + 1, y2 + dy)])
        : [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
    });
    return;
  }
  if (!pane.result) return;
  const [high, wide] = patchPixels(pane.result),
    [height, width] = state.size;
  const [x, y] = view.hover ?? [width / 2, height / 2];
  const next = [
    (Math.floor(x / wide) + 0.5 + arrow[0] * by) * wide,
    (Math.floor(y / high) + 0.5 + arrow[1] * by) * high,
  ];
  change((_, v) => {
    v.hover = [clamp(next[0], 0, width - 1e-3), clamp(next[1], 0, height - 1e-3)];
  });
  say(shownPanes().map(spoken).join(". "));
}

function spoken(pane) {
  const words = wordsAt(pane, view.hover);
  return words ? `${NAMES[pane.name]} ${[words.value.toFixed(3), ...words.parts].join(", ")}` : "";
}
