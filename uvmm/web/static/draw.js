// SPDX-License-Identifier: MIT
// Drawing on canvases: charts, page maps, and the signs of legends.

import { KINDS, OWN, STATES, cellKind } from "./model.js";

const LEFT = 48, BOTTOM = 18, TOP = 6, RIGHT = 6;
const AREA_ALPHA = 0.45;  // lines lie over areas
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];

// A canvas that is as fine as the screen; returns its context and size.
function open(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  return { pen, width, height };
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}

// Steps of 1, 2 or 5 times a power; for bytes powers of 1024 above the unit.
export function ticks(most, binary) {
  let unit = 1;
  if (binary) while (most / unit >= 1024) unit *= 1024;
  const rough = most / unit / 4, power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = unit * power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let at = 0; at <= most + step / 2 && found.length < 12; at += step) found.push(at);
  return found;
}

function clock(seconds, withSeconds) {
  const time = new Date(1000 * seconds).toTimeString();
  return time.slice(0, withSeconds ? 8 : 5);
}

// Draws {times, from, to, most, areas, lines, states, text, binary}: areas are stacked,
// all series have a value or null a time.
export function drawChart(canvas, chart) {
  const { pen, width, height } = open(canvas);
  const { times, from, to } = chart;
  const most = Math.max(chart.most, Number.EPSILON);
  const x = (at) => LEFT + (at - from) / Math.max(1, to - from) * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - value / most * (height - BOTTOM - TOP);
  pen.font = "11px system-ui, sans-serif";
  drawStates(pen, chart, x, height);
  drawAxes(pen, chart, { x, y, width, height, most });
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, width - LEFT - RIGHT, height - BOTTOM + 1);
  pen.clip();
  const base = times.map(() => 0);
  for (const { colour, values } of chart.areas || []) {
    pen.fillStyle = colour;
    pen.globalAlpha = AREA_ALPHA;
    pen.beginPath();
    values.forEach((value, at) => pen.lineTo(x(times[at]), y(base[at] + (value || 0))));
    for (let at = times.length - 1; at >= 0; at -= 1) pen.lineTo(x(times[at]), y(base[at]));
    pen.fill();
    values.forEach((value, at) => { base[at] += value || 0; });
  }
  pen.globalAlpha = 1;
  (chart.lines || []).forEach((line, number) => drawLine(pen, times, line, number, x, y));
  pen.restore();
}

function drawLine(pen, times, { colour, values }, number, x, y) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1.6;
  pen.setLineDash(DASHES[number % DASHES.length]);
  pen.beginPath();
  let drawing = false;
  values.forEach((value, at) => {
    if (value === null) drawing = false;
    else if (drawing) pen.lineTo(x(times[at]), y(value));
    else pen.moveTo(x(times[at]), y(value));
    drawing = value !== null;
  });
  pen.stroke();
  pen.setLineDash([]);
}

function drawStates(pen, { times, states }, x, height) {
  for (let at = 0; states && at < times.length; at += 1) {
    if (!STATES[states[at]]) continue;
    const left = x(times[at]), right = x(times[at + 1] ?? times[at] + 1);
    pen.fillStyle = STATES[states[at]];
    const begin = Math.max(LEFT, left);
    pen.fillRect(begin, TOP, Math.max(0, right - begin) + 0.5, height - BOTTOM - TOP);
  }
}

function drawAxes(pen, { from, to, binary, text }, { x, y, width, height, most }) {
  pen.fillStyle = ink("--faint");
  pen.strokeStyle = ink("--line");
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of ticks(most, binary)) {
    if (value > most) continue;
    pen.beginPath();
    pen.moveTo(LEFT, y(value));
    pen.lineTo(width - RIGHT, y(value));
    pen.stroke();
    pen.fillText(text(value), LEFT - 5, y(value));
  }
  pen.textBaseline = "alphabetic";
  const count = Math.max(1, Math.floor((width - LEFT) / 110));
  for (let at = 0; at <= count; at += 1) {
    const when = from + (to - from) * at / count;
    pen.textAlign = at === 0 ? "left" : at === count ? "right" : "center";
    pen.fillText(clock(when, to - from < 600), x(when), height - 5);
  }
}

// How a map is laid out on its canvas: cells of about 7 points, as many as may be asked for.
export function mapLayout(canvas) {
  const columns = Math.max(8, Math.floor(canvas.clientWidth / 7));
  const rows = Math.max(4, Math.floor(canvas.clientHeight / 7));
  return { columns, rows, cells: Math.min(16384, columns * rows) };
}

// From left to right, line by line; *chosen* is framed.
export function drawMap(canvas, map, columns, chosen) {
  const { pen, width, height } = open(canvas);
  const rows = Math.ceil(map.cells / columns);
  const wide = width / columns, high = height / rows;
  for (let at = 0; at < map.cells; at += 1) {
    const { kind, part } = cellKind(map.pages, at);
    pen.globalAlpha = kind === "untouched" || kind === "damaged" ? 1 : 0.35 + 0.65 * part;
    pen.fillStyle = KINDS[kind] || OWN;
    pen.fillRect(at % columns * wide, Math.floor(at / columns) * high,
      Math.max(1, wide - 0.7), Math.max(1, high - 0.7));
  }
  pen.globalAlpha = 1;
  if (chosen === null) return;
  pen.strokeStyle = ink("--ink");
  pen.lineWidth = 2;
  pen.strokeRect(chosen % columns * wide, Math.floor(chosen / columns) * high, wide, high);
}

// The sign of an area or of a line in a legend.
export function drawSign(canvas, colour, number) {
  const { pen, width, height } = open(canvas);
  if (number === null) {
    pen.fillStyle = colour;
    pen.fillRect(0, 0, width, height);
    return;
  }
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.setLineDash(DASHES[number % DASHES.length]);
  pen.beginPath();
  pen.moveTo(0, height / 2);
  pen.lineTo(width, height / 2);
  pen.stroke();
}
