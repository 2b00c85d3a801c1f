/* Text, numbers and elements. Data of runs is put on the page as text, never as HTML. Plotly reads some HTML in its
   labels, so it gets text in which < and & are escaped. */
const $ = (id) => document.getElementById(id);
const own = (object, key) => Object.hasOwn(object, key);
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const known = (value) => value !== null && value !== undefined && value !== "";
const written = (value) => (known(value) ? String(value) : "-");
const digits = (value, most) => value.toLocaleString("en-US", { minimumFractionDigits: most, maximumFractionDigits: most });

function el(tag, about = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(about)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return made;
}

function number(value) {
  if (typeof value !== "number") return written(value);
  if (value !== 0 && Math.abs(value) < 1) return String(Number(value.toPrecision(3)));
  return digits(value, 1);
}

function clock(seconds) {
  if (typeof seconds !== "number") return "-";
  const whole = Math.round(seconds), two = (part) => String(part).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const moment = (text) => (typeof text === "string" ? text.slice(0, 16).replace("T", " ") : "-");
const whole = (value) => (typeof value === "number" ? digits(value, 0) : written(value));
const SHOWN = new Map([["steps", whole], ["total_steps", whole], ["steps_per_second", whole], ["final", number], ["best", number],
  ["duration", clock], ["wall_time_s", clock], ["training_time_s", clock], ["started_at", moment], ["finished_at", moment]]);
const RIGHT = new Set(["seed", "steps", "final", "best", "duration", "steps_per_second", "total_steps"]);
const shown = (key, value) => (SHOWN.get(key) ?? (key.includes("/") ? number : written))(value);

function table(head, rows, right = []) {
  const cells = (tag, row) => row.map((cell, at) => {
    const text = cell instanceof Node ? cell.textContent : String(cell);
    const names = [right[at] ? "right" : "", text.length > 60 ? "long" : "", ["better", "worse"].includes(text) ? text : ""];
    return el(tag, { class: names.join(" ").trim() }, cell);
  });
  return el("div", { class: "wide" }, el("table", {},
    ...(head.some(Boolean) ? [el("thead", {}, el("tr", {}, ...cells("th", head)))] : []),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells("td", row))))));
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
}

/* The user's choices are in the URL, so that it can be shared: #metric=...&filter=...&run=... */
let state = new URLSearchParams(location.hash.slice(1));
function keep(key, what, step = false) {
  if (known(what)) state.set(key, what); else state.delete(key);
  const address = String(state) ? `#${state}` : location.pathname + location.search;
  if (step) history.pushState(null, "", address); else history.replaceState(null, "", address);
}
