// The number under the pointer, and what all patches of a mask come to.
import { element, number } from "../dom.js";
import { patchAt, valueAt } from "../model/grid.js";
import { view } from "../model/state.js";

// The value of the patch at a point, and words on it; null where there is none.
export function wordsAt({ result }, point) {
  const patch = result && point && patchAt(result, point);
  const value = patch ? valueAt(result.mask, patch) : null;
  if (value === null) return null;
  const parts = [];
  if (result.owner) {
    const owner = valueAt(result.owner, patch);
    parts.push(owner < 0 ? "no owner" : `owner ${owner + 1}`);
  }
  if (result.weights) parts.push(`weight ${number(valueAt(result.weights, patch))}`);
  parts.push(`row ${patch[0]}, column ${patch[1]}`);
  return { value, parts };
}

export function drawReadout(pane) {
  const { result, readout, layer } = pane;
  if (!result) {
    readout.replaceChildren("…");
    return;
  }
  const words = wordsAt(pane, view.hover);
  layer.setAttribute("aria-label", summaryOf(pane));
  if (!words) {
    readout.replaceChildren(summaryOf(pane));
    return;
  }
  const sign = pane.name === "d" && words.value > 0 ? "+" : "";
  const value = element("b", {}, sign + number(words.value));
  readout.replaceChildren(value, ` · ${words.parts.join(" · ")}`);
}

export function summaryOf({ name, result }) {
  result.summary ??= name === "d" ? ofDifference(result) : ofMask(result);
  return result.summary;
}

function totals({ values }) {
  let [above, most, sum] = [0, 0, 0];
  for (const value of values) {
    const size = Math.abs(value);
    if (size > 0) above++;
    most = Math.max(most, size);
    sum += size;
  }
  const share = ((100 * above) / values.length).toFixed(1);
  const words = `${share} % of ${values.length.toLocaleString("en")} patches`;
  return { words, above, most, mean: above ? sum / above : 0 };
}

function ofDifference({ mask }) {
  const { words, above, most, mean } = totals(mask);
  if (!above) return `All ${mask.values.length.toLocaleString("en")} patches are equal`;
  return `${words} differ, by ${number(mean)} on average and ${number(most)} at most`;
}

function ofMask({ mask, owned, boxes }) {
  const { words, most } = totals(mask);
  const bare = owned ? boxes - owned.size : 0;
  return [
    `${words} above 0${most > 1 ? `, at most ${number(most)}` : ""}`,
    ...(bare ? [`${bare} of ${boxes} boxes own no patch`] : []),
  ].join(" · ");
}
