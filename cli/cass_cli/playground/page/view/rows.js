// One option: its name, what sets it, and what it does.
import { byId, element } from "../dom.js";

// Its row, a function that shows its value, and the place for what is wrong with it.
export function rowOf(option, get, set) {
  const id = `option-${option.name}`;
  const error = element("p", { class: "error", id: `${id}-error`, hidden: true });
  const help = element("p", { class: "unseen", id: `${id}-help` }, option.help);
  const name = element("label", { for: id, class: "name" }, option.label);
  const head = element("div", { class: "head" }, name);
  const row = element("div", { class: `option ${option.kind}` }, head);
  const described = { "aria-describedby": `${id}-help ${id}-error` };
  const show = KINDS[option.kind]({ option, id, described, head, row, get, set });
  row.append(help, error);
  const explain = () => {
    const more = row.classList.contains("idle") ? ` ${option.needs}` : "";
    byId("explain").replaceChildren(element("b", {}, option.label), ` ${option.help}${more}`);
  };
  row.addEventListener("pointerenter", explain);
  row.addEventListener("focusin", explain);
  return { row, show, error };
}

const KINDS = { number: numberIn, pair: pairIn, choice: choiceIn, flag: flagIn, range: rangeIn };
const unit = (words) => element("span", { class: "unit" }, words);

function numberIn({ option, id, described, head, get, set }) {
  const slider = sliderOf(option, id, option.label, described);
  const exact = exactOf(option.low, `${id}-exact`, option.label, described);
  head.append(slider, exact, ...(option.unit ? [unit(option.unit)] : []));
  on(slider, set);
  on(exact, set);
  return () => {
    put(slider, get());
    put(exact, get());
  };
}

// One number, or two along x and y.
function pairIn({ option, id, described, head, row, get, set }) {
  const parts = ["", " along y"].map((along, k) => [
    sliderOf(option, k ? `${id}-y` : id, option.label + along, described),
    exactOf(option.low, `${id}-${k}`, option.label + along, described),
  ]);
  const apart = element("input", { type: "checkbox", id: `${id}-pair` });
  const title = "One width for x and another for y";
  head.append(...parts[0], element("label", { class: "check", title }, apart, "xy"));
  const second = element("div", { class: "head" });
  second.append(element("span", { class: "name unit" }, "along y"), ...parts[1], unit(""));
  row.append(second);
  const read = () => [get()].flat();
  parts.forEach((inputs, k) => {
    const store = (value) => {
      const both = read();
      set(both.length === 1 ? value : both.with(k, value));
    };
    for (const input of inputs) on(input, store);
  });
  apart.addEventListener("change", () => set(apart.checked ? [read()[0], read()[0]] : read()[0]));
  return () => {
    const both = read();
    apart.checked = both.length === 2;
    second.hidden = both.length === 1;
    both.forEach((value, k) => parts[k].forEach((input) => put(input, value)));
  };
}

function choiceIn({ option, id, described, head, get, set }) {
  const choices = option.choices.map((one) => new Option(one, one));
  const select = element("select", { id, ...described }, ...choices);
  select.addEventListener("change", () => set(select.value));
  head.append(select);
  return () => {
    select.value = get();
  };
}

function flagIn({ id, described, head, get, set }) {
  const kind = { type: "checkbox", class: "switch", role: "switch" };
  const input = element("input", { id, ...kind, ...described });
  input.addEventListener("change", () => set(input.checked));
  head.append(input);
  return () => {
    input.checked = get();
  };
}

// Null, or a list of one pair whose second number may be null for no bound.
function rangeIn({ id, described, head, get, set }) {
  const low = exactOf(0, id, "above, pixels", described);
  const high = exactOf(0, `${id}-high`, "at most, pixels", described);
  Object.assign(low, { placeholder: "0" });
  Object.assign(high, { placeholder: "∞" });
  head.append(low, unit("to"), high, unit("px"));
  const store = () => {
    const from = low.value === "" ? 0 : low.valueAsNumber;
    const to = high.value === "" ? null : high.valueAsNumber;
    set(from === 0 && to === null ? null : [[from, to]]);
  };
  low.addEventListener("change", store);
  high.addEventListener("change", store);
  return () => {
    const [[from, to]] = get() ?? [[0, null]];
    if (document.activeElement !== low) low.value = from || "";
    if (document.activeElement !== high) high.value = to ?? "";
  };
}

function sliderOf({ low, high, step }, id, label, more) {
  const bounds = { type: "range", min: low, max: high, step };
  return element("input", { ...bounds, id, "aria-label": label, ...more });
}

function exactOf(low, id, label, more) {
  const kind = { type: "number", step: "any", min: low, inputMode: "decimal" };
  return element("input", { ...kind, id, "aria-label": `${label}, exactly`, ...more });
}

function on(input, store) {
  input.addEventListener("input", () => {
    if (Number.isFinite(input.valueAsNumber)) store(input.valueAsNumber);
  });
}

function put(input, value) {
  // Half of a number may have been typed.
  if (document.activeElement === input && input.type === "number") return;
  if (input.valueAsNumber !== value) input.value = value;
  if (input.type === "range") {
    const share = (Number(input.value) - input.min) / (input.max - input.min);
    input.style.setProperty("--share", `${100 * share}%`);
  }
}
