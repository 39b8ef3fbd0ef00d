// The layers of a network in the order in which they run, and the modules they belong to.
/** @import {Finding, Layer, Run} from './source.js' */

/**
 * Places of layers, first to run first.
 * @param {Layer[]} layers
 * @returns {number[]}
 */
export function inOrder(layers) {
  return layers.map((_, place) => place).sort((a, b) => (layers[a].depth ?? 1e9) - (layers[b].depth ?? 1e9) || a - b);
}

/**
 * Consecutive layers of one module.
 * @param {Layer[]} layers
 * @param {number[]} order
 * @returns {{name: string, members: number[]}[]}
 */
export function grouped(layers, order) {
  const groups = [];
  for (const place of order) {
    const name = moduleOf(String(layers[place].name));
    if (groups.at(-1)?.name === name) groups.at(-1).members.push(place);
    else groups.push({name, members: [place]});
  }
  return groups;
}

/**
 * "blocks.3" of "blocks.3.mlp.fc1": up to the first number, where something follows; else the first part.
 * @param {string} name
 */
function moduleOf(name) {
  const parts = name.split(/[.:]/);
  const numbered = parts.findIndex((part, k) => k < parts.length - 1 && /^\d+$/.test(part));
  return numbered >= 0 ? parts.slice(0, numbered + 1).join('.') : parts[0];
}

/**
 * A layer and the activations that read it: to a person they are one place.
 * @param {Run} run
 * @param {string} name
 * @returns {number[]}
 */
export function companions(run, name) {
  return run.layers.flatMap((layer, place) => (layer.name === name || layer.source === name ? [place] : []));
}

/**
 * Findings and their symptoms in one list.
 * @param {Finding[]} findings
 * @returns {Finding[]}
 */
export function everyFinding(findings) {
  return findings.flatMap((finding) => [finding, ...everyFinding(finding.related ?? [])]);
}

/**
 * @param {Finding} finding
 */
export const isActive = (finding) => finding.status === 'active';

const RANK = {critical: 2, warning: 1, info: 0};

/**
 * Graver first.
 * @param {Finding} finding
 * @returns {number}
 */
export const rank = (finding) => RANK[finding.severity] ?? 0;

/**
 * The worst active severity of each layer.
 * @param {Run} run
 * @returns {Map<string, string>}
 */
export function severities(run) {
  const found = new Map();
  for (const finding of everyFinding(run.findings).filter(isActive)) {
    for (const layer of finding.layers) {
      if (!found.has(layer) || rank(finding) > RANK[found.get(layer)]) found.set(layer, finding.severity);
    }
  }
  return found;
}

/**
 * The word for a run as a whole.
 * @param {Finding[]} findings
 */
export function statusOf(findings) {
  const worst = Math.max(-1, ...everyFinding(findings).filter(isActive).map(rank));
  return worst === 2 ? 'critical' : worst === 1 ? 'warning' : 'ok';
}
