// Undo: a snapshot for each thing done, the newest of which is in the page's address.
import { quiet } from "../dom.js";
import { linkOf, restored, snapshot } from "./link.js";

const MOST = 100;
let past = []; // snapshots
let at = -1; // the one that is shown
let announce = () => {};

// Called with whether there is something to undo, and to do again.
export function onHistory(listener) {
  announce = () => listener(at > 0, at < past.length - 1);
}

// What is done by now is one step.
export function commit() {
  const text = snapshot();
  if (text === past[at]) return;
  past = [...past.slice(Math.max(0, at + 1 - MOST), at + 1), text];
  at = past.length - 1;
  show();
}

// A slider that comes to rest is one step too.
export const remember = quiet(300, commit);

// The state before the last step, or after the next one; null if there is none.
export function travel(by) {
  if (!(at + by in past)) return null;
  at += by;
  show();
  return restored(past[at]);
}

function show() {
  history.replaceState(null, "", linkOf(past[at]));
  announce();
}
