// SPDX-License-Identifier: MIT
// What the page shows, without the page: answers of the API in, values out.

export const PAGE_BYTES = 4096;

// Each kind of page, as /v1/guests/NAME/map names it, and as uvmm top colours it.
export const KINDS = {
  resident: "#4f9d69", split: "#9bbf5a", shared: "#3a86c8", ballooned: "#b48ead",
  compressed: "#d9a441", swapped: "#d0653f", far: "#a05fb4", damaged: "#ff3030",
  untouched: "#8883", low: "#2aa0a0",
};
export const OWN = "#8a8a8a";
export const FREE = "#8883";
export const STATES = { clear: "#e8d44d33", soft: "#f0a03044", hard: "#e0603055", low: "#d0303077" };
export const LINES = ["#3a86c8", "#d0653f", "#4f9d69", "#a05fb4", "#d9a441", "#7a7a7a",
  "#2aa0a0", "#c05080"];

export function formatSize(bytes) {
  const units = ["", "K", "M", "G", "T", "P", "E"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  const shown = at && bytes < 100 ? Math.floor(bytes * 10) / 10 : Math.floor(bytes);
  return `${shown}${units[at]}`;
}

export function formatPercent(value) {
  return value.toFixed(1);
}

const stored = (guest) => guest.swapped_bytes + guest.compressed_bytes + guest.far_bytes;
const sized = (title, key, wide = false) => ({
  title, wide, value: (guest) => guest[key] || 0, text: formatSize,
});

export const COLUMNS = [
  { title: "Name", words: true, value: (guest) => guest.name, text: String },
  { title: "Stall %", value: (guest) => guest.stall_percent, text: formatPercent },
  sized("Resident", "resident_bytes"),
  sized("Target", "target_bytes"),
  sized("Shared", "shared_bytes", true),
  sized("Ballooned", "ballooned_bytes", true),
  { title: "Stored", value: stored, text: formatSize },
  sized("Active", "active_bytes", true),
  sized("Min", "min_bytes", true),
  sized("Max", "max_bytes", true),
  sized("In/s", "in_rate", true),
  sized("Out/s", "out_rate", true),
  sized("Disk/s", "disk_rate", true),
  sized("Copied/s", "copied_rate", true),
  sized("Low", "low_bytes", true),
  { title: "Shares", wide: true, value: (guest) => guest.shares, text: String },
  { title: "PID", wide: true, value: (guest) => guest.pid, text: String },
];
export const STALL = 1;

// Adds to guests what they do in a second, in bytes, by what was told of them before.
export function addRates(guests, before, seconds) {
  const known = new Map(before.map((guest) => [`${guest.pid} ${guest.name}`, guest]));
  for (const guest of guests) {
    const then = known.get(`${guest.pid} ${guest.name}`) ?? guest;
    const rate = (sum) => Math.max(0, sum(guest) - sum(then)) / seconds;
    guest.in_rate = rate((one) => PAGE_BYTES * one.pages_in);
    guest.out_rate = rate((one) => PAGE_BYTES * one.pages_out);
    guest.disk_rate = rate((one) => one.io.read_bytes + one.io.written_bytes);
    guest.copied_rate = rate((one) => one.io.copied_bytes);
  }
}

// Numbers from the largest, words from the first; then by name.
export function ordered(guests, column, inverted) {
  const { value, words } = COLUMNS[column];
  const sign = (words ? 1 : -1) * (inverted ? -1 : 1);
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return [...guests].sort((a, b) =>
    sign * compare(value(a), value(b)) || compare(a.name, b.name));
}

export function memoryParts(machine) {
  return [
    { name: "resident", colour: KINDS.resident, bytes: machine.guest_bytes - machine.split_bytes },
    { name: "split", colour: KINDS.split, bytes: machine.split_bytes },
    { name: "shared", colour: KINDS.shared, bytes: machine.frame_bytes },
    { name: "uvmm's own", colour: OWN, bytes: machine.overhead_bytes },
    { name: "free", colour: FREE, bytes: machine.free_bytes },
  ].filter((part) => part.bytes > 0);
}

export function swapParts(machine) {
  return [
    { name: "swapped", colour: KINDS.swapped, bytes: machine.swap_used_bytes },
    { name: "free", colour: FREE, bytes: machine.swap_total_bytes - machine.swap_used_bytes },
  ].filter((part) => part.bytes > 0);
}

export function headline(machine, guests) {
  const words = machine.state ? [`state ${machine.state}`] : [];
  words.push(`pressure ${machine.pressure}`, `${guests} guest${guests === 1 ? "" : "s"}`);
  if (machine.refused) words.push(`${machine.refused} refused`);
  if (machine.damaged_pages) words.push(`${machine.damaged_pages} pages damaged`);
  return words.join(" · ");
}

// What a cell of a map is drawn as: what is damaged in any case, what is untouched only
// where nothing else is.
export function cellKind(pages, at) {
  if (pages.damaged && pages.damaged[at]) return { kind: "damaged", part: 1 };
  let kind = "untouched", most = 0, sum = 0;
  for (const [name, counts] of Object.entries(pages)) {
    sum += counts[at];
    if (name !== "untouched" && name in KINDS && counts[at] > most) {
      most = counts[at];
      kind = name;
    }
  }
  return { kind, part: most ? most / sum : 1 };
}

export function cellWords(map, at) {
  const size = Math.floor(map.max_pages / map.cells), larger = map.max_pages % map.cells;
  const first = at * size + Math.min(at, larger);
  const last = first + size + (at < larger ? 1 : 0) - 1;
  const parts = Object.entries(map.pages).filter(([, counts]) => counts[at])
    .map(([name, counts]) => `${counts[at]} ${name}`);
  return `pages ${first} to ${last}: ${parts.join(", ")}`;
}

export function mapParts(map) {
  return Object.entries(map.pages).map(([name, counts]) => ({
    name, colour: KINDS[name] || OWN,
    bytes: PAGE_BYTES * counts.reduce((sum, count) => sum + count, 0),
  })).filter((part) => part.bytes > 0);
}

// The figures of the past, as they are added to.
export class Past {
  constructor() {
    this.startedAt = null;
    this.last = 0;
    this.times = [];
    this.machine = {};
    this.guests = new Map();  // by number: {name, first, columns}
  }

  // Takes an answer of /v1/history: what is new since the one before.
  add(told) {
    const before = this.times.length;
    this.startedAt = told.started_at;
    this.last = told.last;
    this.times.push(...told.at_seconds);
    for (const [key, values] of Object.entries(told.machine)) {
      (this.machine[key] ||= []).push(...values);
    }
    for (const { name, number, first, ...columns } of told.guests) {
      const known = this.guests.get(number);
      if (!known) {
        this.guests.set(number, { name, first: before + first, columns });
        continue;
      }
      for (const [key, values] of Object.entries(columns)) known.columns[key].push(...values);
    }
  }

  // A guest's figure, with null where it was not there.
  series(number, key) {
    const { first, columns } = this.guests.get(number), values = columns[key];
    return this.times.map((_, at) => values[at - first] ?? null);
  }

  // The series of that name that ends last.
  numberOf(name) {
    let found = null;
    for (const [number, guest] of this.guests) if (guest.name === name) found = number;
    return found;
  }

  sumOfGuests(key) {
    const sums = this.times.map(() => 0);
    for (const { first, columns } of this.guests.values()) {
      columns[key].forEach((value, at) => { sums[first + at] += value; });
    }
    return sums;
  }
}
