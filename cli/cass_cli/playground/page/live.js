// Asks for the masks of what is set: one call a side at a time, the newest wish next.
import { byId, number, quiet, say } from "./dom.js";
import { Away, getInfo, getMasks, requestOf } from "./model/api.js";
import { cellsOf, change, config, SIDES, state } from "./model/state.js";
import { showError } from "./view/controls.js";
import { panes, setResult } from "./view/panes.js";
import { summaryOf } from "./view/readout.js";

const FIRST_PAUSE = 500,
  LONGEST_PAUSE = 4000; // milliseconds between tries
const SLOW = 800; // a call that takes longer is shown as one that waits
const sides = Object.fromEntries(
  SIDES.map((name) => [name, { busy: false, wanted: "", got: "", error: null }]),
);
let pause = FIRST_PAUSE,
  isAway = false,
  retry = 0,
  server = ""; // its device and version, once they are known

export function update() {
  if (!state.size[0]) return;
  for (const name of SIDES) {
    const side = sides[name];
    const { spec } = state.sides[name];
    side.wanted = JSON.stringify(requestOf(state, state.sides[name]));
    side.about = {
      size: state.size,
      cells: cellsOf(),
      boxes: state.boxes.length,
      patchSize: spec.patch_size,
      owners: spec.merge === "max",
    };
    if (!isAway) send(name);
  }
  showErrors();
}

async function send(name) {
  const side = sides[name],
    { wanted, about } = side;
  if (side.busy || wanted === side.got) return;
  side.busy = true;
  panes[name].root.setAttribute("aria-busy", "true");
  panes.d.root.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => setStatus("slow", "Waiting for the server"), SLOW);
  try {
    const answer = await getMasks(JSON.parse(wanted), about.owners);
    let most = 0,
      mostWeight = 0;
    for (const value of answer.mask.values) most = Math.max(most, value);
    for (const value of answer.weights.values) mostWeight = Math.max(mostWeight, value);
    const owned = answer.owner && new Set(answer.owner.values);
    owned?.delete(-1);
    side.got = wanted;
    side.error = null;
    setResult(name, { ...answer, ...about, most, mostWeight, owned });
    cameBack();
    showTime(answer);
    settled();
  } catch (error) {
    if (error instanceof Away) wentAway(error);
    else {
      side.got = wanted; // the same words again would be answered the same
      side.error = error;
      if (!("field" in error)) console.error(error);
    }
  } finally {
    clearTimeout(slow);
    side.busy = false;
    const done = side.got === side.wanted;
    panes[name].root.setAttribute("aria-busy", String(!done));
    panes.d.root.setAttribute(
      "aria-busy",
      String(!SIDES.every((one) => sides[one].got === sides[one].wanted)),
    );
    if (!isAway) send(name);
    change();
  }
}

function showErrors() {
  const { a, b } = sides;
  const open = [
    ["A", a.error],
    ["B", b.error],
  ].filter(([, error]) => error);
  const found = open.find(([name]) => name.toLowerCase() === byId("options").dataset.side);
  showError(found?.[1] ?? null);
  for (const name of SIDES)
    panes[name].root.classList.toggle("stale", Boolean(sides[name].error) || isAway);
  panes.d.root.classList.toggle("stale", Boolean(a.error || b.error) || isAway);
  if (isAway) return;
  const banner = byId("banner"),
    words = open.map(([name, error]) => `${name}: ${error.message}`).join(" · ");
  if (banner.textContent !== words) banner.textContent = words;
  banner.className = "refused";
  banner.hidden = !open.length;
}

function wentAway(error) {
  clearTimeout(retry);
  retry = setTimeout(again, pause);
  pause = Math.min(pause * 1.6, LONGEST_PAUSE);
  isAway = true;
  setStatus("away", "No answer");
  const words = `${error.message} What you set is kept; it is tried again.`;
  const banner = byId("banner");
  if (banner.textContent !== words) banner.textContent = words;
  banner.className = "away";
  banner.hidden = false;
}

// One side asks first: the other follows once it is answered.
function again() {
  isAway = false;
  const name = SIDES.find((one) => sides[one].got !== sides[one].wanted);
  if (name) return send(name);
  return cameBack();
}

function cameBack() {
  pause = FIRST_PAUSE;
  if (byId("status").dataset.state === "live") return;
  isAway = false;
  showLive();
  byId("banner").hidden = true;
  learn();
  for (const name of SIDES) send(name);
}

// Version and device, which another server that came back may have others of.
export async function learn() {
  try {
    const info = await getInfo();
    server = ` · ${info.device} · ${info.version}`;
    if (byId("status").dataset.state === "live") showLive();
  } catch {
    /* the next mask tells */
  }
}

function showLive() {
  setStatus("live", (config.target === "local:" ? "In this process" : config.target) + server);
}

function setStatus(kind, words) {
  byId("status").dataset.state = kind;
  if (byId("status-text").textContent !== words) byId("status-text").textContent = words;
}

function showTime({ milliseconds, timings }) {
  byId("time").textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
  const parts = timings
    .split(",")
    .map((part) => part.trim().split(";dur="))
    .filter(([, time]) => time);
  byId("time").title = [
    "Time of the last call, there and back.",
    ...parts.map(([name, time]) => `${name}: ${number(Number(time), 2)} ms`),
  ].join("\n");
}

const settled = quiet(900, () => {
  const words = SIDES.map(
    (name) => panes[name].result && `${name.toUpperCase()}: ${summaryOf(panes[name])}`,
  );
  say(words.filter(Boolean).join(". "));
});
