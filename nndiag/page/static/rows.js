// The rows of a heat map: one a layer, or one a module.
import {grouped, inOrder} from './order.js';
/** @import {Matrix, Run} from './source.js' */

/**
 * @typedef {{name: string, members: number[], layer: string | null, group?: string, isOpen?: boolean}} Row
 */

/** A readable row, and how tall a heat map gets before it scrolls. */
export const ROW = 16, MOST = 660;

/**
 * Which layers share a row: one row each, or one a module. Layers without this reading are left out.
 * @param {Run} run
 * @param {string} mode
 * @param {Set<string>} opened
 * @param {Set<string>} named
 * @returns {Row[]}
 */
export function rowsOf(run, mode, opened, named) {
  const order = orderOf(run, named);
  const single = (place) => ({name: run.layers[place].name, members: [place], layer: run.layers[place].name});
  if (mode !== 'groups') return order.map(single);
  return grouped(run.layers, order).flatMap((group) => {
    if (group.members.length === 1) return [single(group.members[0])];
    const head = {name: `${group.name} (${group.members.length})`, members: group.members, layer: null, group: group.name, isOpen: opened.has(group.name)};
    return head.isOpen ? [head, ...group.members.map(single)] : [head];
  });
}

/**
 * @param {Run} run
 * @param {Set<string>} named
 */
export const orderOf = (run, named) => inOrder(run.layers).filter((place) => named.has(run.layers[place].name));

/**
 * Names of the layers that have a value at some step.
 * @param {Run} run
 * @param {Matrix} matrix
 * @returns {string[]}
 */
export function namesWithValues(run, matrix) {
  return run.layers.flatMap((layer, place) => (hasValues(matrix, place) ? [layer.name] : []));
}

/**
 * Whether a layer has a value at some step.
 * @param {Matrix} matrix
 * @param {number} place
 */
export function hasValues({steps, values}, place) {
  for (let j = place * steps.length; j < (place + 1) * steps.length; j += 1) if (!Number.isNaN(values[j])) return true;
  return false;
}

/**
 * How rows are shown where the user has not said.
 * @param {number} rows
 */
export const defaultRows = (rows) => (rows * ROW <= MOST ? 'full' : 'fit');
