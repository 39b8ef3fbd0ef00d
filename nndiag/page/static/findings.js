// How a run stands, and what was found: evidence, advice, what follows from it.
import {count, fact, h, layerName, many, number, plain, prose, title, toNumber, words} from './dom.js';
import {everyFinding, isActive, statusOf} from './order.js';
/** @import {Finding, Go, Run, RunRow, State} from './source.js' */

const MARKS = {critical: '■', warning: '▲', info: '●', resolved: '✓', ok: '✓'};
const NAMES = {critical: 'Critical', warning: 'Warning', info: 'Note'};
const CHECK = 'It worked when ';
const MOST_LAYERS = 4;

/** A severity by shape, word and color. */
export function mark(severity, text = NAMES[severity] ?? severity) {
  return h('span', {class: `mark ${severity}`}, h('span', {'aria-hidden': 'true'}, MARKS[severity] ?? '·'), text && ` ${text}`);
}

/**
 * The headline of a run.
 * @param {Finding[]} findings
 */
export function headline(findings) {
  const active = findings.filter(isActive);
  const n = (severity) => active.filter((finding) => finding.severity === severity).length;
  const parts = [];
  if (n('critical')) parts.push(`${n('critical')} critical`);
  if (n('warning')) parts.push(many(n('warning'), 'warning'));
  if (!parts.length) parts.push('no warnings');
  if (n('info')) parts.push(many(n('info'), 'note'));
  return parts.join(', ');
}

/**
 * One line for a list of runs.
 * @param {RunRow} run
 */
export function runLabel(run) {
  if (run.is_newer) return `${plain(run.name)}  (newer nndiag)`;
  return `${MARKS[statusOf(run.findings)]} ${plain(run.name) || '.'}  ·  ${headline(run.findings)}`;
}

/**
 * The status of a run at a glance.
 * @param {Run} run
 */
export function statusCard(run) {
  const status = statusOf(run.findings);
  const said = run.step == null ? [] : [
    many(run.layers.length, 'layer'), run.visits == null ? null : many(run.visits, 'visit'), `last step ${count(run.step)}`,
    run.is_complete ? 'the run has ended' : 'no end of the run seen yet',
  ].filter(Boolean);
  const isEmpty = run.step == null && !run.findings.length, word = isEmpty ? 'empty' : status;
  if (typeof run.facts.overhead === 'number') {
    const seconds = run.facts.overhead_seconds;
    const spent = typeof seconds !== 'number' ? '' : seconds < 1 ? `${Math.round(1000 * seconds)} ms or ` : `${Math.round(seconds)} s or `;
    said.push(`nndiag took ${spent}${(100 * run.facts.overhead).toFixed(1)}% of the time`);
  }
  return h('section', {class: `card status ${word}`, 'aria-label': 'Status'},
    h('span', {class: `big mark ${word}`, 'aria-hidden': 'true'}, isEmpty ? '–' : MARKS[status]),
    h('div', {},
      h('h2', {class: 'headline'}, isEmpty ? 'Nothing was measured' : title(headline(run.findings))),
      h('p', {class: 'muted'}, said.join(' · '))),
    coverage(run), factsOf(run));
}

/** Versions, samples, shares of time. */
function factsOf(run) {
  const rows = Object.entries(run.facts).filter(([, value]) => value != null);
  return rows.length ? h('details', {class: 'facts evidence'}, h('summary', {}, 'Facts of the run'),
    h('dl', {}, rows.map(([key, value]) => h('div', {}, h('dt', {}, words(key)), h('dd', {}, fact(value)))))) : null;
}

/**
 * What was measured, and plainly what was not.
 * @param {Run} run
 */
function coverage(run) {
  const total = {measured: 0, 'not observed': 0, 'not applicable': 0};
  for (const group of run.coverage) if (group.status in total) total[group.status] += group.layers.length;
  const unseen = run.coverage.filter((group) => group.status === 'not observed');
  const words_ = unseen.length
    ? `${count(total['not observed'])} of ${count(total.measured + total['not observed'])} pairs of layer and measure were not observed`
    : 'Every layer was observed by every measure that applies to it';
  if (!run.coverage.length) return null;
  return h('details', {class: 'coverage'},
    h('summary', {}, h('span', {}, words_)),
    unseen.length ? h('p', {class: 'muted'}, '“Not observed” says nothing about a layer, neither good nor bad.') : null,
    h('ul', {}, unseen.map((group) => h('li', {},
      h('b', {}, title(group.measure)), ': ', plain(group.reason || 'no reason known', 300), ' (', names(group.layers), ')'))),
    h('p', {class: 'muted'}, `Measured: ${count(total.measured)}. Not applicable: ${count(total['not applicable'])}.`),
    run.notes.map((note) => h('p', {class: 'muted'}, plain(note, 400))));
}

function names(layers) {
  const shown = layers.slice(0, MOST_LAYERS).flatMap((name) => [layerName(name), ', ']).slice(0, -1);
  return layers.length > MOST_LAYERS ? [...shown, ` and ${count(layers.length - MOST_LAYERS)} more`] : shown;
}

/**
 * All findings, with filters unless they are few; resolved ones are folded. `others`: rules of the run beside.
 * @param {Run} run
 * @param {State} state
 * @param {Go} go
 * @param {{others?: Set<string> | null, hasFilters?: boolean}} how
 */
export function findingsCard(run, state, go, {others = null, hasFilters = true} = {}) {
  const hidden = new Set((state.hide ?? '').split(',').filter(Boolean));
  const wanted = (finding) => !hidden.has(finding.severity) && (!state.of || everyFinding([finding]).some((f) => f.measure === state.of));
  const active = run.findings.filter(isActive), over = run.findings.filter((finding) => !isActive(finding));
  const list = (rows) => h('ol', {class: 'findings'}, rows.map((finding) => h('li', {}, item(finding, state, go, {others, hasSeries: run.is_series !== false}))));
  const shown = active.filter(wanted), folded = over.filter(wanted);
  return h('section', {class: 'card', 'aria-label': 'Findings'},
    h('div', {class: 'head'}, h('h2', {}, 'Findings'), hasFilters && run.findings.length ? filters(run, hidden, state, go) : null),
    shown.length ? list(shown) : h('p', {class: 'empty'}, nothing(run, active)),
    folded.length ? h('details', {class: 'resolved', open: folded.some((f) => holds(f, state.finding))},
      h('summary', {}, `${count(folded.length)} resolved`), list(folded)) : null);
}

function nothing(run, active) {
  if (active.length) return 'No active finding passes the filters above.';
  if (run.step == null) return 'nndiag has not looked at this run yet.';
  return 'Nothing is wrong as far as nndiag could see. Look at the coverage above for what it could not.';
}

function filters(run, hidden, state, go) {
  const toggle = (severity) => {
    const next = new Set(hidden);
    if (!next.delete(severity)) next.add(severity);
    go({hide: [...next].join(',')});
  };
  const measures = [...new Set(everyFinding(run.findings).map((finding) => finding.measure))].sort();
  return h('div', {class: 'filters', role: 'group', 'aria-label': 'Filter findings'},
    ['critical', 'warning', 'info'].map((severity) => {
      const n = run.findings.filter((finding) => isActive(finding) && finding.severity === severity).length;
      return h('button', {type: 'button', class: 'chip', 'aria-pressed': String(!hidden.has(severity)), 'data-key': `hide-${severity}`, onclick: () => toggle(severity)},
        mark(severity), ` ${count(n)}`);
    }),
    h('label', {class: 'inline'}, h('span', {class: 'hidden'}, 'Measure'),
      h('select', {'data-key': 'of', onchange: (event) => go({of: event.target.value})},
        h('option', {value: ''}, 'All measures'),
        measures.map((name) => h('option', {value: name, selected: name === state.of}, title(name))))));
}

const holds = (finding, rule) => everyFinding([finding]).some((each) => each.rule === rule);

/**
 * One finding: a line that opens.
 * @param {Finding} finding
 * @param {State} state
 * @param {Go} go
 * @param {{others?: Set<string> | null, hasSeries?: boolean}} how
 */
function item(finding, state, go, {others = null, hasSeries = true}) {
  const isOpen = holds(finding, state.finding);
  const severity = isActive(finding) ? finding.severity : 'resolved';
  return h('details', {class: `finding ${severity}`, open: isOpen, 'data-rule': finding.rule,
    ontoggle: (event) => { if (event.target.open !== isOpen) go({finding: event.target.open ? finding.rule : null}, {quietly: true}); }},
    h('summary', {},
      mark(severity, ''),
      h('span', {class: 'what'},
        h('span', {class: 'name'}, h('span', {class: 'hidden'}, `${NAMES[severity] ?? 'Resolved'}: `), title(finding.name),
          h('span', {class: 'rule'}, plain(finding.rule)),
          others && !others.has(finding.rule) ? h('span', {class: 'badge'}, 'only here') : null),
        h('span', {class: 'message'}, prose(finding.message, 600))),
      h('span', {class: 'where'}, finding.layers.length ? names(finding.layers.slice(0, 1)) : 'the run',
        finding.layers.length > 1 ? h('span', {class: 'muted'}, ` +${count(finding.layers.length - 1)}`) : null,
        h('span', {class: 'since'}, isActive(finding) ? `since step ${count(finding.first_step)}` : `steps ${count(finding.first_step)} to ${count(finding.last_step)}`))),
    h('div', {class: 'body'}, body(finding, go, hasSeries),
      (finding.related ?? []).length ? h('div', {class: 'related'}, h('h3', {}, 'What follows from it'), finding.related.map((each) => item(each, state, go, {hasSeries}))) : null));
}

function body(finding, go, hasSeries) {
  const [change, check] = String(finding.recommendation ?? '').split(CHECK);
  return [
    h('div', {class: 'advice'},
      h('h3', {}, 'What to do'), h('p', {}, prose(change)),
      check ? [h('h3', {}, 'How to see that it worked'), h('p', {}, 'Look whether ', prose(check))] : null,
      h('h3', {}, 'When'), h('p', {}, since(finding)),
      finding.layers.length > 1 ? [h('h3', {}, 'Layers'), h('p', {class: 'layers'}, finding.layers.slice(0, 40).map((name) => layerLink(name, go)),
        finding.layers.length > 40 ? ` and ${count(finding.layers.length - 40)} more` : null)] : null,
      h('p', {class: 'links'},
        finding.layers.length ? h('button', {type: 'button', class: 'link', onclick: () => go({view: 'layer', layer: finding.layers[0], rule: finding.rule})}, 'Look at the layer') : null,
        hasSeries ? h('button', {type: 'button', class: 'link', onclick: () => go({view: 'map', layer: finding.layers[0] ?? null, rule: finding.rule})}, 'Show on the heat map') : null)),
    h('div', {class: 'evidence'}, h('h3', {}, 'Evidence'), h('dl', {}, evidence(finding).map(([key, value]) => h('div', {}, h('dt', {}, key), h('dd', {}, value))))),
  ];
}

/** A layer that can be pressed. */
export function layerLink(name, go) {
  return h('button', {type: 'button', class: 'link', onclick: () => go({view: 'layer', layer: name})}, layerName(name));
}

/**
 * When it began, as exactly as the visits can tell.
 * @param {Finding} finding
 */
export function since(finding) {
  const clean = finding.last_clean_step == null ? 'it was never seen clean' : `step ${count(finding.last_clean_step)} was still clean`;
  if (!isActive(finding)) return `From step ${count(finding.first_step)} to ${count(finding.last_step)}, resolved since; ${clean}.`;
  return `Since step ${count(finding.first_step)}; ${clean}. Last seen at step ${count(finding.last_step)}.`;
}

/**
 * @param {Finding} finding
 * @returns {(string | Node)[][]}
 */
function evidence(finding) {
  const rows = [];
  if (finding.value != null) rows.push(['value judged', number(toNumber(finding.value))]);
  if (finding.value != null && finding.threshold != null) rows.push(['threshold', number(toNumber(finding.threshold))]);
  for (const [key, value] of Object.entries(finding.evidence ?? {})) if (value != null) rows.push([words(key), fact(value)]);
  return rows;
}
