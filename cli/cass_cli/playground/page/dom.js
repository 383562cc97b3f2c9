// Elements made and found. All text goes in as text: a file's name may hold anything.
export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function icon(name) {
  return shape("svg", { class: "icon", "aria-hidden": "true" }, shape("use", { href: `#${name}` }));
}

// A function that calls another once things have been quiet for a while.
export function quiet(milliseconds, action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const number = (value, digits = 3) => value.toFixed(digits).replace("-", "−");

let spoken = 0;

// Said to a screen reader, the same words twice too.
export function say(text) {
  byId("live").textContent = text + (spoken++ % 2 ? "\u00a0" : "");
}

export function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.classList.add("shown");
  hide();
}

const hide = quiet(3500, () => byId("toast").classList.remove("shown"));
