// One layer: its curves, its findings, its units, and what could not be seen of it.
import {chart, spark} from './chart.js';
import {findingsCard, mark} from './findings.js';
import {h, layerName, many, number, plain, title, words} from './dom.js';
import {companions, everyFinding, inOrder, isActive, rank} from './order.js';
import {changing, numbersPanel} from './numbers.js';
import {keyOf} from './strips.js';
import {csvButton, table} from './table.js';
import {unitsPanel} from './units.js';
/** @import {Curve, Finding, Go, Reading, Run, Source, State, Units} from './source.js' */

const MOST_LISTED = 300;

/**
 * @typedef {Curve & {reading: Reading, name: string}} LayerCurve
 * @typedef {{curves: LayerCurve[], units: Units[], numbers: Curve[]}} LayerData
 */

/**
 * Findings about a layer, symptoms too.
 * @param {Run} run
 * @param {string} name
 * @returns {Finding[]}
 */
export const findingsOf = (run, name) => everyFinding(run.findings).filter((finding) => finding.layers.includes(name)).sort((a, b) => Number(isActive(b)) - Number(isActive(a)) || rank(b) - rank(a));

/**
 * Everything the page of a layer needs; nothing where the run has no such layer.
 * @param {Source} source
 * @param {Run} run
 * @param {string} name
 * @returns {Promise<LayerData>}
 */
export async function loadLayer(source, run, name) {
  const places = companions(run, name);
  if (!places.length) return {curves: [], units: [], numbers: []};
  const members = new Set(places.map((place) => run.layers[place].name));
  const tags = run.units.filter((row) => members.has(row.layer)).map((row) => row.tag);
  const [curves, units, numbers] = await Promise.all([source.curves(run.name, places), source.units(run.name, tags), source.numbers(run.name)]);
  const readings = new Map(run.readings.map((reading) => [reading.tag, reading]));
  return {units, numbers, curves: curves.map((curve) => ({...curve, reading: readings.get(curve.tag), name: run.layers[curve.layer].name}))};
}

/**
 * Which curve is drawn large: the one asked for, else one that a finding is about, else the first.
 * @param {LayerCurve[]} curves
 * @param {State} state
 * @param {Finding[]} findings
 * @returns {LayerCurve | undefined}
 */
export function chosen(curves, state, findings) {
  const asked = curves.find((curve) => keyOf(curve.reading) === state.reading);
  const judged = findings.map(({rule}) => curves.find((curve) => (curve.reading.rules ?? []).includes(rule)));
  return asked ?? judged.find(Boolean) ?? curves[0];
}

/**
 * The page. `others` are the same layer's curves in the run beside.
 * @param {Run} run
 * @param {State} state
 * @param {Go} go
 * @param {LayerData} data
 * @param {{run: Run, data: LayerData} | null} beside
 */
export function layerPage(run, state, go, data, beside) {
  const name = state.layer;
  const info = run.layers.find((layer) => layer.name === name);
  const findings = findingsOf(run, name);
  const main = chosen(data.curves, state, findings);
  const facts = info ? [info.kind, info.role, info.units && many(info.units, 'unit'), info.activation && `read by ${info.activation}`, info.is_output && 'output of the model'] : [];
  const head = h('section', {class: 'card', 'aria-label': 'Layer'},
    h('div', {class: 'head'}, h('h2', {class: 'headline'}, layerName(name, 90)), picker(run, state, go)),
    h('p', {class: 'muted'}, facts.filter(Boolean).map((each) => plain(each)).join(' · ')),
    neighbors(run, name, go));
  const large = h('section', {class: 'card', 'aria-label': 'Reading over the steps'});
  const isLine = main && (run.is_series !== false);
  const draw = () => { if (isLine) large.replaceChildren(...reading(large, main, run, state, go, findings, beside, data, beside?.data)); };
  if (!main) large.append(h('p', {class: 'empty'}, info ? 'No reading of this layer so far: see below why.' : 'This run has no layer of that name.'));
  const units = data.units.map(unitsPanel).filter(Boolean);
  return {
    cards: [
      head,
      findings.length ? findingsCard({...run, findings: findings.map((finding) => ({...finding, related: []}))}, {...state, hide: '', of: ''}, go, {hasFilters: false}) : null,
      isLine || !main ? large : null,
      data.curves.length > 1 || (main && !isLine) ? others(data.curves, isLine ? main : null, go) : null,
      units.length ? h('section', {class: 'card', 'aria-label': 'Units'}, h('h2', {}, 'Units'), units) : null,
      seen(run, name),
    ].filter(Boolean),
    draw,
  };
}

/** A list of the layers; of very many nobody would want it, and the field above finds them. */
function picker(run, state, go) {
  if (run.layers.length > MOST_LISTED) return null;
  const order = inOrder(run.layers);
  return h('label', {class: 'inline'}, h('span', {class: 'muted'}, 'Layer '),
    h('select', {'data-key': 'layer', onchange: (event) => go({layer: run.layers[Number(event.target.value)].name})},
      order.some((place) => run.layers[place].name === state.layer) ? null : h('option', {value: '', selected: true}, plain(state.layer, 60)),
      order.map((place) => h('option', {value: place, selected: run.layers[place].name === state.layer}, plain(run.layers[place].name, 60)))));
}

/** The layers before and after, in the order in which they run. */
function neighbors(run, name, go) {
  const order = inOrder(run.layers), at = order.findIndex((place) => run.layers[place].name === name);
  if (at < 0) return null;
  const link = (place, word) => (place == null ? null : h('button', {type: 'button', class: 'link', onclick: () => go({layer: run.layers[place].name})}, word, layerName(run.layers[place].name, 40)));
  return h('p', {class: 'neighbors'}, link(order[at - 1], '← '), link(order[at + 1], '→ '));
}

function reading(card, main, run, state, go, findings, beside, ...data) {
  const {reading: facts} = main;
  const twin = beside?.data.curves.find((curve) => curve.tag === main.tag && curve.name === main.name);
  const curves = [{...main, name: plain(run.name)}, ...(twin ? [{...twin, name: plain(beside.run.name)}] : [])];
  const used = findings.filter((finding) => isActive(finding) && (facts.rules ?? []).includes(finding.rule));
  const limits = Object.entries(facts.limits ?? {}).map(([rule, value]) => ({rule, value: findings.find((f) => f.rule === rule)?.threshold ?? value}));
  const label = `${title(facts.reading)} of ${plain(main.name)}`;
  const columns = ['step', ...curves.map((curve) => curve.name)];
  const rows = () => [...new Set(curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b)
    .map((step) => [step, ...curves.map((curve) => curve.values[curve.steps.indexOf(step)] ?? NaN)]);
  const isTable = state.table === 'curve';
  const width = Math.max(240, card.clientWidth - 48), steps = curves.flatMap((curve) => curve.steps);
  const runs = [run, beside?.run].filter(Boolean).map((each, k) => ({run: each, numbers: changing(each, data[k].numbers)}));
  const numbers = isTable ? null : numbersPanel(runs, state, go, {width, reach: [Math.min(...steps), Math.max(...steps)]});
  return [
    h('div', {class: 'head'},
      h('h2', {}, `${title(facts.measure)}: ${words(facts.reading)}`, main.name === state.layer ? null : [' of ', layerName(main.name)]),
      h('div', {class: 'tools'},
        h('button', {type: 'button', class: 'quiet', 'data-key': 'curve-table', 'aria-pressed': String(isTable), onclick: () => go({table: isTable ? null : 'curve'})}, 'Show as table'),
        csvButton(`${run.name}-${main.name}-${facts.reading}`, columns, rows),
        h('button', {type: 'button', class: 'quiet', onclick: () => go({view: 'map', reading: keyOf(facts), layer: main.name})}, 'On the heat map'))),
    facts.about ? h('p', {class: 'muted'}, plain(facts.about, 300)) : null,
    isTable ? table(label, columns, rows()) : chart({curves, limits, range: facts.range, label, width,
      marks: used.map(({first_step: step, severity, rule}) => ({step, severity, rule}))}),
    curves.length > 1 ? h('p', {class: 'keys'}, curves.map((curve, k) => h('span', {class: `key c${k}`}, curve.name))) : null,
    numbers,
    beside && !twin ? h('p', {class: 'muted'}, 'The run beside has no such reading of this layer.') : null,
  ].filter(Boolean);
}

function others(curves, main, go) {
  const facts = ({reading, values}) => [h('span', {class: 'muted'}, title(reading.measure)), h('b', {class: 'n'}, number(values.at(-1))), h('span', {class: 'mini-name'}, words(reading.reading))];
  const mini = (curve) => (main ? h('button', {type: 'button', class: 'mini', 'aria-pressed': String(curve === main), 'data-key': `mini-${curve.tag}-${curve.layer}`,
    onclick: () => go({reading: keyOf(curve.reading)})}, facts(curve), curve.values.length > 1 ? spark(curve) : null) : h('div', {class: 'mini'}, facts(curve)));
  return h('section', {class: 'card', 'aria-label': 'Other readings'}, h('h2', {}, 'All readings of this layer'), h('div', {class: 'minis'}, curves.map(mini)));
}

const STATES = ['measured', 'not observed', 'not applicable'];

/**
 * Coverage of a layer and the activations that read it: what one of them could not give, another may have.
 * @param {Run} run
 * @param {string} name
 */
function seen(run, name) {
  const members = new Set(companions(run, name).map((place) => run.layers[place].name).concat(name));
  const rows = run.coverage.filter((group) => group.layers.some((layer) => members.has(layer)));
  if (!rows.length) return null;
  const best = (measure) => STATES.find((status) => rows.some((row) => row.measure === measure && row.status === status));
  const lines = STATES.flatMap((status) => [...new Set(rows.map((row) => row.measure))].filter((measure) => best(measure) === status).sort()
    .map((measure) => ({measure, status, reasons: [...new Set(rows.filter((row) => row.measure === measure && row.status === status && row.reason).map((row) => row.reason))]})));
  const marks = {measured: mark('ok', ''), 'not observed': mark('warning', ''), 'not applicable': h('span', {class: 'mark muted'}, '–')};
  return h('section', {class: 'card', 'aria-label': 'Coverage'}, h('h2', {}, 'What nndiag could see here'),
    h('ul', {class: 'seen'}, lines.map(({measure, status, reasons}) => h('li', {}, marks[status].cloneNode(true),
      h('span', {}, h('b', {}, title(measure)), ` ${status}${reasons.length ? `: ${plain(reasons.join('; '), 300)}` : ''}`)))));
}
