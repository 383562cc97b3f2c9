// The table of boxes and regions.
import { byId, element, icon } from "../dom.js";
import { removeSelected } from "../model/items.js";
import { change, state, view } from "../model/state.js";

let listed = "";

export function drawBoxes() {
  const body = document.querySelector("#boxes tbody");
  const items = [
    ...state.boxes.map((item, index) => ({
      kind: "boxes",
      index,
      item,
      name: item.label || "box",
    })),
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
  const select = element(
    "button",
    { type: "button", class: "quiet", title: "Select" },
    kind === "boxes" ? `${index + 1} ${name}` : name,
  );
  select.addEventListener("click", () =>
    change((_, v) => {
      v.selected = { kind, index };
    }),
  );
  const cells = ["x1", "y1", "x2", "y2"].map((label, k) =>
    numberCell(
      `${label} of ${name} ${index + 1}`,
      (value) => {
        itemOf(kind, index).xyxy[k] = value;
      },
      kind,
      index,
    ),
  );
  if (kind === "boxes")
    cells.push(
      numberCell(
        `weight of ${name} ${index + 1}`,
        (value) => {
          itemOf(kind, index).weight = value;
        },
        kind,
        index,
      ),
    );
  else cells.push(element("td"));
  const remove = element(
    "button",
    {
      type: "button",
      class: "square quiet",
      "aria-label": `Remove ${name} ${index + 1}`,
      title: "Remove",
    },
    icon("i-trash"),
  );
  remove.addEventListener("click", () => {
    view.selected = { kind, index };
    removeSelected();
  });
  return element(
    "tr",
    { class: kind },
    element("th", { scope: "row" }, select),
    ...cells,
    element("td", {}, remove),
  );
}

function numberCell(label, store, kind, index) {
  const input = element("input", { type: "number", step: "any", "aria-label": label });
  input.addEventListener("input", () => {
    if (Number.isFinite(input.valueAsNumber)) change(() => store(input.valueAsNumber));
  });
  input.addEventListener("focus", () =>
    change((_, v) => {
      v.selected = { kind, index };
    }),
  );
  return element("td", {}, input);
}
