/* The charts. Each is drawn when it comes near the visible part of the page, so that a page with thousands of runs
   opens fast. */
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#A6761D"];
const SCALE = ["#3b528b", "#2c6f8e", "#21908d", "#35b779", "#7ad151", "#d8c421", "#f89540"]; // from low to high
const DASHES = ["solid", "dash", "dot", "dashdot"];
const MOST_LINES = 1000, MOST_POINTS = 3000, MOST_RUNNING = 20, MOST_AXES = 8;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (at) => COLOURS[at % COLOURS.length];
const dash = (at) => DASHES[Math.floor(at / COLOURS.length) % DASHES.length];
const clear = (hex, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;

/* element -> the function that draws its chart, until it is drawn */
const waiting = new Map();
const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
  entry.target.near = entry.isIntersecting;
  if (entry.isIntersecting) drawWaiting(entry.target);
}), { rootMargin: "400px" });
function later(place, how) {
  waiting.set(place, how);
  near.observe(place);
  if (place.near) drawWaiting(place);
}
function drawWaiting(place) {
  const how = waiting.get(place);
  waiting.delete(place);
  if (how) how();
}

function draw(place, traces, layout) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
  const narrow = innerWidth < 640;
  const settings = {
    margin: { l: narrow ? 44 : 60, r: narrow ? 10 : 34, t: 12, b: 46 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 }, hovermode: "closest",
    hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--ink") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, uirevision: "kept", ...layout,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--link"), orientation: "v" },
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  const buttons = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  Plotly.react(place, traces, settings, { displaylogo: false, responsive: true, displayModeBar: narrow ? false : "hover", modeBarButtons: buttons });
}
function opens(place) {
  place.removeAllListeners("plotly_click");
  place.on("plotly_click", (event) => { const run = event.points[0].customdata; if (known(run)) openRun(run); });
}

/* ---- learning curves ---- */
function curveTraces(course, env) {
  const traces = [];
  view.groups.forEach((group, at) => {
    if (group.env !== env) return;
    const [x, centre, low, high] = course.groups[at];
    const label = plain(`${group.label} (${group.runs.length})`), shared = { legendgroup: String(at), hoverinfo: "skip", showlegend: false };
    if ($("each").checked) group.runs.forEach((run) => {
      const line = course.runs[run];
      if (line) traces.push({ x: line[0], y: line[1], mode: "lines", line: { color: clear(colour(at), 0.35), width: 1 },
        ...shared, hoverinfo: "text", text: plain(value(run, "name")), customdata: line[0].map(() => run) });
    });
    if ($("band").checked && group.runs.length > 1 && x.length) traces.push({ x: [...x, ...[...x].reverse()],
      y: [...high, ...[...low].reverse()], fill: "toself", fillcolor: clear(colour(at), 0.18), line: { width: 0 }, mode: "lines", ...shared });
    if (x.length) traces.push({ x, y: centre, name: label, mode: x.length > 1 ? "lines" : "markers", legendgroup: String(at),
      line: { color: colour(at), width: 2, dash: dash(at) }, marker: { color: colour(at) }, hovertemplate: `${label}<br>step %{x:,}: %{y:,.4g}<extra></extra>` });
  });
  return [...traces, ...runningTraces(course, env)];
}
/* Running runs are in no group yet, so each is a separate line. */
function runningTraces(course, env) {
  const going = rows.filter((run) => value(run, "status") === "running" && !groupOf.has(run) && course.runs[run]);
  const here = going.filter((run) => env === "" || envs.length < 2 || written(value(run, "env")) === env);
  return here.slice(0, MOST_RUNNING).map((run) => ({ x: course.runs[run][0], y: course.runs[run][1], name: plain(`running: ${value(run, "name")}`), mode: "lines",
    line: { color: css("--busy"), width: 1.5, dash: "dot" }, customdata: course.runs[run][0].map(() => run), hovertemplate: "step %{x:,}: %{y:,.4g}<extra>running</extra>" }));
}
async function drawCurves() {
  const metric = data.metrics.find((each) => each.name === $("metric").value);
  if (!metric) return;
  $("meaning").textContent = metric.meaning ? `${metric.meaning}${metric.unit && metric.unit !== "-" ? `, in ${metric.unit}` : ""}` : "";
  const course = await courseOf(metric.name);
  if (!course || $("metric").value !== metric.name) return;
  panels().forEach(([env, place]) => {
    const traces = curveTraces(course, env);
    place.parentElement.hidden = !traces.length;
    if (!traces.length) return;
    draw(place, traces, { xaxis: { title: { text: "environment steps" } }, yaxis: { title: { text: plain(metric.name) }, type: $("log").checked ? "log" : "linear" } });
    opens(place);
  });
}
const panels = () => [...$("panels").children].map((panel, at) => [envs[at] ?? "", panel.querySelector(".chart")]);

/* ---- scores ---- */
function drawScores(env, strip, profile) {
  const traces = [], here = [...view.groups.keys()].filter((at) => view.groups[at].env === env);
  here.forEach((at) => {
    const group = view.groups[at];
    const y = plain(group.label), [centre, low, high] = view.intervals[at];
    const bar = { type: "scatter", showlegend: false, line: { color: clear(colour(at), 0.35), width: 12 }, hoverinfo: "skip" };
    if (known(low)) traces.push({ ...bar, x: [low, high], y: [y, y], mode: "lines" });
    traces.push({ x: view.scores[at], y: view.scores[at].map(() => y), mode: "markers", marker: { color: colour(at), size: 6, opacity: 0.75 },
      showlegend: false, hovertemplate: "%{x:,.4g}<extra></extra>" });
    traces.push({ x: [centre], y: [y], mode: "markers", marker: { symbol: "line-ns", size: 22, line: { width: 3, color: colour(at) } },
      showlegend: false, hovertemplate: `${plain(data.statistic)} %{x:,.4g}<extra></extra>` });
  });
  later(strip, () => draw(strip, traces, { xaxis: { title: { text: plain(`score: ${data.statistic} and ${view === data ? "interval" : "range"}`) } }, yaxis: { autorange: "reversed", type: "category" } }));
  profile.hidden = here.every((at) => view.scores[at].length < 2);
  if (!profile.hidden) later(profile, () => draw(profile, here.map((at) => ({ x: view.profile[env].x, y: view.profile[env].y[at].map((share) => 100 * share), name: plain(view.groups[at].label),
    mode: "lines", line: { color: colour(at), width: 2, dash: dash(at), shape: "hv" } })),
    { xaxis: { title: { text: "score" } }, yaxis: { title: { text: "runs above it, %" }, range: [-2, 102] } }));
}

/* ---- settings and results ---- */
const wide = (values) => values.length > 1 && values.every((each) => typeof each === "number" && each > 0) && Math.max(...values) / Math.min(...values) >= 30;
const plainValue = (each) => (typeof each === "string" ? plain(each) : typeof each === "boolean" ? String(each) : each);
function drawSettings() {
  const flat = $("kind").value === "scatter";
  $("across-label").hidden = !flat;
  later($("scatter"), () => { (flat ? drawScatter : drawParallel)(); opens($("scatter")); });
}
function drawScatter() {
  const across = $("across").value, up = $("up").value, traces = [];
  const drawn = rows.filter((run) => known(value(run, across)) && known(value(run, up))).slice(0, MOST_POINTS);
  $("cut").textContent = drawn.length === MOST_POINTS ? `the newest ${digits(MOST_POINTS, 0)} runs` : "";
  [...view.groups.keys(), -1].forEach((at) => {
    const runs = drawn.filter((run) => (groupOf.has(run) ? groupOf.get(run) : -1) === at);
    if (runs.length) traces.push({ x: runs.map((run) => plainValue(value(run, across))), y: runs.map((run) => plainValue(value(run, up))), mode: "markers",
      name: plain(at < 0 ? "in no group" : view.groups[at].label), customdata: runs, text: runs.map((run) => plain(value(run, "name"))), hovertemplate: "%{text}<br>%{x}, %{y}<extra></extra>",
      marker: { size: 8, opacity: 0.8, color: at < 0 ? css("--quiet") : colour(at), symbol: at < 0 ? "x" : "circle" } });
  });
  draw($("scatter"), traces, { xaxis: { title: { text: plain(across) }, type: wide(drawn.map((run) => value(run, across))) ? "log" : undefined }, yaxis: { title: { text: plain(up) } } });
}
/* Parallel coordinates as lines: plotly's own chart type evaluates text as code, which the page's policy forbids. */
function drawParallel() {
  const up = $("up").value, keys = [...axes().filter((key) => key !== up), up];
  const drawn = rows.filter((run) => typeof value(run, up) === "number").slice(0, MOST_LINES);
  $("cut").textContent = `coloured from low to high ${up}${drawn.length === MOST_LINES ? `; the newest ${digits(MOST_LINES, 0)} runs` : ""}`;
  const scales = keys.map((key) => axisOf(drawn.map((run) => value(run, key)))), last = scales[scales.length - 1];
  const traces = drawn.map((run) => ({ x: keys.map((_, at) => at), y: keys.map((key, at) => scales[at].place(value(run, key))), mode: "lines+markers", showlegend: false,
    line: { width: 1.2, color: SCALE[Math.min(SCALE.length - 1, Math.floor(last.place(value(run, up)) * SCALE.length))] }, marker: { size: 4 }, opacity: 0.7, customdata: keys.map(() => run),
    hovertemplate: `${plain(value(run, "name"))}<br>${plain(up)} ${plain(number(value(run, up)))}<extra></extra>` }));
  const notes = scales.flatMap((scale, at) => scale.ticks.map(([y, text]) => ({ x: at, y, text: plain(text), showarrow: false, xanchor: at === keys.length - 1 ? "right" : "left", xshift: at === keys.length - 1 ? -5 : 5, yshift: 9, font: { size: 11 } })));
  draw($("scatter"), traces, { annotations: notes, yaxis: { visible: false, range: [-0.06, 1.06] },
    xaxis: { tickvals: keys.map((_, at) => at), ticktext: keys.map((key) => plain(short(key))), showgrid: true, zeroline: false, range: [-0.15, keys.length - 0.85] } });
}
const axes = () => data.varying.filter((key) => new Set(rows.map((run) => written(value(run, key)))).size > 1).slice(0, MOST_AXES);
/* Returns the positions of values on an axis from 0 to 1, and the labels of the axis. */
function axisOf(values) {
  const numbers = values.filter((each) => typeof each === "number");
  if (numbers.length && numbers.length === values.filter(known).length) {
    const log = wide(numbers) ? Math.log10 : (each) => each, low = log(Math.min(...numbers)), high = log(Math.max(...numbers));
    const some = [...new Set(numbers)].sort((a, b) => a - b);
    const place = (each) => (typeof each !== "number" ? null : high > low ? (log(each) - low) / (high - low) : 0.5);
    return { place, ticks: (some.length <= 6 ? some : [some[0], some[some.length - 1]]).map((each) => [place(each), number(each)]) };
  }
  const names = [...new Set(values.map(written))].sort();
  const place = (each) => (names.length > 1 ? names.indexOf(written(each)) / (names.length - 1) : 0.5);
  return { place, ticks: (names.length <= 12 ? names : [names[0], names[names.length - 1]]).map((each) => [place(each), each.length > 24 ? `${each.slice(0, 23)}…` : each]) };
}
