// Where the data come from. A page with its data inlined brings another object with the same functions:
//
//   host                   who is asked; absent in a page with its data inlined
//   runs()                 [{name, is_newer, step, visits, findings}]
//   run(name)              layers, findings, coverage, newest value of each reading
//   matrix(name, tag)      {steps, values: Float32Array by layer and step, low, high, ...}
//   curves(name, layers)   [{tag, layer, steps, values}]
//   numbers(name)          [{tag, steps, values}]
//   units(name, tags)      [{tag, form, total, snapshots}]
import {toNumber} from './dom.js';

/** The data as TensorBoard serves them. Addresses are relative, so that a path prefix needs no care. */
export function tensorboardSource() {
  return {
    host: 'TensorBoard',
    runs: async () => (await json('runs')).runs,
    run: async (name) => withNumbers(await json('run', [['run', name]])),
    matrix: async (name, tag) => unpacked(await ask('matrix', [['run', name], ['tag', tag]])),
    curves: async (name, layers) => curves(await json('curves', [['run', name], ...layers.map((l) => ['layer', l])])),
    numbers: async (name) => curves(await json('numbers', [['run', name]])),
    units: async (name, tags) => {
      if (!tags.length) return [];
      const {units} = await json('units', [['run', name], ...tags.map((tag) => ['tag', tag])]);
      for (const row of units) for (const shot of row.snapshots) shot.values = shot.values.map(toNumber);
      return units;
    },
  };
}

async function ask(path, query = []) {
  const text = new URLSearchParams(query).toString();
  const answer = await fetch(text ? `${path}?${text}` : path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
  return answer;
}

const json = async (path, query) => (await ask(path, query)).json();

function withNumbers(run) {
  for (const reading of run.readings) reading.values = reading.values.map(toNumber);
  return run;
}

function curves({curves: rows}) {
  for (const row of rows) row.values = row.values.map(toNumber);
  return rows;
}

async function unpacked(answer) {
  const buffer = await answer.arrayBuffer();
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  return {...header, values: new Float32Array(buffer, 4 + size)};
}
