"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = s => document.querySelector(s);
const GLYPHS = ["✓", "≠", "✗", "–", "·"], WORST = [2, 1, 0, 3], NONE = 4;
const CLASSES = [...D.words, "untested"], many = D.hosts.length > 1, HOSTS = 25;
const state = { words: "", verdict: -1, level: "", column: -1, host: -1 };
const key = c => String.fromCharCode(65 + c % 26) + (c < 26 ? "" : Math.floor(c / 26));
const plural = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");

/* h("a.link", {href}, kids...): an element; strings become text, never markup. */
function h(what, props, ...kids) {
  const [tag, ...classes] = what.split("."), e = document.createElement(tag);
  if (classes.length) e.className = classes.join(" ");
  for (const [k, v] of Object.entries(props || {}))
    if (k.startsWith("on")) e[k] = v; else if (v !== false && v != null) e.setAttribute(k, v);
  e.append(...kids.flat(3).filter(k => k != null && k !== ""));
  return e;
}
const IDS = new Set(D.rows.map(r => r.id));
const ids = text => text.split(/\b([A-Z]+-\d{3})\b/).map(s => IDS.has(s) ? h("a", { href: "#" + s }, s) : s);
const stress = text => text.split(/\*([^*\s]+)\*/).map((s, i) => i % 2 ? h("em", null, s) : ids(s));
const words = text => text.split("`").map((s, i) => i % 2 ? h("code", null, s) : stress(s));
const more = (title, ...kids) => h("details.more", null, h("summary", null, title), ...kids);

/* Verdicts: of one host, or the worst of all. A group is [verdict, tests, ranges of hosts]. */
const has = (ranges, host) => {
  for (let i = 0; i < ranges.length; i += 2) if (ranges[i] <= host && host <= ranges[i + 1]) return true;
  return false;
};
const size = ranges => { let n = 0; for (let i = 0; i < ranges.length; i += 2) n += ranges[i + 1] - ranges[i] + 1; return n; };
const groups = (row, c) => row.cells[c].filter(g => state.host < 0 || !many || has(g[2], state.host))
  .sort((a, b) => WORST.indexOf(a[0]) - WORST.indexOf(b[0]));
function verdict(row, c) {
  const found = groups(row, c);
  for (const w of WORST) for (const g of found) if (g[0] === w) return w;
  return NONE;
}
function spread(row, c) {  /* verdict -> hosts */
  const n = [0, 0, 0, 0];
  for (const g of row.cells[c]) n[g[0]] += many ? size(g[2]) : 1;
  return n;
}
const shown = () => state.column < 0 ? D.columns.map((_, c) => c) : [state.column];
function counts(c, family) {
  const n = [0, 0, 0, 0, 0];
  for (const row of D.rows) if (!family || row.family === family) n[verdict(row, c)]++;
  return n;
}
const bar = n => h("span.bar", { "aria-hidden": "true" },
  n.slice(0, 4).map((k, v) => k ? h("i." + CLASSES[v], { style: `flex:${k}` }) : null));
const number = (n, v, label) => h("span.n." + CLASSES[v] + (n ? "" : ".zero"),
  { title: `${n} ${D.labels[v]}` }, GLYPHS[v] + " " + n, label ? " " + D.labels[v] : "");
const pill = v => h("span.pill." + CLASSES[v], null, GLYPHS[v] + " " + D.labels[v]);
const pools = f => Object.entries(f.pools || {}).map(([s, p]) => `${p.total} × ${s}`).join(", ") || "no hugepages";

/* Head */
function head() {
  document.title = D.title;
  $("h1").textContent = D.title;
  const f = D.hosts[0], tested = D.rows.filter(r => r.test).length;
  const said = [plural(D.rows.length, "requirement")];
  if (many) said.push(plural(D.hosts.length, "host"));
  else if (f) said.push(f.name, "kernel " + f.kernel, [f.cpu || f.machine, plural(f.cpus || 1, "CPU")].join(", "),
    plural(f.nodes || 1, "node"), pools(f), f.uid ? "uid " + f.uid : "root");
  if (!D.columns.length) said.push(`${tested} with a test`);
  const last = D.runs.map(r => r[2]).sort().pop();
  if (last) said.push(last.slice(0, 16).replace("T", " "));
  const revisions = [...new Set(D.runs.map(r => r[3]).filter(Boolean))];
  if (revisions.length) said.push((revisions.length > 1 ? "revisions " : "revision ") + revisions.slice(0, 3).join(", "));
  $(".sub").textContent = said.join(" · ");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("#theme").onclick = () => {
    const root = document.documentElement.style;
    root.colorScheme = (root.colorScheme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
  };
}

function targets() {
  if (!D.columns.length) return;
  const all = D.columns.map((_, c) => counts(c)), sum = v => all.reduce((n, k) => n + k[v], 0);
  const bad = sum(2), broken = D.columns.some(c => c.broken.length);
  const news = $("#news");
  news.className = "n " + (bad || broken ? "failed" : "passed");
  news.style.whiteSpace = "normal";
  const failing = D.rows.filter(row => shown().some(c => verdict(row, c) === 2)).length;
  news.replaceChildren(bad ? h("a", { href: "#filters", onclick: () => { state.verdict = 2; filter(); } },
    `✗ ${plural(failing, "requirement")} failed`) : broken ? "✗ a run is broken" : "✓ nothing unexpected");
  const open = new Set([...document.querySelectorAll(".target[open]")].map(e => e.dataset.c));
  $("#targets").hidden = false;
  $("#targets").replaceChildren(h("h2", null, "Targets"), ...D.columns.map((col, c) => {
    const runs = D.runs.filter(r => r[1] === c && (state.host < 0 || r[0] === state.host)), n = all[c];
    const took = runs.reduce((s, r) => s + r[4], 0), tests = runs.reduce((s, r) => s + r[5], 0);
    return h("details.target", { "data-c": c, open: open.has(String(c)) ? "" : false },
      h("summary", null, h("span.t", null, h("span.key", null, key(c)), " ", h("b", null, col.name),
        " ", col.name.includes(col.release) ? "" : h("span.dim", null, col.release)),
        bar(n), h("span.counts", null, [0, 1, 2, 3].map(v => number(n[v], v, v !== 0 ? "" : true)))),
      h("div", null,
        h("p.dim", null, `${plural(tests, "test")} in ${took < 600 ? Math.round(took) + " s" : Math.round(took / 60) + " min"}`,
          runs.length === 1 ? `, ${runs[0][2].slice(0, 16).replace("T", " ")}` : `, ${plural(runs.length, "run")}`),
        col.built.map(w => h("p.dim", null, w)),
        col.broken.map(w => h("p.n.failed", { style: "white-space:normal" }, w)),
        col.why.length ? [h("p", null, "Could not run, on any host:".replace(", on any host", many ? ", on any host" : "")),
          h("ul.plain", null, col.why.map(([k, w]) => h("li", null, h("span.n.skipped", null, k + " × "), w)))] : null));
  }));
}

const FAMILIES = [...new Set(D.rows.map(r => r.family))];
function families() {
  if (!D.columns.length || D.rows.length < 12) return;
  const cell = n => n.slice(0, 4).some(Boolean)
    ? h("td", null, [0, 1, 2, 3].filter(v => n[v]).map(v => number(n[v], v)), bar(n)) : h("td");
  const line = (name, f) => h("tr" + (f ? "" : ".total"), null, h("td", null, name), D.columns.map((_, c) => cell(counts(c, f))));
  const link = f => h("a", { href: "#family-" + f }, f);
  $("#families").hidden = false;
  $("#families").replaceChildren(h("h2", null, "Families"), h("div.wide", { tabindex: 0 }, h("table", null,
    h("thead", null, h("tr", null, h("th", null, "family"), D.columns.map((col, c) =>
      h("th", null, h("span.key", null, key(c)), " ", col.name)))),
    h("tbody", null, FAMILIES.filter(f => D.rows.some(r => r.family === f && r.cells.some(c => c.length))).map(f => line(link(f), f)), line("total", "")))));
}

let hostsShown = HOSTS;
function hosts() {
  if (!many) return;
  const n = D.hosts.map(() => [0, 0, 0, 0]);
  for (const row of D.rows) for (const cell of row.cells) for (const g of cell)
    for (let i = 0; i < g[2].length; i += 2) for (let k = g[2][i]; k <= g[2][i + 1]; k++) n[k][g[0]]++;
  const order = [...n.keys()].sort((a, b) => n[b][2] - n[a][2] || n[b][1] - n[a][1] || n[a][3] - n[b][3] || a - b);
  const input = h("input", { type: "search", placeholder: "name, kernel, CPU", "aria-label": "hosts",
    oninput: () => { hostsShown = HOSTS; fill(); } });
  const body = h("tbody"), rest = h("button", { onclick: () => { hostsShown += 100; fill(); } });
  function fill() {
    const want = input.value.toLowerCase(), facts = i => D.hosts[i];
    const found = order.filter(i => `${facts(i).name} ${facts(i).kernel} ${facts(i).cpu} ${pools(facts(i))}`.toLowerCase().includes(want));
    body.replaceChildren(...found.slice(0, hostsShown).map(i => h("tr", null,
      h("td", null, h("button.link", { onclick: () => choose(i), title: "show this host alone" }, facts(i).name)),
      h("td", null, [0, 1, 2, 3].map(v => [number(n[i][v], v), " "]), bar(n[i])),
      h("td", null, pools(facts(i))), h("td", null, `${plural(facts(i).cpus || 1, "CPU")}, ${plural(facts(i).nodes || 1, "node")}`),
      h("td", null, facts(i).kernel || ""), h("td", null, facts(i).cpu || facts(i).machine || ""))));
    rest.hidden = found.length <= hostsShown;
    rest.textContent = `${(found.length - hostsShown).toLocaleString("en")} more`;
  }
  fill();
  $("#hosts").hidden = false;
  $("#hosts").replaceChildren(h("h2", null, "Hosts"), input, h("div.wide", { tabindex: 0 }, h("table", null, h("thead", null,
    h("tr", null, ["host", "all targets", "pages", "size", "kernel", "CPU"].map(t => h("th", null, t)))), body)), rest);
}
function choose(i) { $("[name=host]").value = i; state.host = i; draw(); $("#filters").scrollIntoView(); }

function findings() {
  if (!D.findings.length) return;
  const copy = text => h("button", { onclick: e => { navigator.clipboard?.writeText(text); e.target.textContent = "copied"; } }, "copy");
  $("#findings").hidden = false;
  $("#findings").replaceChildren(h("details.fold", null,
    h("summary", null, h("h2", null, "Findings ", h("span.dim", null, D.findings.length))),
    h("p.dim", null, "Defects of real releases that the suite finds, each with the command that shows it."),
    D.findings.map(f => h("details.finding", null,
      h("summary", null, h("span", null, words(f.title)), h("span.dim", null, `${f.releases} · ${f.id}`)),
      h("p", null, words(f.what)), h("div.command", null, h("pre", null, f.run), copy(f.run)),
      h("pre", null, f.saw.trim()), h("p", null, h("a", { href: "#" + f.id }, f.id),
        f.link ? [" · ", h("a", { href: f.link }, f.link)] : null)))));
}

/* Rows */
function cells(row) {
  return shown().map(c => {
    const v = verdict(row, c), name = D.columns[c].name, n = many && state.host < 0 ? spread(row, c) : null;
    const never = v === NONE && row.cells.some(k => k.length);  /* a pair is asked few rows */
    const mixed = n && n.filter(Boolean).length > 1;
    const said = `${name}: ` + (n && v < NONE ? n.map((k, i) => k ? `${D.labels[i]} on ${plural(k, "host")}` : "").filter(Boolean).join(", ")
      : never ? "not asked" : D.labels[v]);
    return h("span.cell." + CLASSES[v] + (never ? ".never" : ""), { role: "img", "aria-label": said, title: said }, h("span.key", null, key(c)),
      GLYPHS[v], h("span.word", null, D.labels[v]), mixed ? bar(n) : null);
  });
}
function body(row) {
  const facts = [["", row.level], ["applies to", row.applies], ["releases", row.releases], ["needs", row.needs],
    ["checked by", row.check], ["source", row.source], ["known", (row.known || []).join(", ")]];
  const t = row.test;
  return h("div.body", null,
    h("div.facts", null, facts.filter(f => f[1]).map(([k, v]) => h("span", null, k ? k + " " : "", h("b", null, words(v))))),
    t ? [[t.says, ...t.notes].filter(Boolean).map(x => h("p", null, words(x))), t.picture ? h("pre.picture", { tabindex: 0 }, t.picture) : null,
      h("p.dim", null, h("code", null, `${t.path}::${t.name}`))] : null,
    row.untested ? h("p", null, "No test: ", words(row.untested)) : null,
    alike(row).map(of => {
      const c = of[0], found = groups(row, c);
      return [h("h3", null, of.map(k => h("span.name", null, h("span.key", null, key(k)), " " + D.columns[k].name + " ")),
        of.length > 1 && found.length ? h("span.dim", null, `as seen on ${key(c)}`) : null),
        h("div", null, of.map(k => track((row.past || [])[k] || [], verdict(row, k), of.length > 1 ? key(k) : ""))),
        found.map(g => result(row, g))];
    }));
}
function alike(row) {  /* targets by what they did: many that differ in numbers only are one */
  const found = new Map(), plain = i => D.texts[i].replace(/0x[0-9a-f]+|\d+/g, "#");
  for (const c of shown()) {
    const all = groups(row, c);
    if (!all.length && !(row.past || [])[c]?.some(Boolean)) continue;
    const said = all.map(g => [g[0], g[1].map(t => [t[0], t[2], t[3], t[4]].map((x, i) => i ? plain(x) : x))]);
    const k = shown().length > 3 ? JSON.stringify(said) : c;
    found.set(k, [...(found.get(k) || []), c]);
  }
  return [...found.values()];
}
function track(past, now, who) {
  if (!past.some(Boolean)) return null;
  const at = past.map((w, i) => [w ? D.words.indexOf(w) : NONE, D.earlier[i][0].slice(0, 10) + " " + D.earlier[i][1]]);
  const all = [...at, [now, "now"]];
  const said = all.map(([v, when]) => `${when.trim()}: ${D.labels[v]}`);
  return h("span.dim.name", null, `${who} history `, h("span.past", { role: "img", "aria-label": said.join("; ") },
    all.map(([v], i) => h("i." + CLASSES[v], { title: said[i] }))));
}
function result(row, g) {
  let where = null;
  if (many && state.host < 0) {
    const n = size(g[2]), names = [];
    for (let i = 0; i < g[2].length && names.length < 8; i += 2)
      for (let k = g[2][i]; k <= g[2][i + 1] && names.length < 8; k++) names.push(D.hosts[k].name);
    where = h("p.dim", null, pill(g[0]), ` on ${plural(n, "host")}: ${names.join(", ")}${n > 8 ? " …" : ""}`,
      n > 1 ? `; as seen on ${names[0]}` : "");
  }
  return h("div.result." + CLASSES[g[0]], null, where, g[1].map(([v, took, params, why, seen, trace, log]) => {
    const T = D.texts, e = T[trace].split("\n").map(l => l.match(/^E +(?!\|)(.*)/)?.[1]).filter(Boolean);
    if (!e.length) e.push(T[trace].split("\n").pop());
    return h("div.test", null, pill(v), " ", T[params] ? h("code", null, T[params]) : null, " ",
      took >= .01 ? h("span.dim", null, took.toFixed(2) + " s") : null,
      T[why] ? h("p.why", null, words(T[why])) : null, T[seen] ? h("pre", null, T[seen]) : null,
      T[trace] && v === 2 && !T[why].includes(T[trace]) ? h("pre", null, T[trace]) : null,
      T[trace] && v === 1 ? [e.length ? h("pre", null, e.join("\n")) : null, more("where", h("pre", null, T[trace]))] : null,
      T[log] ? more("logs", h("pre", null, T[log])) : null);
  }));
}

const view = [];  /* {row, element, words, box for cells}, in order */
function rows() {
  const at = $("#rows"), text = row => [row.id, row.text, row.source || "", row.test ? row.test.says + " " + row.test.name : "",
    ...row.cells.flat().flatMap(g => g[1].map(t => D.texts[t[3]]))].join(" ").toLowerCase();
  for (const f of FAMILIES) {
    const of = D.rows.filter(r => r.family === f), tested = of.filter(r => r.test || r.cells.some(c => c.length)).length;
    const card = h("section.card.fam", { id: "family-" + f, "aria-label": f }, h("h2", null, f, " ", h("span.dim", null,
      `${of.length}` + (tested < of.length ? `, ${of.length - tested} without a test` : ""))));
    card.style.padding = "12px 0 0";
    for (const row of of) {
      const box = h("span.cells"), item = { row, box, text: text(row) };
      item.e = h("details.req", { id: row.id, ontoggle: () => open(item) }, h("summary", null,
        h("span.id", null, row.id, row.level === "as-is" ? h("span.as-is", null, "as-is") : null), h("span", null, words(row.text)), box));
      view.push(item);
      card.append(item.e);
    }
    at.append(card);
  }
}
function open(item) {
  item.e.querySelector(".body")?.remove();
  if (!item.e.open) return;
  item.e.append(body(item.row));
  if (document.activeElement === item.e.firstChild)  /* opened by hand */
    try { history.replaceState(null, "", "#" + item.row.id); } catch { /* in a sandbox */ }
}

function filter() {
  const want = state.words.toLowerCase().split(/\s+/).filter(Boolean), n = [0, 0, 0, 0, 0];
  let on = 0;
  for (const item of view) {
    const v = new Set(shown().map(c => verdict(item.row, c)).filter(k => k !== NONE));
    if (!v.size && !(item.row.test && !D.columns.length)) v.add(NONE);
    const base = want.every(w => item.text.includes(w)) && (!state.level || item.row.level === state.level);
    if (base) v.forEach(k => n[k]++);
    const show = base && (state.verdict < 0 || v.has(state.verdict));
    item.e.hidden = !show;
    on += show;
  }
  for (const card of document.querySelectorAll(".fam")) card.hidden = !card.querySelector(".req:not([hidden])");
  for (const b of document.querySelectorAll("#verdicts button")) {
    const v = +b.dataset.v;
    b.setAttribute("aria-pressed", v === state.verdict);
    b.disabled = v >= 0 && !n[v] && v !== state.verdict;
    b.hidden = b.disabled && v === NONE;
    if (v >= 0) b.textContent = `${GLYPHS[v]} ${D.labels[v]} ${n[v]}`;
  }
  $("output").textContent = on === view.length ? `${on} rows` : `${on} of ${view.length} rows`;
}
function draw() {  /* all that a choice of host or target changes */
  targets(); families();
  const n = shown().length;
  $("#rows").className = $("#heads").className = n === 0 ? "none" : n < 4 ? "few" : "many";
  $("#heads").replaceChildren(h("span"), h("span"), h("span.cells", null, shown().map(c =>
    h("span", { title: D.columns[c].name }, n < 4 ? D.columns[c].name : key(c)))));
  for (const item of view) { item.box.replaceChildren(...cells(item.row)); if (item.e.open) open(item); }
  filter();
}
function controls() {
  const form = $("#filters"), late = f => { let t; return () => { clearTimeout(t); t = setTimeout(f, 60); }; };
  form.onsubmit = e => e.preventDefault();
  form.words.oninput = late(() => { state.words = form.words.value; filter(); });
  form.level.onchange = () => { state.level = form.level.value; filter(); };
  D.columns.forEach((c, i) => form.column.append(h("option", { value: i }, `${key(i)} ${c.name}`)));
  form.column.hidden = D.columns.length < 2;
  form.column.onchange = () => { state.column = +form.column.value; draw(); };
  D.hosts.forEach((f, i) => form.host.append(h("option", { value: i }, f.name)));
  form.host.hidden = !many;
  form.host.onchange = () => { state.host = +form.host.value; draw(); };
  const chips = D.columns.length ? [-1, 2, 1, 0, 3, NONE] : [-1, NONE];
  $("#verdicts").append(...chips.map(v => h("button." + (CLASSES[v] || "all"), { type: "button", "data-v": v,
    onclick: () => { state.verdict = state.verdict === v ? -1 : v; filter(); } }, "all")));
  document.addEventListener("keydown", e => {
    if (e.key === "/" && !/INPUT|SELECT/.test(e.target.tagName)) { e.preventDefault(); form.words.focus(); }
    if (e.key === "Escape" && e.target === form.words) { form.words.value = state.words = ""; filter(); }
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key], at = e.target.closest?.(".req > summary");
    if (!step || !at) return;
    const seen = view.filter(i => !i.e.hidden), next = seen[seen.findIndex(i => i.e === at.parentNode) + step];
    if (next) { e.preventDefault(); next.e.firstChild.focus(); }
  });
  const go = () => {
    const e = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (e?.matches(".req")) { e.hidden = false; e.closest(".fam").hidden = false; e.open = true; }
    e?.scrollIntoView();
  };
  addEventListener("hashchange", go);
  if (location.hash) go();
}

head(); hosts(); findings(); rows(); draw(); controls(); filter();
new ResizeObserver(([e]) => document.documentElement.style.setProperty("--bar", e.borderBoxSize[0].blockSize + "px")).observe($("#filters"));
$("footer").textContent = "Modes: D dynmem, S single-file segments, M in-memory, L legacy, N no-huge, 2 secondary. must counts for "
  + "conformance, as-is is what releases do today. " + (!D.columns.length ? "" : "✓ passed: the target does what the requirement says. ≠ deviating: it does not, and deviations.toml says why. "
  + "✗ failed: neither. – could not: the host, the release or the target lacks something. ") + "Keys: / search, Enter opens a row, ↑ ↓ move between rows.";
document.documentElement.dataset.ready = "";
