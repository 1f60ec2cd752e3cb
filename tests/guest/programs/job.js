// SPDX-License-Identifier: MIT
// What node keeps memory for: objects and strings, a Map, JSON, Buffers, worker threads.
'use strict';
const crypto = require('crypto');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

const ENTRIES = 60000;
const BUFFERS = 32;

function work(seed) {
  const map = new Map();
  let x = seed;
  for (let i = 0; i < ENTRIES; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    map.set('k' + (x % (ENTRIES * 2)), { i, x, list: [i, String(x), x / 7] });
  }
  const text = JSON.stringify([...map].sort((a, b) => (a[0] < b[0] ? -1 : 1)));
  const back = JSON.parse(text);
  return [map.size, back.length,
    crypto.createHash('sha256').update(Buffer.from(text)).digest('hex')];
}

function inWorker(seed) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: seed });
    worker.on('message', resolve);
    worker.on('error', reject);
  });
}

async function main() {
  const buffers = Array.from({ length: BUFFERS }, (_, i) => Buffer.alloc(1 << 20, i));
  const others = [inWorker(1), inWorker(2)];
  const results = [work(3), ...await Promise.all(others)];
  const digest = crypto.createHash('sha256');
  buffers.forEach((buffer) => digest.update(buffer));
  console.log(JSON.stringify(results), digest.digest('hex'));
}

if (isMainThread) main();
else parentPort.postMessage(work(workerData));
