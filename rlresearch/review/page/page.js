"use strict";
/* Draws a report. Whatever comes from runs is put on the page as text, never as HTML; plotly, which reads a little
   HTML in its labels, is given text whose < and & are written out. What a person chose stands in the address, so that
   it can be sent on: #metric=...&filter=...&run=... */
(() => {
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#A6761D"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const ROWS = 200;
  const HEADS = ["name", "status", "algo", "env", "seed", "steps", "final", "best", "duration", "note"];
  const RIGHT = new Set(["seed", "steps", "final", "best", "duration"]);
  const EVERY_MS = 5000;
  const $ = (id) => document.getElementById(id);
  const state = new URLSearchParams(location.hash.slice(1));
  const marked = new Set(); // keys of runs
  let data, envs, places, groupOf;
  function take(given) {
    data = given;
    envs = [...new Set(data.groups.map((group) => group.env))];
    groupOf = new Map();
    data.groups.forEach((group, at) => group.runs.forEach((run) => groupOf.set(run, at)));
  }

  /* ---- small tools ---- */
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
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const known = (value) => value !== null && value !== undefined && value !== "";
  const written = (value) => (known(value) ? String(value) : "-");
  const digits = (value, most) => value.toLocaleString("en-US", { minimumFractionDigits: most, maximumFractionDigits: most });
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
  const SHOWN = { steps: (v) => (known(v) ? digits(v, 0) : "-"), final: number, best: number, duration: clock };
  const shown = (key, value) => (SHOWN[key] ? SHOWN[key](value) : written(value));
  const value = (run, key) => (key in data.runs[run] ? data.runs[run][key] : key in data.own[run] ? data.own[run][key] : data.shared[key]);

  function keep(key, what) {
    if (known(what)) state.set(key, what); else state.delete(key);
    history.replaceState(null, "", `#${state}`);
  }
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

  /* ---- charts ---- */
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (at) => COLOURS[at % COLOURS.length];
  const dash = (at) => DASHES[Math.floor(at / COLOURS.length) % DASHES.length];
  const clear = (hex, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;
  function draw(place, traces, layout) {
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
    const settings = {
      margin: { l: 60, r: 34, t: 12, b: 46 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 }, hovermode: "closest",
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...layout,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--line"), activecolor: css("--link"), orientation: "v" },
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    };
    const quiet = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
    Plotly.react(place, traces, settings, quiet);
  }
  function curveTraces(metric, env) {
    const traces = [];
    data.groups.forEach((group, at) => {
      if (group.env !== env) return;
      const [x, centre, low, high] = metric.groups[at];
      const label = plain(`${group.label} (${group.runs.length})`), own = { legendgroup: String(at), hoverinfo: "skip" };
      if ($("each").checked) group.runs.forEach((run) => {
        const line = metric.runs[run];
        if (line) traces.push({ x: line[0], y: line[1], mode: "lines", line: { color: clear(colour(at), 0.35), width: 1 },
          showlegend: false, ...own, hoverinfo: "text", text: plain(data.runs[run].name), customdata: line[0].map(() => run) });
      });
      if ($("band").checked && group.runs.length > 1 && x.length) traces.push({ x: [...x, ...[...x].reverse()],
        y: [...high, ...[...low].reverse()], fill: "toself", fillcolor: clear(colour(at), 0.18), line: { width: 0 }, mode: "lines", showlegend: false, ...own });
      if (x.length) traces.push({ x, y: centre, name: label, mode: x.length > 1 ? "lines" : "markers", legendgroup: String(at),
        line: { color: colour(at), width: 2, dash: dash(at) }, marker: { color: colour(at) }, hovertemplate: `${label}<br>step %{x:,}: %{y:,.4g}<extra></extra>` });
    });
    return traces;
  }
  function drawCurves() {
    const metric = data.metrics.find((each) => each.name === $("metric").value);
    if (!metric) return;
    $("meaning").textContent = metric.meaning ? `${metric.meaning}${metric.unit && metric.unit !== "-" ? `, in ${metric.unit}` : ""}` : "";
    envs.forEach((env, at) => {
      const traces = curveTraces(metric, env);
      places[at].parentElement.hidden = !traces.length;
      draw(places[at], traces, {
        xaxis: { title: { text: "environment steps" } },
        yaxis: { title: { text: plain(`${metric.name}, ${data.statistic} of seeds`) }, type: $("log").checked ? "log" : "linear" } });
      places[at].removeAllListeners("plotly_click");
      places[at].on("plotly_click", (event) => { const run = event.points[0].customdata; if (known(run)) openRun(run); });
    });
  }
  function drawScores(env, strip, profile) {
    const traces = [], here = [...data.groups.keys()].filter((at) => data.groups[at].env === env);
    here.forEach((at) => {
      const group = data.groups[at];
      const y = plain(group.label), [centre, low, high] = data.intervals[at];
      const one = { type: "scatter", showlegend: false, line: { color: clear(colour(at), 0.35), width: 12 }, hoverinfo: "skip" };
      if (known(low)) traces.push({ ...one, x: [low, high], y: [y, y], mode: "lines" });
      traces.push({ x: data.scores[at], y: data.scores[at].map(() => y), mode: "markers", marker: { color: colour(at), size: 6, opacity: 0.75 },
        showlegend: false, hovertemplate: "%{x:,.4g}<extra></extra>" });
      traces.push({ x: [centre], y: [y], mode: "markers", marker: { symbol: "line-ns", size: 22, line: { width: 3, color: colour(at) } },
        showlegend: false, hovertemplate: `${plain(data.statistic)} %{x:,.4g}<extra></extra>` });
    });
    draw(strip, traces, { xaxis: { title: { text: plain(`score: ${data.statistic} and interval`) } }, yaxis: { autorange: "reversed", type: "category" } });
    profile.hidden = here.every((at) => data.scores[at].length < 2);
    if (!profile.hidden) draw(profile, here.map((at) => ({ x: data.profile[env].x, y: data.profile[env].y[at].map((share) => 100 * share), name: plain(data.groups[at].label),
      mode: "lines", line: { color: colour(at), width: 2, dash: dash(at), shape: "hv" } })),
      { xaxis: { title: { text: "score" } }, yaxis: { title: { text: "runs above it, %" }, range: [-2, 102] } });
  }
  function drawScatter() {
    const across = $("across").value, up = $("up").value, traces = [];
    const groups = [...data.groups.keys(), -1];
    groups.forEach((at) => {
      const runs = data.runs.map((_, run) => run).filter((run) => (groupOf.has(run) ? groupOf.get(run) : -1) === at && known(value(run, across)) && known(value(run, up)));
      if (runs.length) traces.push({ x: runs.map((run) => plainValue(value(run, across))), y: runs.map((run) => plainValue(value(run, up))), mode: "markers",
        name: plain(at < 0 ? "in no group" : data.groups[at].label), customdata: runs, text: runs.map((run) => plain(data.runs[run].name)), hovertemplate: "%{text}<br>%{x}, %{y}<extra></extra>",
        marker: { size: 8, opacity: 0.8, color: at < 0 ? css("--quiet") : colour(at), symbol: at < 0 ? "x" : "circle" } });
    });
    const steps = data.runs.map((_, run) => value(run, across)).filter((each) => typeof each === "number" && each > 0);
    const wide = steps.length > 1 && Math.max(...steps) / Math.min(...steps) >= 30 && data.runs.every((_, run) => !(value(run, across) <= 0));
    draw($("scatter"), traces, { xaxis: { title: { text: plain(across) }, type: wide ? "log" : undefined }, yaxis: { title: { text: plain(up) } } });
    $("scatter").removeAllListeners("plotly_click");
    $("scatter").on("plotly_click", (event) => openRun(event.points[0].customdata));
  }
  const plainValue = (each) => (typeof each === "string" ? plain(each) : typeof each === "boolean" ? String(each) : each);

  /* ---- runs ---- */
  const SIGNS = { "=": (a, b) => same(a, b), "==": (a, b) => same(a, b), "!=": (a, b) => !same(a, b), "<": (a, b) => a < b, "<=": (a, b) => a <= b,
    ">": (a, b) => a > b, ">=": (a, b) => a >= b, "~": (a, b) => String(a).toLowerCase().includes(b.toLowerCase()) };
  const same = (a, b) => b.split(",").some((each) => written(a) === each || (typeof a === "number" && each.trim() !== "" && a === Number(each)) || (!known(a) && each === "null"));
  function test(word) {
    const match = /^([A-Za-z_][\w./@-]*?)(<=|>=|!=|==|=|<|>|~)(.*)$/.exec(word);
    if (!match) return (run) => data.runs[run].name.includes(word);
    const [, key, sign, text] = match;
    return (run) => {
      const there = value(run, key);
      if (sign.includes("=") && !"<>".includes(sign[0])) return SIGNS[sign](there, text);
      if (!known(there)) return false;
      return SIGNS[sign](there, sign === "~" || typeof there !== "number" ? text : Number(text));
    };
  }
  let rows = [], showing = ROWS;
  function choose() {
    const tests = $("filter").value.split(/\s+/).filter(Boolean).map(test);
    rows = data.runs.map((_, run) => run).filter((run) => tests.every((each) => each(run)));
    const sort = state.get("sort");
    if (sort) {
      const key = sort.replace(/^-/, ""), sign = sort.startsWith("-") ? -1 : 1;
      const first = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
      rows.sort((a, b) => { const [x, y] = [value(a, key), value(b, key)]; return known(x) && known(y) ? sign * first(x, y) : known(y) - known(x); });
    }
    showRows();
  }
  function showRows() {
    const heads = [...HEADS.filter((key) => key !== "note" || data.runs.some((run) => run.note)), ...data.varying.filter((key) => !HEADS.includes(key)).slice(0, 8)];
    const sorted = state.get("sort") || "";
    $("table").tHead.replaceChildren(el("tr", {}, el("th", { "aria-label": "marked" }, ""), ...heads.map((key) => {
      const now = sorted.replace(/^-/, "") === key, down = now && !sorted.startsWith("-");
      return el("th", { class: RIGHT.has(key) ? "right" : "", "aria-sort": now ? (down ? "ascending" : "descending") : null },
        el("button", { type: "button", onclick: () => { keep("sort", down ? `-${key}` : key); choose(); } }, `${key}${now ? (down ? " ▲" : " ▼") : ""}`));
    })));
    $("table").tBodies[0].replaceChildren(...rows.slice(0, showing).map((run) => row(run, heads)));
    $("count").textContent = `${digits(rows.length, 0)} of ${digits(data.runs.length, 0)} runs`;
    $("more").hidden = rows.length <= showing;
    $("more").textContent = `show ${digits(Math.min(ROWS, rows.length - showing), 0)} more of ${digits(rows.length - showing, 0)}`;
  }
  function row(run, heads) {
    const mark = el("input", { type: "checkbox", "aria-label": `mark ${data.runs[run].name}`, onclick: (event) => {
      event.stopPropagation();
      if (mark.checked) marked.add(data.runs[run].key); else marked.delete(data.runs[run].key);
      $("differences").disabled = marked.size < 2;
      $("differences").textContent = `differences of ${marked.size} marked`;
    } });
    mark.checked = marked.has(data.runs[run].key);
    const cells = heads.map((key) => {
      const text = shown(key, value(run, key)), at = groupOf.get(run);
      const status = key === "status" && /^[a-z]+$/.test(text) ? text : "";
      const cell = el("td", { class: `${RIGHT.has(key) ? "right" : ""} ${status} ${key === "note" ? "long" : ""}`.trim() });
      if (key === "name" && at !== undefined) { const dot = el("span", { class: "dot", "aria-hidden": "true" }); dot.style.background = colour(at); cell.append(dot); }
      cell.append(document.createTextNode(text));
      return cell;
    });
    const line = el("tr", { class: "open", tabindex: "0" }, el("td", {}, mark), ...cells);
    line.addEventListener("click", () => openRun(run));
    line.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target === line) openRun(run); });
    return line;
  }

  /* ---- one run, and several side by side ---- */
  function openDialog(title, ...children) {
    $("dialog-title").textContent = title;
    $("dialog-body").replaceChildren(...children);
    if (!$("dialog").open) $("dialog").showModal();
  }
  function openRun(run) {
    const about = data.runs[run], chart = el("div", { class: "chart" });
    const facts = ["status", "note", "algo", "env", "seed", "steps", "final", "best", "duration", "started_at", "steps_per_second", "key"];
    const settings = { ...data.shared, ...data.own[run] };
    const keys = Object.keys(settings).filter((key) => !(key in about)).sort();
    const metrics = data.metrics.filter((each) => each.runs[run]);
    const select = el("select", {}, ...metrics.map((each) => el("option", { value: each.name }, each.name)));
    const line = () => {
      const metric = metrics.find((each) => each.name === select.value);
      draw(chart, [{ x: metric.runs[run][0], y: metric.runs[run][1], mode: "lines+markers", marker: { size: 4 }, line: { color: COLOURS[0] } }],
        { xaxis: { title: { text: "environment steps" } }, yaxis: { title: { text: plain(metric.name) } } });
    };
    if (metrics.some((each) => each.name === $("metric").value)) select.value = $("metric").value;
    select.addEventListener("change", line);
    openDialog(about.name, table(["", ""], facts.filter((key) => known(about[key])).map((key) => [key, shown(key, about[key])])),
      ...(run in data.logs ? [el("h2", {}, "End of its log"), el("pre", { tabindex: "0" }, data.logs[run])] : []),
      ...(metrics.length ? [el("p", { class: "controls" }, el("label", {}, "metric ", select)), chart] : []),
      el("details", {}, el("summary", {}, `all ${keys.length} settings and numbers`), table(["key", "value"], keys.map((key) => [key, written(settings[key])]))));
    keep("run", about.key);
    if (metrics.length) line();
  }
  function openDifferences() {
    const runs = data.runs.map((_, run) => run).filter((run) => marked.has(data.runs[run].key));
    const keys = [...new Set(runs.flatMap((run) => Object.keys(data.own[run])))].filter((key) => new Set(runs.map((run) => written(value(run, key)))).size > 1).sort();
    const results = ["status", "final", "best", "steps", "duration"].filter((key) => new Set(runs.map((run) => written(value(run, key)))).size > 1);
    const lines = [...new Set([...results, ...keys])].map((key) => [key, ...runs.map((run) => shown(key, value(run, key)))]);
    openDialog(`Differences of ${runs.length} runs`, table(["key", ...runs.map((run) => data.runs[run].name)], lines));
  }

  /* ---- the page ---- */
  function fill(select, names, chosen) {
    select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  function drawAll() {
    drawCurves();
    const charts = [...$("pairs").querySelectorAll(".chart")];
    envs.forEach((env, at) => drawScores(env, charts[2 * at], charts[2 * at + 1]));
    drawScatter();
  }
  /* What follows from the data: again whenever a live page has new data. */
  function build() {
    places = [];
    $("title").textContent = data.title;
    $("made").textContent = `${digits(data.runs.length, 0)} runs in ${data.groups.length} groups, ${data.made}, rlresearch ${data.version}`;
    for (const id of ["panels", "pairs", "groups", "claims", "notes"]) {
      $(id).querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
      $(id).replaceChildren();
    }
    envs.forEach((env, at) => {
      const head = () => (envs.length > 1 ? [el("h3", {}, env)] : []);
      places[at] = el("div", { class: "chart" });
      $("panels").append(el("div", {}, ...head(), places[at]));
      $("pairs").append(...head(), el("div", { class: "pair" }, el("div", { class: "chart" }), el("div", { class: "chart" })));
    });
    $("groups").append(table(data.table.head, data.table.rows.map((cells, at) => {
      const dot = el("span", { class: "dot", "aria-hidden": "true" }); dot.style.background = colour(at);
      return [el("span", {}, dot, cells[0]), ...cells.slice(1)];
    }), data.table.right));
    data.claims.forEach((each) => $("claims").append(table(each.head, each.rows, each.right)));
    $("notes").append(...data.notes.map((note) => el("li", {}, note)));
    const metrics = data.metrics.map((each) => each.name);
    fill($("metric"), metrics, state.get("metric"));
    fill($("across"), [...data.varying, "seed", "steps", "duration", "steps_per_second", ...metrics], state.get("across"));
    fill($("up"), ["final", "best", "steps_per_second", "duration", ...metrics], state.get("up"));
    choose();
    drawAll();
  }
  /* What is there once: what a person may do. */
  function start() {
    document.querySelectorAll("main > section").forEach((section) => $("nav").append(
      el("button", { type: "button", onclick: () => section.scrollIntoView({ behavior: "smooth" }) }, section.querySelector("h2").textContent)));
    for (const id of ["band", "each", "log"]) {
      if (state.has(id)) $(id).checked = state.get(id) === "1";
      $(id).addEventListener("change", () => { keep(id, $(id).checked ? "1" : "0"); drawCurves(); });
    }
    $("filter").value = state.get("filter") || "";
    $("metric").addEventListener("change", () => { keep("metric", $("metric").value); drawCurves(); });
    for (const id of ["across", "up"]) $(id).addEventListener("change", () => { keep(id, $(id).value); drawScatter(); });
    $("filter").addEventListener("input", () => { keep("filter", $("filter").value); showing = ROWS; choose(); });
    $("more").addEventListener("click", () => { showing += ROWS; showRows(); });
    $("differences").addEventListener("click", openDifferences);
    $("close").addEventListener("click", () => $("dialog").close());
    $("dialog").addEventListener("close", () => keep("run", null));
    document.addEventListener("keydown", (event) => {
      const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);
      if (event.key === "/" && !typing) { event.preventDefault(); $("filter").focus(); }
      const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key], line = document.activeElement?.closest("#table tbody tr");
      if (moves && line && !typing) { event.preventDefault(); (moves > 0 ? line.nextElementSibling : line.previousElementSibling)?.focus(); }
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  }
  /* A page of `serve` asks for what is new; a file has nobody to ask. */
  async function follow() {
    try {
      const answer = document.hidden ? null : await fetch(`data.json?have=${encodeURIComponent(data.mark)}`, { credentials: "same-origin" });
      if (answer && answer.status === 200) { take(await answer.json()); build(); }
      if (answer) $("live").textContent = answer.ok ? "live" : "no longer live: start `serve` again";
    } catch { $("live").textContent = "no longer live: start `serve` again"; }
    setTimeout(follow, EVERY_MS);
  }
  take(JSON.parse($("data").textContent));
  start();
  build();
  const asked = data.runs.findIndex((run) => run.key === state.get("run"));
  if (asked >= 0) openRun(asked);
  if (data.mark) setTimeout(follow, EVERY_MS);
})();
