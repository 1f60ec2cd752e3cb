// SPDX-License-Identifier: MIT
// The page: asks the daemon once a second and shows what it answers. All that comes from
// it is put in as text.

import { drawChart, drawMap, drawSign, mapLayout } from "./draw.js";
import {
  COLUMNS, KINDS, LINES, OWN, Past, STALL, STATES, addRates, cellWords, formatPercent, formatSize,
  headline, mapParts, memoryParts, ordered, swapParts,
} from "./model.js";

const PERIOD_MS = 1000;
const REFRESH_MS = 600_000;  // then the past is asked anew: what is old comes in tens of seconds
const SPANS = [["10 minutes", 600], ["1 hour", 3600], ["all", 0]];
const STALLS_SHOWN = 8;
const SETTABLE = ["min", "max", "shares", "tax", "balloon_max"];
const TOKEN_KEY = "uvmm-token";

const $ = (id) => document.getElementById(id);
const state = {
  token: "", figures: null, lookedMs: 0, past: new Past(), pastSince: 0, sorted: STALL, inverted: false,
  chosen: null, opened: null, map: null, columns: 1, cell: null, span: SPANS[0][1],
};

class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

async function ask(path, method = "GET", body = undefined) {
  const headers = { Authorization: `Bearer ${state.token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method, headers, cache: "no-store", credentials: "omit",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, told.error || `status ${answer.status}`);
  return told;
}

function make(name, words = "", properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.textContent = words;
  return made;
}

// --- looking -------------------------------------------------------------------

async function look() {
  const before = state.figures?.guests ?? [], beforeMs = state.lookedMs;
  state.figures = await ask("/v1/stats");
  state.lookedMs = performance.now();
  addRates(state.figures.guests, before, Math.max(1, state.lookedMs - beforeMs) / 1000);
  if (Date.now() - state.pastSince > REFRESH_MS) renewPast();
  let told = await ask(`/v1/history?since=${state.past.last}`);
  if (state.past.startedAt !== null && told.started_at !== state.past.startedAt) {
    renewPast();
    told = await ask("/v1/history?since=0");
  }
  state.past.add(told);
  if (state.opened !== null) await lookAtMap();
}

function renewPast() {
  state.past = new Past();
  state.pastSince = Date.now();
}

async function lookAtMap() {
  const { columns, cells } = mapLayout($("map"));
  try {
    state.map = await ask(`/v1/guests/${encodeURIComponent(state.opened)}/map?cells=${cells}`);
    state.columns = columns;
    if (state.cell !== null) state.cell = Math.min(state.cell, state.map.cells - 1);
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    state.map = null;
    $("cell").textContent = error.message;
  }
}

async function watch() {
  for (;;) {
    if (!document.hidden && state.token) {
      try {
        await look();
        show();
        note("");
      } catch (error) {
        if (error.status === 401) logOut(error.message);
        else note(`${error.message}; trying again`);
      }
    }
    await new Promise((done) => { setTimeout(done, PERIOD_MS); });
  }
}

function note(words) {
  // Only what is new is read out.
  if ($("note").textContent !== words) $("note").textContent = words;
  document.body.classList.toggle("lost", words !== "");
}

// --- showing -------------------------------------------------------------------

function show() {
  const { machine, guests } = state.figures;
  $("login").hidden = true;
  $("main").hidden = false;
  $("state").textContent = headline(machine, guests.length);
  document.title = `uvmm: ${$("state").textContent}`;
  showBar("memory", memoryParts(machine), machine.used_bytes, machine.total_bytes);
  showBar("swap", swapParts(machine), machine.swap_used_bytes, machine.swap_total_bytes);
  showTable(guests);
  showPast();
  showGuest();
}

function showBar(what, parts, used, total) {
  const bar = $(`${what}-bar`);
  bar.replaceChildren(...parts.map((part) => {
    const made = make("span");
    made.style.flexGrow = part.bytes / total;
    made.style.background = part.colour;
    return made;
  }));
  const words = `${what}: ${formatSize(used)} of ${formatSize(total)} used`;
  bar.ariaLabel = `${words}: ${parts.map((p) => `${p.name} ${formatSize(p.bytes)}`).join(", ")}`;
  showLegend(`${what}-legend`, parts, words);
}

function showLegend(id, parts, words = "") {
  const items = parts.map((part) => {
    const item = make("li"), sign = make("canvas");
    item.append(sign, part.bytes === undefined ? part.name : `${part.name} ${formatSize(part.bytes)}`);
    return { item, draw: () => drawSign(sign, part.colour, part.line ?? null) };
  });
  $(id).replaceChildren(...(words ? [make("li", words)] : []), ...items.map(({ item }) => item));
  for (const { draw } of items) draw();
}

function showTitles() {
  $("titles").replaceChildren(...COLUMNS.map((column, at) => {
    const title = make("th", "", { className: column.wide ? "wide" : "", scope: "col" });
    const sorted = at === state.sorted, down = state.inverted === Boolean(column.words);
    const button = make("button", column.title + (sorted ? (down ? " ▾" : " ▴") : ""), { type: "button" });
    if (sorted) title.ariaSort = down ? "descending" : "ascending";
    button.addEventListener("click", () => {
      state.inverted = sorted && !state.inverted;
      state.sorted = at;
      showTitles();
      showTable(state.figures.guests);
      $("titles").children[at].firstChild.focus();
    });
    title.append(button);
    return title;
  }));
}

// Rows stay the same elements, so that focus and a click under way are not lost.
function showTable(guests) {
  const sorted = ordered(guests, state.sorted, state.inverted);
  if (!sorted.some((guest) => guest.name === state.chosen)) state.chosen = sorted[0]?.name ?? null;
  const former = new Map([...$("rows").children].map((row) => [row.dataset.name, row]));
  const rows = sorted.map((guest) => fillRow(former.get(guest.name) || makeRow(guest.name), guest));
  const focused = document.activeElement;
  if (rows.length !== former.size || rows.some((row, at) => row !== $("rows").children[at])) {
    $("rows").replaceChildren(...rows);
    if (rows.includes(focused)) focused.focus({ preventScroll: true });
  }
  $("table").hidden = !rows.length;
  $("nobody").hidden = rows.length > 0;
}

function makeRow(name) {
  const row = make("tr");
  row.dataset.name = name;
  row.append(...COLUMNS.map((column) => make("td", "", { className: column.wide ? "wide" : "" })));
  row.addEventListener("click", () => { state.chosen = name; openGuest(name); });
  return row;
}

function fillRow(row, guest) {
  row.tabIndex = guest.name === state.chosen ? 0 : -1;
  row.ariaSelected = String(guest.name === state.opened);
  COLUMNS.forEach((column, at) => { row.children[at].textContent = column.text(column.value(guest)); });
  row.children[STALL].classList.toggle("bad", guest.stall_percent >= 1);
  return row;
}

function chosenRow() {
  return [...$("rows").children].find((row) => row.dataset.name === state.chosen);
}

function showPast() {
  const { past } = state, { machine } = past;
  if (!past.times.length) return;
  const areas = [
    { name: "guests' own", colour: KINDS.resident, values: machine.guest_bytes },
    { name: "shared frames", colour: KINDS.shared, values: machine.frame_bytes },
    { name: "uvmm's own", colour: OWN, values: machine.overhead_bytes },
  ];
  const lines = [
    { name: "limit", values: machine.total_bytes }, { name: "saved by sharing", values: machine.saved_bytes },
    { name: "ballooned", values: past.sumOfGuests("ballooned_bytes") },
    { name: "swapped", values: machine.swap_used_bytes },
  ].map((line, at) => ({ ...line, colour: LINES[[5, 0, 3, 1][at]], line: at }));
  showChart("memory", { areas, lines, states: machine.state, text: formatSize, binary: true });
  showStalls();
}

function showStalls() {
  const { past } = state;
  const stalls = [...past.guests].map(([number, { name, columns }]) => ({
    name, number, most: columns.stall_percent.reduce((most, one) => Math.max(most, one), 0),
  })).sort((a, b) => b.most - a.most).slice(0, STALLS_SHOWN);
  const lines = stalls.map(({ name, number }, at) => ({
    name, values: past.series(number, "stall_percent"), colour: LINES[at], line: at,
  }));
  showChart("stall", { lines, least: 5, text: (value) => `${value}%` });
}

function showChart(what, chart) {
  const { times } = state.past, to = times[times.length - 1];
  const from = state.span ? Math.max(times[0], to - state.span) : times[0];
  const start = times.findIndex((at) => at >= from);
  const cut = (series) => series?.map((one) => ({ ...one, values: one.values.slice(start) }));
  const areas = cut(chart.areas), lines = cut(chart.lines);
  const sums = (areas || []).reduce((sum, { values }) => values.map((v, at) => v + (sum[at] || 0)), []);
  const all = [...sums, ...(lines || []).flatMap(({ values }) => values)];
  const most = all.reduce((a, b) => Math.max(a, b || 0), chart.least || 1) * 1.05;
  drawChart($(`${what}-chart`), {
    ...chart, areas, lines, times: times.slice(start), states: chart.states?.slice(start), from, to, most,
  });
  const series = [...(areas || []), ...(lines || [])];
  $(`${what}-chart`).ariaLabel = series.map(({ name, values }) =>
    `${name} ${chart.text(Math.round(values[values.length - 1] || 0))}`).join(", ") || "nothing yet";
  const shades = Object.entries(STATES).filter(([name]) => chart.states?.slice(start).includes(name))
    .map(([name, colour]) => ({ name: `memory ${name}`, colour }));
  showLegend(`${what}-lines`, [...series, ...shades]);
}

// --- one guest -----------------------------------------------------------------

function openGuest(name) {
  if (state.opened !== name) Object.assign(state, { opened: name, map: null, cell: null });
  $("result").textContent = "";
  $("guest").hidden = name === null;
  if (name === null) {
    showTable(state.figures.guests);
    chosenRow()?.focus();
    return;
  }
  lookAtMap().then(show).catch((error) => note(error.message));
  $("guest-title").focus();
}

function showGuest() {
  const guest = state.figures.guests.find((one) => one.name === state.opened);
  if (state.opened === null) return;
  $("guest-title").textContent = guest
    ? `${guest.name}: ${formatSize(guest.resident_bytes)} resident of ${formatSize(guest.max_bytes)}`
    : `${state.opened} has ended`;
  if (!guest) return;
  if (state.map) {
    drawMap($("map"), state.map, state.columns, state.cell);
    const parts = mapParts(state.map);
    $("map").ariaLabel = `memory of ${guest.name}: ${parts.map((p) => `${p.name} ${formatSize(p.bytes)}`).join(", ")}`;
    showLegend("map-legend", parts);
    if (state.cell !== null) $("cell").textContent = cellWords(state.map, state.cell);
  }
  const number = state.past.numberOf(guest.name);
  if (number === null) return;
  const lines = ["resident", "target", "active", "shared", "ballooned", "swapped"].map((key, at) => ({
    name: key, values: state.past.series(number, `${key}_bytes`), line: at,
    colour: KINDS[key] || LINES[key === "target" ? 5 : 6],
  }));
  showChart("guest", { lines, states: state.past.machine.state, text: formatSize, binary: true });
}

function chooseCell(at) {
  if (!state.map) return;
  state.cell = Math.max(0, Math.min(state.map.cells - 1, at));
  drawMap($("map"), state.map, state.columns, state.cell);
  $("cell").textContent = cellWords(state.map, state.cell);
}

async function job(words, path, method, body) {
  const result = $("result");
  result.textContent = `${words} ...`;
  try {
    const done = await ask(`/v1/guests/${encodeURIComponent(state.opened)}${path}`, method, body);
    result.textContent = done.pages === undefined ? `${words}: done`
      : `${words}: ${done.pages} pages in ${done.elapsed_seconds.toFixed(2)} s, ${done.left_pages} left`;
  } catch (error) {
    result.textContent = error.message;
  }
}

// --- keys, forms ---------------------------------------------------------------

function onRowKey(event) {
  const rows = [...$("rows").children], at = rows.indexOf(chosenRow());
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (event.key === "Enter" || event.key === " ") openGuest(state.chosen);
  else if (to === undefined) return;
  else {
    rows[at].tabIndex = -1;
    const row = rows[Math.max(0, Math.min(rows.length - 1, to))];
    state.chosen = row.dataset.name;
    row.tabIndex = 0;
    row.focus();
  }
  event.preventDefault();
}

function onMapKey(event) {
  const at = state.cell ?? 0;
  const to = {
    ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + state.columns, ArrowUp: at - state.columns,
    Home: 0, End: Infinity,
  }[event.key];
  if (to === undefined) return;
  chooseCell(to);
  event.preventDefault();
}

function onMapPointer(event) {
  if (!state.map) return;
  const box = $("map").getBoundingClientRect(), rows = Math.ceil(state.map.cells / state.columns);
  const column = Math.floor((event.clientX - box.left) / box.width * state.columns);
  chooseCell(Math.floor((event.clientY - box.top) / box.height * rows) * state.columns + column);
}

function makeSpans() {
  $("spans").replaceChildren(...SPANS.map(([words, seconds]) => {
    const button = make("button", words, { type: "button" });
    button.ariaPressed = String(state.span === seconds);
    button.addEventListener("click", () => {
      state.span = seconds;
      makeSpans();
      [...$("spans").children].find((one) => one.textContent === words).focus();
      showPast();
      showGuest();
    });
    return button;
  }));
}

function makeForms() {
  $("set").append(...SETTABLE.map((key) => {
    const input = make("input", "", { name: key, size: 7, maxLength: 64 });
    input.ariaLabel = key.replace("_", " ");
    input.placeholder = input.ariaLabel;
    return input;
  }), make("button", "Set"));
  const forms = {
    reclaim: () => job("reclaim", "/reclaim", "POST", { size: $("size").value }),
    restore: () => job("restore", "/restore", "POST"),
    set: () => job("set", "", "PATCH", Object.fromEntries(
      [...new FormData($("set"))].filter(([, value]) => value !== ""))),
    login: () => logIn($("token").value.trim()),
  };
  for (const [id, action] of Object.entries(forms)) {
    $(id).addEventListener("submit", (event) => { event.preventDefault(); action(); });
  }
}

function logIn(token) {
  state.token = token;
  sessionStorage.setItem(TOKEN_KEY, token);
  $("token").value = "";
  note("");
}

function logOut(words) {
  state.token = "";
  sessionStorage.removeItem(TOKEN_KEY);
  $("main").hidden = true;
  $("login").hidden = false;
  $("token").focus();
  note(words);
}

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  // It is not to stay where it could be seen, copied or bookmarked.
  if (given) history.replaceState(null, "", location.pathname);
  const token = given || sessionStorage.getItem(TOKEN_KEY);
  if (token) logIn(token);
  else logOut("");
}

function start() {
  showTitles();
  makeSpans();
  makeForms();
  takeToken();
  window.addEventListener("hashchange", takeToken);
  $("rows").addEventListener("keydown", onRowKey);
  $("map").addEventListener("keydown", onMapKey);
  $("map").addEventListener("pointermove", onMapPointer);
  $("close").addEventListener("click", () => openGuest(null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.opened !== null) openGuest(null);
  });
  window.addEventListener("resize", () => { if (state.figures) show(); });
  watch();
}

start();
