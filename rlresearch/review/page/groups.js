/* The shown data: the runs, in columns, and their groups. A live page requests other groups from its server, with
   intervals and claims. A file computes them itself, and then shows only the middle, the worst and the best run of a
   group. */
let data = null; // as received
let view = null; // the shown groups, table, claims, notes, scores, intervals and profile
let rows = []; // the runs that the filter leaves, by place
let groupOf = new Map();
let envs = [];
const courses = new Map(); // of a metric, by its name

const value = (run, key) => (own(data.own, key) ? data.own[key][run] : own(data.shared, key) ? data.shared[key] : null);
const keysOf = (run) => [...Object.keys(data.shared), ...Object.keys(data.own)].filter((key) => known(value(run, key)));
const places = () => Array.from({ length: data.count }, (_, run) => run);
const placeOf = (id) => (data ? data.own.id.indexOf(id) : -1);

/* ---- the filter: as in `rlresearch-review ls` ---- */
const SIGNS = new Map([["=", same], ["==", same], ["!=", (a, b) => !same(a, b)], ["<", (a, b) => a < b], ["<=", (a, b) => a <= b],
  [">", (a, b) => a > b], [">=", (a, b) => a >= b], ["~", matches]]);
function same(a, b) {
  const all = b.startsWith("[") ? [b] : b.split(",");
  return all.some((each) => (known(a) ? String(a) === each || (typeof a === "number" && each.trim() !== "" && a === Number(each))
    : ["null", "none"].includes(each.toLowerCase())));
}
function matches(a, b) {
  try { return new RegExp(b, "i").test(String(a)); } catch { return false; }
}
function fullKey(key) {
  if (own(data.own, key) || own(data.shared, key)) return key;
  const ends = [...Object.keys(data.shared), ...Object.keys(data.own)].filter((name) => name.endsWith(`.${key}`) || name.endsWith(`/${key}`));
  return ends.length === 1 ? ends[0] : key;
}
function test(word) {
  const match = /^([A-Za-z_][\w./@-]*?)(<=|>=|!=|==|=|<|>|~)(.*)$/.exec(word);
  if (!match) return (run) => String(data.own.name[run]).includes(word);
  const [, typed, sign, text] = match, key = fullKey(typed);
  return (run) => {
    const there = value(run, key);
    if (sign.includes("=") && !"<>".includes(sign[0])) return SIGNS.get(sign)(there, text);
    if (!known(there)) return false;
    return SIGNS.get(sign)(there, sign === "~" || typeof there !== "number" ? text : Number(text));
  };
}
function filtered() {
  const tests = (state.get("filter") || "").split(/\s+/).filter(Boolean).map(test);
  return places().filter((run) => tests.every((each) => each(run)));
}

/* ---- other groups, computed in the browser ---- */
const STATISTICS = new Map([["IQM", middle], ["mean", average], ["median", median]]);
function average(values) { return values.reduce((sum, each) => sum + each, 0) / values.length; }
function middle(values) {
  const cut = Math.floor(0.25 * values.length);
  return average([...values].sort((a, b) => a - b).slice(cut, values.length - cut));
}
function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
const short = (key) => key.split(".").slice(/(^|\.)(_target_|id|over|hidden)$/.test(key) ? -2 : -1).join(".");

function regrouped(by) {
  const counted = rows.filter((run) => (state.get("all") === "1" || value(run, "status") === "finished") && Number.isFinite(value(run, "final")));
  const made = by.length ? byKeys(counted, by) : data.groups.map((group) => ({ ...group, runs: group.runs.filter((run) => counted.includes(run)) }));
  const centre = STATISTICS.get(data.statistic);
  const groups = made.filter((group) => group.runs.length).map((group) => {
    const scores = group.runs.map((run) => value(run, "final"));
    return { ...group, scores, centre: centre(scores), low: Math.min(...scores), high: Math.max(...scores) };
  });
  const sign = data.lower ? 1 : -1, left = rows.length - groups.reduce((sum, group) => sum + group.runs.length, 0);
  groups.sort((a, b) => (a.env < b.env ? -1 : a.env > b.env ? 1 : sign * (a.centre - b.centre)));
  return {
    groups, claims: [], scores: groups.map((group) => group.scores), intervals: groups.map((g) => [g.centre, g.low, g.high]),
    table: { head: ["group", "seeds", data.statistic, "worst to best", "mean", "median"], right: [false, true, true, true, true, true],
      rows: groups.map((g) => [g.label, g.runs.length, number(g.centre), `${number(g.low)} to ${number(g.high)}`, number(average(g.scores)), number(median(g.scores))]) },
    notes: ["grouped here, in the file: bands go from the worst run to the best; `rlresearch-review report --by` makes intervals and claims",
      ...(left ? [`left out: ${left} of these runs, not finished or older ones of a seed that is there again`] : [])],
    profile: profiles(groups),
  };
}
function byKeys(runs, by) {
  const found = new Map(), seen = new Set();
  runs.forEach((run) => { // the newest first; of a seed that is there twice the newest counts
    const values = by.map((key) => written(value(run, key))), id = JSON.stringify(values);
    const seed = `${id} ${known(value(run, "seed")) ? value(run, "seed") : `run ${run}`}`;
    if (seen.has(seed)) return;
    seen.add(seed);
    const label = by.map((key, at) => (["algo", "env"].includes(key) ? values[at] : `${short(key)}=${values[at]}`)).join(" ");
    if (!found.has(id)) found.set(id, { label, env: by.includes("env") ? written(value(run, "env")) : "", runs: [] });
    found.get(id).runs.push(run);
  });
  return [...found.values()];
}
function profiles(groups) {
  const made = {};
  new Set(groups.map((group) => group.env)).forEach((env) => {
    const here = groups.filter((group) => group.env === env), all = here.flatMap((group) => group.scores);
    const [low, high] = [Math.min(...all), Math.max(...all)], x = Array.from({ length: 60 }, (_, at) => low + ((high - low) * at) / 59);
    made[env] = { x, y: {} };
    groups.forEach((group, at) => { if (group.env === env) made[env].y[at] = x.map((edge) => group.scores.filter((score) => score > edge).length / group.scores.length); });
  });
  return made;
}
/* Interpolates the curves of several runs at the same x, from where the last begins to where the first ends. */
function aligned(lines) {
  const there = lines.filter((line) => line && line[0].length);
  if (!there.length) return [[], [], [], []];
  const begin = Math.max(...there.map((line) => line[0][0])), end = Math.min(...there.map((line) => line[0][line[0].length - 1]));
  const all = [...new Set(there.flatMap((line) => line[0]))].filter((x) => x >= begin && x <= end).sort((a, b) => a - b);
  const every = Math.max(1, Math.ceil(all.length / 120)), x = all.filter((_, at) => at % every === 0 || at === all.length - 1);
  const columns = there.map((line) => interpolated(line, x)), at = (place) => columns.map((column) => column[place]);
  const centre = STATISTICS.get(data.statistic);
  return [x, x.map((_, place) => centre(at(place))), x.map((_, place) => Math.min(...at(place))), x.map((_, place) => Math.max(...at(place)))];
}
function interpolated([xs, ys], places) {
  let at = 0;
  return places.map((x) => {
    while (at < xs.length - 2 && xs[at + 1] < x) at += 1;
    if (xs.length === 1 || xs[at + 1] === xs[at]) return ys[at];
    const share = Math.min(1, Math.max(0, (x - xs[at]) / (xs[at + 1] - xs[at])));
    return ys[at] + share * (ys[at + 1] - ys[at]);
  });
}

/* ---- what to show now ---- */
function look() {
  rows = filtered();
  const by = (state.get("by") || "").split(",").filter(Boolean);
  const here = !data.mark && data.regroups && (by.length || state.get("filter") || state.get("all") === "1");
  view = here ? regrouped(by) : data;
  envs = [...new Set(view.groups.map((group) => group.env))];
  groupOf = new Map();
  view.groups.forEach((group, at) => group.runs.forEach((run) => groupOf.set(run, at)));
}
/* Returns the curves of a metric, from the file or the server; null where the set of runs has changed meanwhile. */
async function courseOf(name) {
  if (!data.mark) {
    const metric = data.metrics.find((each) => each.name === name);
    return view !== data ? { runs: metric.runs, groups: view.groups.map((group) => aligned(group.runs.map((run) => metric.runs[run]))) } : metric;
  }
  if (!courses.has(name)) courses.set(name, ask("metric.json", { name }).then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({})));
  const found = await courses.get(name);
  return found.shape === data.shape ? found : null;
}
/* On a live page, sends a request to the server, with the current filter and groups. */
function ask(what, words = {}) {
  const wish = { by: state.get("by") || "", filter: state.get("filter") || "", all: state.get("all") || "", ...words };
  return fetch(`${what}?${new URLSearchParams(wish)}`, { credentials: "same-origin" });
}
