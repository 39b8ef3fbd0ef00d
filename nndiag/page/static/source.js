// Where the data come from. A page with its data inlined brings another object with the same functions:
// `Source` below.
import {toNumber} from './dom.js';

/**
 * @typedef {object} Layer
 * @property {string} name
 * @property {string} [kind]
 * @property {string} [role]
 * @property {number} [depth] Its place in the order in which layers run.
 * @property {number} [units]
 * @property {string} [activation]
 * @property {string} [source] The layer that an activation reads.
 * @property {boolean} [is_output]
 *
 * @typedef {object} Finding
 * @property {string} rule
 * @property {string} name
 * @property {string} measure
 * @property {string} severity
 * @property {string[]} layers
 * @property {number} first_step
 * @property {number} [last_clean_step]
 * @property {number} last_step
 * @property {string} status
 * @property {number | string} [value]
 * @property {number | string} [threshold]
 * @property {string} [message]
 * @property {string} [recommendation]
 * @property {Record<string, unknown>} [evidence]
 * @property {Finding[]} [related]
 *
 * @typedef {object} Scaled What a color needs to know of a reading.
 * @property {string} measure
 * @property {string} reading
 * @property {string} [about]
 * @property {string} [worst]
 * @property {[number, number]} [range]
 * @property {boolean} [judged]
 * @property {string[]} [rules]
 * @property {Record<string, number>} [limits]
 * @property {number} [low]
 * @property {number} [high]
 * @property {number} [smallest]
 * @property {number} [largest]
 *
 * @typedef {Scaled & {tag: string, values: number[], steps: (number | null)[]}} Reading The newest value of each layer.
 * @typedef {Scaled & {steps: number[], samples: number, values: Float32Array}} Matrix By layer and step.
 * @typedef {{tag: string, layer?: number, name?: string, reading?: Reading, steps: number[], values: number[]}} Curve
 * @typedef {{measure: string, status: string, reason?: string, layers: string[]}} Coverage
 * @typedef {{tag: string, measure: string, reading: string, layer: string}} UnitsTag
 * @typedef {{tag: string, reading: string, form: string, total: number, snapshots: {step: number, values: number[]}[]}} Units
 * @typedef {{name: string, is_newer: boolean, step?: number, visits?: number, findings: Finding[]}} RunRow
 *
 * @typedef {object} Run
 * @property {string} name
 * @property {boolean} [is_newer] Whether a newer nndiag wrote it.
 * @property {boolean} [is_series] False where there is one value of each reading.
 * @property {boolean} [is_complete]
 * @property {number} [step]
 * @property {number} [visits]
 * @property {Record<string, unknown>} facts
 * @property {Layer[]} layers
 * @property {Finding[]} findings
 * @property {Coverage[]} coverage
 * @property {string[]} notes
 * @property {Reading[]} readings
 * @property {{tag: string, reading: string}[]} numbers
 * @property {UnitsTag[]} units
 *
 * @typedef {object} Source
 * @property {string} [host] Who is asked; absent in a page with its data inlined.
 * @property {() => Promise<RunRow[]>} runs
 * @property {(name: string) => Promise<Run>} run
 * @property {(name: string, tag: string) => Promise<Matrix>} matrix
 * @property {(name: string, layers: number[]) => Promise<Curve[]>} curves
 * @property {(name: string) => Promise<Curve[]>} numbers
 * @property {(name: string, tags: string[]) => Promise<Units[]>} units
 *
 * @typedef {Record<string, any>} State What the address says.
 * @typedef {(change: State, options?: {quietly?: boolean, replace?: boolean}) => void} Go
 */

/**
 * The data as TensorBoard serves them. Addresses are relative, so that a path prefix needs no care.
 * @returns {Source}
 */
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
