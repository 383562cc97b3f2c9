// The dialog that hands over what is set: a link, Python, JSON, a command.
import { byId, element, toast } from "./dom.js";
import { linkOf } from "./model/link.js";
import { SIDES, state, view } from "./model/state.js";
import { cocoOf, commandOf, jsonOf, needsFile, pythonOf } from "./snippets.js";
import { segment } from "./view/controls.js";

const FORMS = {
  python: ["Python", pythonOf, "Gives the numbers on the page."],
  json: ["JSON", jsonOf, "For POST /v1/masks of a server with --http-port."],
  command: ["Command", commandOf, "For the masks of a whole file; weights are no part of it."],
  link: [
    "Link",
    () => linkOf(),
    "Opens the page as it is; in another playground, paste it. Your own picture is no part of it.",
  ],
};
let form = "python";

export function buildShare() {
  const dialog = byId("share-dialog");
  const code = element("pre", { tabIndex: 0, id: "code", "aria-label": "What to copy" });
  const note = element("p", { class: "hint" });
  const copy = element("button", { type: "button", class: "primary", id: "copy" }, "Copy");
  const file = element("button", { type: "button", id: "download" }, "Download playground.json");
  const forms = element("div", { class: "segments", role: "radiogroup", "aria-label": "As" });
  const sides = element("div", { class: "segments", role: "radiogroup", "aria-label": "Side" });
  let which = "b";
  const show = () => {
    const [, make, words] = FORMS[form];
    code.textContent = make(state.sides[which]);
    code.classList.toggle("wrap", form === "link");
    note.textContent = words;
    sides.hidden = form === "link";
    file.hidden = form !== "command" || !needsFile();
    for (const input of dialog.querySelectorAll("input"))
      input.checked = [form, which].includes(input.value);
  };
  forms.append(
    ...Object.entries(FORMS).map(([key, [words]]) =>
      segment("form", key, words, (value) => {
        form = value;
        show();
      }),
    ),
  );
  sides.append(
    ...SIDES.map((name) =>
      segment(
        "share-side",
        name,
        name.toUpperCase(),
        (value) => {
          which = value;
          show();
        },
        `Side ${name.toUpperCase()}`,
      ),
    ),
  );
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      toast("Copied");
    } catch {
      // not allowed: the reader copies
      getSelection().selectAllChildren(code);
      toast("Selected: copy it with Ctrl C");
    }
  });
  file.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([cocoOf()], { type: "application/json" }));
    element("a", { href: url, download: "playground.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  const close = element("button", { type: "button", "aria-label": "Close" }, "Close");
  close.addEventListener("click", () => dialog.close());
  dialog.append(
    element("h2", { id: "share-title" }, "Copy what is set"),
    element("div", { class: "share-row" }, forms, sides),
    code,
    note,
    element("div", { class: "share-row end" }, file, close, copy),
  );
  byId("share").addEventListener("click", () => {
    which = view.side;
    show();
    dialog.showModal();
  });
}
