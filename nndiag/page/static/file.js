// The page as a file: its data stand in it, and nothing is asked of anybody.
import {toNumber} from './dom.js';
import {onAddress, onTheme} from './host.js';
import {Page} from './index.js';
/** @import {Source} from './source.js' */

/** Puts the page in place of what is there for readers without JavaScript. */
export async function show() {
  const page = new Page(fileSource(JSON.parse(document.getElementById('nndiag-data').textContent)));
  document.getElementById('nndiag-style').setAttribute('media', 'all');
  document.body.className = '';
  document.body.replaceChildren(page.root);
  onTheme((isDark) => page.theme(isDark));
  onAddress((state) => page.go(state, {replace: true}));
  await page.load();
}

/**
 * The data of a file, with the functions of `tensorboardSource`.
 * @returns {Source}
 */
export function fileSource({run, rows, numbers, units}) {
  const readings = run.readings.map((reading) => ({...reading, values: reading.values.map(toNumber)}));
  const matrices = new Map(readings.map((reading) => [reading.tag, {...reading, ...unpacked(rows[reading.tag], run.layers.length)}]));
  return {
    runs: async () => [{name: run.name, is_newer: false, step: run.step, visits: run.visits, findings: run.findings}],
    run: async () => ({...run, readings}),
    matrix: async (name, tag) => matrices.get(tag),
    curves: async (name, layers) => [...matrices.values()].flatMap((matrix) => layers.map((layer) => curve(matrix, layer)).filter(({steps}) => steps.length)),
    numbers: async () => numbers.map((row) => ({...row, values: row.values.map(toNumber)})),
    units: async (name, tags) => units.filter((row) => tags.includes(row.tag))
      .map((row) => ({...row, snapshots: row.snapshots.map(({step, values}) => ({step, values: values.map(toNumber)}))})),
  };
}

/** All layers by step; the file holds those that have a value. */
function unpacked({layers, steps, samples, values}, total) {
  const bytes = Uint8Array.from(atob(values), (char) => char.charCodeAt(0)), n = steps.length;
  const read = new DataView(bytes.buffer), all = new Float32Array(total * n).fill(NaN);
  layers.forEach((place, line) => {
    for (let j = 0; j < n; j += 1) all[place * n + j] = read.getFloat32(4 * (line * n + j), true);
  });
  return {steps, samples, values: all};
}

function curve({tag, steps, values}, layer) {
  const n = steps.length, own = [...values.subarray(layer * n, (layer + 1) * n)];
  const seen = own.map((value, j) => [steps[j], value]).filter(([, value]) => !Number.isNaN(value));
  return {tag, layer, steps: seen.map(([step]) => step), values: seen.map(([, value]) => value)};
}
