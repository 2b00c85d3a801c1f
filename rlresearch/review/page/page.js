/* The page: its controls, the URL, the keyboard, and updates of a live page. */
const EVERY_MS = 5000; // or ten times the time of an answer
const CHECKS = ["band", "each", "log"];
let timer = null, wishes = 0, stale = true; // stale: the shown data does not fit the last choices yet

function build() {
  look();
  document.title = data.title;
  $("title").textContent = data.title;
  $("made").textContent = `${digits(data.total, 0)} runs, ${data.made}, rlresearch ${data.version}`;
  const statuses = new Map();
  rows.forEach((run) => statuses.set(value(run, "status"), (statuses.get(value(run, "status")) || 0) + 1));
  $("statuses").replaceChildren(...[...statuses].map(([status, count]) => el("span", { class: `tag ${/^[a-z]+$/.test(status) ? status : ""}` }, `${count} ${status}`)));
  const metrics = data.metrics.map((each) => each.name);
  fill($("metric"), metrics, state.get("metric"));
  fill($("across"), [...new Set([...data.varying, "seed", "steps", "duration", "steps_per_second", ...metrics])], state.get("across"));
  fill($("up"), ["final", "best", "steps_per_second", "duration", ...metrics], state.get("up"));
  buildGroups();
  buildPanels();
  buildVideos();
  $("documented").replaceChildren(table(["metric", "unit", "meaning"], data.metrics.map((each) => [each.name, each.unit, each.meaning])));
  showRows();
  drawAll();
}
function buildGroups() {
  const by = new Set((state.get("by") || "").split(",").filter(Boolean));
  const names = [...new Set(["algo", "env", ...data.varying, ...by])];
  $("by-now").textContent = by.size ? [...by].map(short).join(", ") : "whatever differs";
  $("by-keys").replaceChildren(...names.map((key) => {
    const box = el("input", { type: "checkbox", onchange: () => { if (box.checked) by.add(key); else by.delete(key); wish("by", [...by].join(",")); } });
    box.checked = by.has(key);
    return el("label", {}, box, key);
  }));
  $("groups").replaceChildren(table(view.table.head, view.table.rows.map((cells, at) => {
    const dot = el("span", { class: "dot", "aria-hidden": "true" }); dot.style.background = colour(at);
    return [el("span", {}, dot, cells[0]), ...cells.slice(1)];
  }), view.table.right));
  $("groups").hidden = !view.groups.length;
  $("claims").replaceChildren(...view.claims.map((each) => table(each.head, each.rows, each.right)));
  $("notes").replaceChildren(...(view.groups.length ? [] : [el("li", {}, rows.length ? "no run of these has finished: tick “unfinished too” to compare them as they are" : "no run is meant")]),
    ...view.notes.map((note) => el("li", {}, note)));
}
/* Makes a panel for each environment's charts; existing panels stay, so that the page does not jump. */
function buildPanels() {
  const shownEnvs = envs.length ? envs : [""];
  if ($("panels").dataset.envs === JSON.stringify(shownEnvs)) return;
  $("panels").dataset.envs = JSON.stringify(shownEnvs);
  for (const id of ["panels", "pairs"]) {
    $(id).querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
    $(id).replaceChildren();
  }
  shownEnvs.forEach((env) => {
    const head = () => (shownEnvs.length > 1 ? [el("h3", {}, env)] : []);
    $("panels").append(el("div", {}, ...head(), el("div", { class: "chart" })));
    $("pairs").append(...head(), el("div", { class: "pair" }, el("div", { class: "chart" }), el("div", { class: "chart" })));
  });
}
function buildVideos() {
  const runs = rows.filter((run) => own(data.videos, run) && (data.mark || data.clips?.[run])).slice(0, 12);
  $("videos").hidden = !runs.length;
  if ($("clips").dataset.runs === runs.map((run) => value(run, "id")).join()) return;
  $("clips").dataset.runs = runs.map((run) => value(run, "id")).join();
  $("clips").replaceChildren(...runs.map((run) => {
    const names = data.videos[run];
    const screen = player(data.mark ? `video?run=${value(run, "id")}&at=${names.length - 1}` : `data:video/mp4;base64,${data.clips[run]}`);
    return el("figure", {}, screen, el("figcaption", {}, el("button", { type: "button", onclick: () => openRun(run) }, value(run, "name")), ` ${names[names.length - 1]}`));
  }));
}
function drawAll() {
  later($("panels"), drawCurves);
  const charts = [...$("pairs").querySelectorAll(".chart")];
  envs.forEach((env, at) => drawScores(env, charts[2 * at], charts[2 * at + 1]));
  $("scores").hidden = !envs.length;
  drawSettings();
  document.querySelectorAll("main > section").forEach((section, at) => { $("nav").children[at].hidden = section.hidden; });
}

/* ---- the user's choices ---- */
function wish(key, what) {
  keep(key, what);
  showing = ROWS;
  if (!data.mark) { build(); return; }
  if (key === "filter") { look(); showRows(); } // at once, as far as the page knows; then as the server does
  stale = true;
  clearTimeout(timer);
  timer = setTimeout(follow, key === "filter" ? 250 : 0);
}
function fromAddress() {
  state = new URLSearchParams(location.hash.slice(1));
  for (const id of CHECKS) $(id).checked = state.has(id) ? state.get(id) === "1" : id === "band";
  $("all").checked = state.get("all") === "1";
  $("filter").value = state.get("filter") || "";
  $("kind").value = state.get("kind") || "scatter";
}
function showOpened() {
  const id = state.get("run");
  if (id === "differences" && marked().size > 1) openDifferences();
  else if (placeOf(id) >= 0) openRun(placeOf(id));
  else if ($("dialog").open) $("dialog").close();
}
function start() {
  document.querySelectorAll("main > section").forEach((section) => $("nav").append(
    el("button", { type: "button", onclick: () => section.scrollIntoView({ behavior: "smooth" }) }, section.querySelector("h2").textContent)));
  for (const id of CHECKS) $(id).addEventListener("change", () => { keep(id, $(id).checked ? "1" : "0"); drawCurves(); });
  $("metric").addEventListener("change", () => { keep("metric", $("metric").value); drawCurves(); });
  for (const id of ["across", "up", "kind"]) $(id).addEventListener("change", () => { keep(id, $(id).value); drawSettings(); });
  $("filter").addEventListener("input", () => wish("filter", $("filter").value));
  $("all").addEventListener("change", () => wish("all", $("all").checked ? "1" : null));
  $("by-none").addEventListener("click", () => wish("by", null));
  $("more").addEventListener("click", () => { showing += ROWS; showRows(); });
  $("differences").addEventListener("click", openDifferences);
  $("close").addEventListener("click", () => $("dialog").close());
  $("keys").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  $("dialog").addEventListener("close", () => { opened = null; keep("run", null); $("dialog-body").replaceChildren(); });
  document.addEventListener("keydown", press);
  const again = () => { fromAddress(); stale = true; if (data.mark) follow().then(showOpened); else { build(); showOpened(); } };
  addEventListener("popstate", again);
  addEventListener("beforeprint", () => [...waiting.keys()].forEach(drawWaiting));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.addEventListener("visibilitychange", () => { if (data?.mark && !document.hidden) follow(); });
}
function press(event) {
  const at = document.activeElement, typing = ["INPUT", "SELECT", "TEXTAREA"].includes(at?.tagName) && at.type !== "checkbox";
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const move = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key], line = at?.closest("#table tbody tr");
  if ($("dialog").open) {
    if (opened && ["ArrowRight", "j", "ArrowLeft", "k"].includes(event.key)) { event.preventDefault(); openNext(["ArrowRight", "j"].includes(event.key) ? 1 : -1); }
  } else if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "d" && !$("differences").disabled) openDifferences();
  else if (event.key === "m") { $("metric").selectedIndex = ($("metric").selectedIndex + 1) % $("metric").length; $("metric").dispatchEvent(new Event("change")); }
  else if (move && line) { event.preventDefault(); (move > 0 ? line.nextElementSibling : line.previousElementSibling)?.focus(); }
  else if (event.key === "j") { $("runs").scrollIntoView(); $("table").tBodies[0].rows[0]?.focus(); }
  else if (/^[1-9]$/.test(event.key)) [...$("nav").children].filter((button) => !button.hidden)[Number(event.key) - 1]?.click();
}

/* ---- a live page requests updates; a file has no server ---- */
async function follow() {
  clearTimeout(timer);
  const mine = ++wishes, began = performance.now();
  try {
    const asked = early || (document.hidden && data ? null : ask("data.json", { have: stale ? "" : data?.mark || "" }));
    early = null;
    const answer = await asked;
    if (mine !== wishes) return;
    if (answer) await taken(answer);
  } catch { $("live").textContent = "no longer live: start `serve` again"; }
  timer = setTimeout(follow, Math.max(EVERY_MS, 10 * (performance.now() - began)));
}
async function taken(answer) {
  const got = answer.status === 204 ? null : await answer.json().catch(() => ({ problem: "no longer live: start `serve` again" }));
  $("problem").textContent = got?.problem || "";
  if (answer.ok) $("live").textContent = "live";
  else if (answer.status !== 422) $("live").textContent = "no longer live: start `serve` again";
  if (!answer.ok || !got) return;
  stale = false;
  data = got;
  courses.clear();
  build();
  const run = placeOf(opened);
  if (opened && run >= 0 && value(run, "status") === "running" && !$("dialog").querySelector("video")) openRun(run);
}

/* This comes before plotly's script, which takes a second to load; the first request runs meanwhile. */
fromAddress();
const given = JSON.parse($("data").textContent);
let early = given ? null : ask("data.json");
early?.catch(() => {});
addEventListener("DOMContentLoaded", () => {
  start();
  if (given) { data = given; build(); showOpened(); } else { $("live").textContent = "reading runs …"; follow().then(() => { if (data) showOpened(); }); }
});
