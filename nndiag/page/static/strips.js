// The network at a glance: each reading a strip, the layers from left to right as they run.
import {color, fitted, h, layerName, number, plain, title, words} from './dom.js';
import {grouped, inOrder, severities} from './order.js';
import {makeScale, shade, shades} from './scale.js';
import {csvButton, table} from './table.js';
/** @import {Go, Reading, Run, State} from './source.js' */

const HEIGHT = 18;
const MOST_GROUPS = 24, MOST_NAMED = 12;
const THIN = 3;
const SEVERITIES = ['info', 'warning', 'critical'];

/**
 * The card; `draw(isDark)` paints it. A run `beside` has the same rows and colors.
 * @param {Run} run
 * @param {State} state
 * @param {Go} go
 * @param {Run | null} beside
 */
export function stripsCard(run, state, go, beside = null) {
  const order = inOrder(run.layers), readings = run.readings.filter(hasValue);
  const twins = new Map((beside?.readings ?? []).filter(hasValue).map((reading) => [keyOf(reading), reading]));
  const readout = h('p', {class: 'readout', role: 'status'}, hint(run));
  const painters = [];
  const found = severities(run);
  const say = (text) => { readout.replaceChildren(...text); };
  const open = (reading, place) => go({view: run.is_series === false ? 'layer' : 'map', reading: keyOf(reading), layer: place == null ? state.layer : run.layers[place].name});

  const measures = byMeasure([...readings, ...missing(readings, twins, run.layers.length)]);
  const rows = measures.flatMap(([measure, own]) => [
    h('h3', {class: 'measure', title: plain(own[0].about, 300)}, title(measure)),
    own.map((reading) => strip(run, order, reading, {painters, say, open, twin: twins.get(keyOf(reading))})),
  ]);
  const place = run.layers.some((layer) => layer.depth != null) ? 'Layers run from left to right.' : 'A column is a layer.';
  const columns = ['layer', ...readings.map((r) => `${r.measure}/${r.reading}`)];
  const asRows = () => order.map((place) => [run.layers[place].name, ...readings.map((r) => r.values[place])]);
  const card = h('section', {class: 'card', 'aria-label': 'All measures by layer'},
    h('div', {class: 'head'}, h('h2', {}, 'The network at a glance'),
      h('div', {class: 'tools'},
        h('button', {type: 'button', class: 'quiet', 'data-key': 'strips-table', 'aria-pressed': String(state.table === 'strips'), onclick: () => go({table: state.table === 'strips' ? null : 'strips'})}, 'Show as table'),
        csvButton(`${run.name}-newest`, columns, asRows))),
    h('p', {class: 'muted'}, `Newest value of each reading. ${place} Violet wants a look: a rule judges that reading. Gray only says how large a value is; a thin line is no value; ratios are orange below 1 and violet above.`),
    state.table === 'strips' ? table(`Newest values of ${plain(run.name)}`, columns, asRows())
      : [h('div', {class: 'strips'}, groupNames(run, order), found.size || beside ? foundStrip(run, order, found, {painters, say, go}) : null, rows), readout]);
  return {card, draw: (isDark) => painters.forEach((paint) => paint(isDark))};
}

/**
 * The name of a reading in the address.
 * @param {{measure: string, reading: string}} reading
 */
export const keyOf = (reading) => `${reading.measure}/${reading.reading}`;

const hint = (run) => `Point at a strip to read a value; press to ${run.is_series === false ? 'open the layer' : 'see it over the steps'}.`;

/**
 * @param {Reading} reading
 */
const hasValue = (reading) => reading.values.some((value) => !Number.isNaN(value));

/**
 * Rows for what only the run beside has, so that equal readings stand side by side.
 * @param {Reading[]} readings
 * @param {Map<string, Reading>} twins
 * @param {number} layers
 * @returns {Reading[]}
 */
function missing(readings, twins, layers) {
  const own = new Set(readings.map(keyOf));
  return [...twins].filter(([key]) => !own.has(key)).map(([, twin]) => ({...twin, values: Array(layers).fill(NaN), steps: Array(layers).fill(null)}));
}

/**
 * @param {Reading[]} readings
 * @returns {[string, Reading[]][]}
 */
function byMeasure(readings) {
  const found = new Map();
  for (const reading of readings) found.set(reading.measure, [...(found.get(reading.measure) ?? []), reading]);
  const named = (a, b) => (keyOf(a) < keyOf(b) ? -1 : 1);
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([measure, own]) => [measure, own.sort(named)]);
}

function strip(run, order, reading, {painters, say, open, twin}) {
  const scale = makeScale(reading, twin ? [reading, twin] : [reading]), canvas = h('canvas', {'aria-hidden': 'true'});
  const seen = order.filter((place) => !Number.isNaN(reading.values[place]));
  const worst = seen.reduce((best, place) => (best == null || scale.badness(reading.values[place]) > scale.badness(reading.values[best]) ? place : best), null);
  const value = worst == null ? '–' : number(reading.values[worst]);
  let at = null;
  const tell = (column) => {
    const place = order[column];
    at = column;
    say([layerName(run.layers[place].name), ` · ${words(reading.reading)} ${number(reading.values[place])}`, reading.steps[place] == null ? ' (no value)' : ` at step ${reading.steps[place].toLocaleString('en')}`]);
  };
  const badness = order.map((place) => (Number.isNaN(reading.values[place]) ? -Infinity : scale.badness(reading.values[place])));
  painters.push((isDark) => {
    const lut = shades(scale, isDark);
    paint(canvas, badness, (column) => {
      const index = shade(scale, reading.values[order[column]]);
      return index < 0 ? null : `rgb(${lut[index * 3]} ${lut[index * 3 + 1]} ${lut[index * 3 + 2]})`;
    });
  });
  const columnOf = (event) => columnAt(canvas, badness, event);
  const keys = (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step) return;
    event.preventDefault();
    tell(Math.max(0, Math.min(order.length - 1, (at ?? (step > 0 ? -1 : order.length)) + step)));
  };
  return [
    h('button', {type: 'button', class: 'reading link', 'data-reading': keyOf(reading), onkeydown: keys, onclick: () => open(reading, at ?? worst),
      'aria-label': `${words(reading.measure)}: ${words(reading.reading)}, worst ${value}${worst == null ? '' : ` at ${plain(run.layers[worst].name)}`}. Arrow keys go through the layers.`}, words(reading.reading)),
    h('div', {class: 'strip', onpointermove: (event) => tell(columnOf(event)), onpointerleave: () => { at = null; say([hint(run)]); }, onclick: (event) => open(reading, order[columnOf(event)])}, canvas),
    h('span', {class: 'worst n', title: worst == null ? '' : `worst: ${plain(run.layers[worst].name)}`}, value),
  ];
}

function foundStrip(run, order, found, {painters, say, go}) {
  const canvas = h('canvas', {'aria-hidden': 'true'});
  const severity = (column) => found.get(run.layers[order[column]].name);
  const badness = order.map((_, column) => SEVERITIES.indexOf(severity(column)));
  painters.push(() => paint(canvas, badness, (column) => (severity(column) ? color(`--${severity(column)}-fill`) : null)));
  const layerAt = (event) => run.layers[order[columnAt(canvas, badness, event)]].name;
  const tell = (event) => { const name = layerAt(event); say([layerName(name), ` · ${found.get(name) ?? 'no active finding'}`]); };
  return [h('span', {class: 'reading strong'}, 'findings'),
    h('div', {class: 'strip', onpointermove: tell, onclick: (event) => go({view: 'layer', layer: layerAt(event)})}, canvas),
    h('span', {class: 'worst n', title: 'layers with an active finding'}, String(found.size))];
}

/**
 * Paints columns; where they are thinner than a pixel, the worst of a pixel is what shows.
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} badness
 * @param {(column: number) => string | null} fill
 */
function paint(canvas, badness, fill) {
  const width = canvas.parentElement.clientWidth, none = color('--none');
  if (!width) return;
  const context = fitted(canvas, width, HEIGHT), bars = Math.min(badness.length, Math.floor(width));
  for (let bar = 0; bar < bars; bar += 1) {
    const [left, w] = spot(bar, bars, width), shown = fill(worstOf(badness, bar, bars));
    const size = shown == null ? THIN : HEIGHT;
    context.fillStyle = shown ?? none;
    context.fillRect(left, (HEIGHT - size) / 2, w, size);
  }
}

/**
 * The column under the pointer: the one that is painted there.
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} badness
 * @param {PointerEvent | MouseEvent} event
 */
function columnAt(canvas, badness, event) {
  const box = canvas.getBoundingClientRect(), bars = Math.min(badness.length, Math.floor(box.width));
  const bar = Math.floor((event.clientX - box.left) / box.width * bars);
  return worstOf(badness, Math.max(0, Math.min(bars - 1, bar)), bars);
}

/**
 * The worst column of those that share a bar.
 * @param {number[]} badness
 * @param {number} bar
 * @param {number} bars
 */
function worstOf(badness, bar, bars) {
  const from = Math.floor(bar * badness.length / bars), to = Math.max(from + 1, Math.floor((bar + 1) * badness.length / bars));
  let worst = from;
  for (let column = from + 1; column < to; column += 1) if (badness[column] > badness[worst]) worst = column;
  return worst;
}

/** Where a column begins and how wide it is: whole pixels, as edges between them would show as stripes. */
function spot(column, columns, width) {
  const left = Math.round(column / columns * width), w = Math.max(1, Math.round((column + 1) / columns * width) - left);
  return [left, w > 6 ? w - 1.5 : w];
}

/** Names above the strips: of the layers where they are few, else of modules, as wide as they have layers. */
function groupNames(run, order) {
  const groups = order.length <= MOST_NAMED ? order.map((place) => ({name: lastPart(run.layers[place].name), members: [place]})) : grouped(run.layers, order);
  if (groups.length < 2 || groups.length > MOST_GROUPS) return null;
  return [h('span', {class: 'edge'}), h('div', {class: 'groups', 'aria-hidden': 'true'}, groups.map((group) => {
    const isWide = group.members.length > 0.04 * order.length;
    const label = h('span', {title: plain(group.name)}, isWide ? plain(group.name, 40) : '');
    label.style.flexGrow = String(group.members.length);
    return label;
  })), h('span', {class: 'edge'})];
}

/** "relu#1" of "net:relu#1": what tells neighbors apart. */
const lastPart = (name) => String(name).split(/[.:]/).at(-1) || String(name);
