// The layers of a network in the order in which they run, and the modules they belong to.

/** Places of layers, first to run first. */
export function inOrder(layers) {
  return layers.map((_, place) => place).sort((a, b) => (layers[a].depth ?? 1e9) - (layers[b].depth ?? 1e9) || a - b);
}

/** Consecutive layers of one module. */
export function grouped(layers, order) {
  const groups = [];
  for (const place of order) {
    const name = moduleOf(String(layers[place].name));
    if (groups.at(-1)?.name === name) groups.at(-1).members.push(place);
    else groups.push({name, members: [place]});
  }
  return groups;
}

/** "blocks.3" of "blocks.3.mlp.fc1": up to the first number, where something follows; else the first part. */
function moduleOf(name) {
  const parts = name.split(/[.:]/);
  const numbered = parts.findIndex((part, k) => k < parts.length - 1 && /^\d+$/.test(part));
  return numbered >= 0 ? parts.slice(0, numbered + 1).join('.') : parts[0];
}

/** A layer and the activations that read it: to a person they are one place. */
export function companions(run, name) {
  return run.layers.flatMap((layer, place) => (layer.name === name || layer.source === name ? [place] : []));
}

/** Findings and their symptoms in one list. */
export function everyFinding(findings) {
  return findings.flatMap((finding) => [finding, ...everyFinding(finding.related ?? [])]);
}

export const isActive = (finding) => finding.status === 'active';

const RANK = {critical: 2, warning: 1, info: 0};

/** Graver first. */
export const rank = (finding) => RANK[finding.severity] ?? 0;

/** The worst active severity of each layer. */
export function severities(run) {
  const found = new Map();
  for (const finding of everyFinding(run.findings).filter(isActive)) {
    for (const layer of finding.layers) {
      if (!found.has(layer) || rank(finding) > RANK[found.get(layer)]) found.set(layer, finding.severity);
    }
  }
  return found;
}

/** The word for a run as a whole. */
export function statusOf(findings) {
  const worst = Math.max(-1, ...everyFinding(findings).filter(isActive).map(rank));
  return worst === 2 ? 'critical' : worst === 1 ? 'warning' : 'ok';
}
