/* The table of runs, the details of one run, and the comparison of several runs. */
const ROWS = 200;
const HEADS = ["name", "status", "algo", "env", "seed", "steps", "final", "best", "duration", "note"];
const FACTS = ["status", "note", "algo", "env", "seed", "steps", "final", "best", "duration", "started_at", "steps_per_second", "device", "host", "key"];
let showing = ROWS;
const marked = () => new Set((state.get("marked") || "").split(",").filter(Boolean));

function sorted() {
  const sort = state.get("sort");
  if (!sort) return rows;
  const key = sort.replace(/^-/, ""), sign = sort.startsWith("-") ? -1 : 1;
  const first = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
  return [...rows].sort((a, b) => { const [x, y] = [value(a, key), value(b, key)]; return known(x) && known(y) ? sign * first(x, y) : known(y) - known(x); });
}
function showRows() {
  const held = document.activeElement?.closest("#table tbody tr")?.dataset.run;
  const heads = [...HEADS.filter((key) => key !== "note" || rows.some((run) => known(value(run, "note")))), ...data.varying.filter((key) => !HEADS.includes(key)).slice(0, 8)];
  const sort = state.get("sort") || "";
  $("table").tHead.replaceChildren(el("tr", {}, el("th", {}, el("span", { class: "hear" }, "marked")), ...heads.map((key) => {
    const now = sort.replace(/^-/, "") === key, down = now && !sort.startsWith("-");
    return el("th", { class: RIGHT.has(key) ? "right" : "", "aria-sort": now ? (down ? "ascending" : "descending") : null },
      el("button", { type: "button", onclick: () => { keep("sort", down ? `-${key}` : key); showRows(); } }, `${key}${now ? (down ? " ▲" : " ▼") : ""}`));
  })));
  const ordered = sorted(), marks = marked();
  $("table").tBodies[0].replaceChildren(...ordered.slice(0, showing).map((run) => row(run, heads, marks)));
  if (held) [...$("table").tBodies[0].rows].find((line) => line.dataset.run === held)?.focus({ preventScroll: true });
  $("count").textContent = `${digits(rows.length, 0)} of ${digits(data.total, 0)} runs`;
  $("more").hidden = rows.length <= showing;
  $("more").textContent = `show ${digits(Math.min(ROWS, rows.length - showing), 0)} more of ${digits(rows.length - showing, 0)}`;
  showMarks();
}
function showMarks() {
  const count = places().filter((run) => marked().has(value(run, "id"))).length;
  $("differences").disabled = count < 2;
  $("differences").textContent = count < 2 ? "mark two runs to see their differences" : `differences of ${count} marked`;
}
function mark(id, yes) {
  const marks = marked();
  if (yes) marks.add(id); else marks.delete(id);
  keep("marked", [...marks].join(","));
  showMarks();
}
function row(run, heads, marks) {
  const id = value(run, "id"), box = el("input", { type: "checkbox", "aria-label": `mark ${value(run, "name")}`, onclick: (event) => {
    event.stopPropagation();
    mark(id, box.checked);
  } });
  box.checked = marks.has(id);
  const cells = heads.map((key) => {
    const text = shown(key, value(run, key)), at = groupOf.get(run);
    const status = key === "status" && /^[a-z]+$/.test(text) ? text : "";
    const cell = el("td", { class: `${RIGHT.has(key) ? "right" : ""} ${status} ${key === "note" ? "long" : ""}`.trim() });
    if (key === "name" && at !== undefined) { const dot = el("span", { class: "dot", "aria-hidden": "true" }); dot.style.background = colour(at); cell.append(dot); }
    cell.append(document.createTextNode(text));
    return cell;
  });
  const line = el("tr", { class: "open", tabindex: "0", "data-run": id }, el("td", {}, box), ...cells);
  line.addEventListener("click", () => openRun(run));
  line.addEventListener("keydown", (event) => {
    if (event.target !== line) return;
    if (event.key === "Enter") { event.preventDefault(); openRun(run); } // or it would press the button that gets the focus
    if (event.key === "x" || event.key === " ") { event.preventDefault(); box.checked = !box.checked; mark(id, box.checked); }
  });
  return line;
}

/* ---- dialogs ---- */
let opened = null; // the id of the run that is shown
function openDialog(title, ...children) {
  $("dialog-body").querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...children);
  if (!$("dialog").open) $("dialog").showModal();
  $("dialog").scrollTop = 0;
}
function openRun(run) {
  const id = value(run, "id");
  const curve = el("div", { class: "chart" }), episodes = el("div", { class: "chart low" });
  const select = el("select", { "aria-label": "metric", onchange: () => drawRun(run, found, select.value, curve) });
  const keys = keysOf(run).filter((key) => !FACTS.includes(key) && key !== "id").sort();
  const log = own(data.logs, run) ? [el("h2", {}, "End of its log"), el("pre", { tabindex: "0" }, data.logs[run])] : [];
  const charts = el("div", { hidden: "" }, el("p", { class: "controls" }, el("label", {}, "metric ", select)), curve, el("p", { class: "quiet", id: "run-meaning" }), el("h2", {}, "Evaluations"), episodes);
  openDialog(written(value(run, "name")), table(["", ""], FACTS.filter((key) => known(value(run, key))).map((key) => [key, shown(key, value(run, key))])),
    ...log, charts, ...videosOf(run), el("details", {}, el("summary", {}, `all ${keys.length} settings and numbers`), table(["key", "value"], keys.map((key) => [key, written(value(run, key))]))));
  if (opened !== id) keep("run", id, true);
  opened = id;
  let found = null;
  closely(run).then((got) => {
    found = got;
    const names = Object.keys(found.metrics).filter((name) => found.metrics[name][0].length);
    if (opened !== id || !names.length) return;
    charts.hidden = false;
    fill(select, names, $("metric").value);
    drawRun(run, found, select.value, curve);
    drawEvaluations(found.evaluations, episodes);
  });
}
function drawRun(run, found, name, place) {
  const [x, y] = found.metrics[name], about = data.metrics.find((each) => each.name === name);
  $("run-meaning").textContent = about?.meaning ? `${about.meaning}${about.unit && about.unit !== "-" ? `, in ${about.unit}` : ""}` : "";
  draw(place, [{ x, y, mode: x.length > 150 ? "lines" : "lines+markers", marker: { size: 4 }, line: { color: COLOURS[0] } }],
    { xaxis: { title: { text: "environment steps" } }, yaxis: { title: { text: plain(name) }, type: $("log").checked ? "log" : "linear" } });
}
function drawEvaluations(rows, place) {
  place.previousElementSibling.hidden = place.hidden = !rows.length;
  if (!rows.length) return;
  const dots = rows.flatMap(([step, , returns]) => returns.map((each) => [step, each]));
  draw(place, [
    { x: dots.map(([x]) => x), y: dots.map(([, y]) => y), mode: "markers", name: "an episode", marker: { color: COLOURS[1], size: 4, opacity: 0.5 } },
    { x: rows.map(([step]) => step), y: rows.map(([, , returns]) => average(returns.filter(known))), mode: "lines+markers", name: "mean", line: { color: COLOURS[0] }, marker: { size: 5 } },
  ], { xaxis: { title: { text: "environment steps" } }, yaxis: { title: { text: "return of an episode" } } });
}
/* Returns the curves and the evaluations of a run. A live page requests them; a file has curves with fewer points. */
async function closely(run) {
  if (data.mark) {
    const answer = await ask("run.json", { run: value(run, "id") });
    return answer.ok ? answer.json() : { metrics: {}, evaluations: [] };
  }
  const metrics = Object.fromEntries(data.metrics.filter((each) => each.runs[run]).map((each) => [each.name, each.runs[run]]));
  return { metrics, evaluations: data.episodes[run] || [] };
}
function videosOf(run) {
  const names = data.videos[run] || [], clip = data.clips?.[run];
  if (!names.length) return [];
  if (!data.mark) return clip ? [el("h2", {}, `Video: ${names[names.length - 1]}`), player(`data:video/mp4;base64,${clip}`)]
    : [el("p", { class: "quiet" }, `${names.length} videos are in its folder: \`report --videos\` puts the newest into the file, \`serve\` shows all.`)];
  const last = names.length - 1, screen = player(`video?run=${value(run, "id")}&at=${last}`);
  const select = el("select", { "aria-label": "video", onchange: () => { screen.src = `video?run=${value(run, "id")}&at=${select.selectedIndex}`; } }, ...names.map((name) => el("option", {}, name)));
  select.selectedIndex = last;
  return [el("h2", {}, "Videos"), el("p", { class: "controls" }, select), screen];
}
const player = (src) => el("video", { controls: "", preload: "metadata", playsinline: "", muted: "", loop: "", src });

function openDifferences() {
  const marks = marked(), runs = places().filter((run) => marks.has(value(run, "id")));
  const differ = (key) => new Set(runs.map((run) => written(value(run, key)))).size > 1;
  const results = ["status", "final", "best", "steps", "duration"].filter(differ);
  const others = Object.keys(data.own).filter((key) => !["id", "key", "name", ...results].includes(key) && differ(key)).sort((a, b) => Number(a.includes("/")) - Number(b.includes("/")) || (a < b ? -1 : 1));
  opened = null;
  openDialog(`Differences of ${runs.length} runs`, table(["key", ...runs.map((run) => written(value(run, "name")))], [...results, ...others].map((key) => [key, ...runs.map((run) => shown(key, value(run, key)))])));
  keep("run", "differences", true);
}
/* Opens the next run in the order of the table. */
function openNext(by) {
  const ordered = sorted(), at = ordered.indexOf(placeOf(opened));
  if (at >= 0 && ordered[at + by] !== undefined) openRun(ordered[at + by]);
}
