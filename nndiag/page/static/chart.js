// Small line charts, drawn as SVG: curves, limits, and where findings began.
import {count, h, number, svg} from './dom.js';
/** @import {Curve} from './source.js' */

const PAD = {left: 58, right: 14, top: 12, bottom: 26};
const WIDE = 100;

/**
 * A chart. `curves` are {name, steps, values}; `limits` {rule, value}; `marks` {step, severity, rule}.
 * Values that are not finite leave a gap. `left`, `right` and `reach` put it in line with what stands above it;
 * `also` are values of a chart beside it that its axis should hold too.
 * @param {{curves: Curve[], limits?: {rule: string, value: number}[], marks?: {step: number, severity: string, rule: string}[], also?: number[],
 *   range?: number[] | null, label: string, width: number, height?: number, left?: number, right?: number, reach?: number[] | null, hint?: string}} how
 */
export function chart({curves, limits = [], marks = [], also = [], range = null, label, width, height = 240, left = PAD.left, right = PAD.right, reach = null, hint = 'Point at the curve, or use the arrow keys.'}) {
  const finite = curves.flatMap((curve) => curve.values.filter(Number.isFinite));
  const steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b);
  if (!finite.length) return h('p', {class: 'empty'}, 'No value is a finite number.');
  const near = limits.filter(({value}) => isNear(value, finite));
  const y = axis(finite.concat(near.map((limit) => limit.value), also.filter(Number.isFinite)), range, height - PAD.bottom, PAD.top);
  const ends = reach ?? [steps[0], steps.at(-1)], x = horizontal(ends, left, width - right);
  const readout = h('p', {class: 'readout', role: 'status'}, hint);
  const cursor = svg('line', {class: 'cursor', y1: PAD.top, y2: height - PAD.bottom, visibility: 'hidden'});
  const dots = curves.map((_, k) => svg('circle', {class: `dot c${k}`, r: 3.5, visibility: 'hidden'}));
  const drawing = svg('svg', {class: 'chart', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0, 'aria-label': described(label, curves)},
    y.ticks.map((value) => [svg('line', {class: 'grid', x1: left, x2: width - right, y1: y.at(value), y2: y.at(value)}),
      svg('text', {class: 'tick', x: left - 8, y: y.at(value) + 3.5, 'text-anchor': 'end'}, number(value))]),
    ticksOf(ends, width - left).map((step) => svg('text', {class: 'tick', x: x(step), y: height - 8, 'text-anchor': 'middle'}, count(step))),
    near.map(({rule, value}) => [svg('line', {class: 'limit', x1: left, x2: width - right, y1: y.at(value), y2: y.at(value)}),
      svg('text', {class: 'tick limit-name', x: width - right, y: y.at(value) - 4, 'text-anchor': 'end'}, `${rule} ${number(value)}`)]),
    marks.map(({step, severity, rule}) => [svg('line', {class: `began ${severity}`, x1: x(step), x2: x(step), y1: PAD.top, y2: height - PAD.bottom}),
      svg('text', {class: `tick began-name ${severity}`, x: x(step) + 4, y: PAD.top + 8}, rule)]),
    curves.map((curve, k) => svg('path', {class: `curve c${k}`, d: path(curve, x, y.at)})),
    cursor, dots);
  const show = (step) => {
    for (const end of ['x1', 'x2']) cursor.setAttribute(end, String(x(step)));
    cursor.setAttribute('visibility', 'visible');
    const said = curves.map((curve, k) => {
      const value = valueAt(curve, step);
      dots[k].setAttribute('visibility', Number.isFinite(value) ? 'visible' : 'hidden');
      if (Number.isFinite(value)) { dots[k].setAttribute('cx', String(x(step))); dots[k].setAttribute('cy', String(y.at(value))); }
      return `${curves.length > 1 ? `${curve.name} ` : ''}${number(value)}`;
    });
    readout.textContent = `step ${count(step)} · ${said.join(' · ')}`;
  };
  let place = steps.length;
  drawing.addEventListener('pointermove', (event) => {
    const at = (event.clientX - drawing.getBoundingClientRect().left);
    place = steps.reduce((best, step, k) => (Math.abs(x(step) - at) < Math.abs(x(steps[best]) - at) ? k : best), 0);
    show(steps[place]);
  });
  drawing.addEventListener('keydown', (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!move) return;
    event.preventDefault();
    place = Math.max(0, Math.min(steps.length - 1, place + move));
    show(steps[place]);
  });
  return h('div', {class: 'chartbox'}, drawing, readout);
}

/**
 * A curve without axes.
 * @param {Curve} curve
 */
export function spark(curve, width = 150, height = 34) {
  const values = curve.values.filter(Number.isFinite);
  if (values.length < 2) return svg('svg', {class: 'spark', width, height, 'aria-hidden': 'true'});
  const top = Math.max(...values), isFlat = top === Math.min(...values);
  const low = isFlat ? top - 0.5 : Math.min(...values), span = isFlat ? 1 : top - low;
  const first = curve.steps[0], reach = curve.steps.at(-1) - first || 1;
  const d = path(curve, (step) => (step - first) / reach * (width - 4) + 2, (value) => height - 3 - (value - low) / span * (height - 6));
  return svg('svg', {class: 'spark', width: '100%', height, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    svg('path', {class: 'curve c0', d}));
}

/** A limit far from every value would press the curve flat. */
function isNear(value, finite) {
  const low = Math.min(...finite), high = Math.max(...finite), span = high - low || Math.abs(high) || 1;
  return value >= low - 3 * span && value <= high + 3 * span;
}

function described(label, curves) {
  const ends = curves.filter(({steps}) => steps.length).map(({name, steps, values}) => `${name}: ${number(values[0])} at step ${count(steps[0])}, ${number(values.at(-1))} at step ${count(steps.at(-1))}`);
  return `${label}. ${ends.join('; ')}`;
}

/**
 * @param {Curve} curve
 * @param {number} step
 */
function valueAt(curve, step) {
  const place = curve.steps.indexOf(step);
  return place < 0 ? NaN : curve.values[place];
}

function path({steps, values}, x, y) {
  let d = '', isDown = false;
  steps.forEach((step, k) => {
    if (!Number.isFinite(values[k])) { isDown = false; return; }
    d += `${isDown ? 'L' : 'M'}${x(step).toFixed(1)} ${y(values[k]).toFixed(1)}`;
    if (!isDown && !Number.isFinite(values[k + 1])) d += 'h0.1';
    isDown = true;
  });
  return d;
}

/** @param {number[]} ends */
function horizontal([first, last], left, right) {
  const span = last - first || 1;
  return (step) => left + (Math.max(first, Math.min(last, step)) - first) / span * (right - left);
}

/**
 * Round steps.
 * @param {number[]} ends
 * @param {number} width
 * @returns {number[]}
 */
export function ticksOf([first, last], width) {
  const most = Math.max(1, Math.min(7, Math.floor(width / 90))), span = last - first;
  if (!span) return [first];
  const size = nice(span / most), start = Math.ceil(first / size) * size;
  return Array.from({length: Math.floor((last - start) / size) + 1}, (_, k) => start + k * size).filter(Number.isInteger);
}

/** The vertical axis: logarithmic where values are positive and far apart. */
function axis(values, range, bottom, top) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low > 0 && high / low > WIDE && !range) return logarithmic(low, high, bottom, top);
  if (range && low >= range[0] && high <= range[1]) [low, high] = [range[0], high > 0.25 * range[1] ? range[1] : high * 1.15 || range[1]];
  if (low > 0 && low < 0.6 * high) low = 0;
  const size = nice((high - low || Math.abs(high) || 1) / 4);
  low = Math.floor(low / size) * size;
  high = Math.max(low + size, Math.ceil(high / size) * size);
  const ticks = Array.from({length: Math.round((high - low) / size) + 1}, (_, k) => Number((low + k * size).toPrecision(10)));
  return {ticks, at: (value) => bottom - (value - low) / (high - low) * (bottom - top)};
}

function logarithmic(low, high, bottom, top) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const every = Math.ceil((to - from) / 5);
  const ticks = Array.from({length: Math.floor((to - from) / every) + 1}, (_, k) => Number(`1e${from + k * every}`));
  return {ticks, at: (value) => bottom - (Math.log10(value) - from) / (to - from) * (bottom - top)};
}

function nice(size) {
  const power = 10 ** Math.floor(Math.log10(size)), part = size / power;
  return (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10) * power;
}
