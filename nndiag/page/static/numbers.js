// Numbers of the run as a whole, below the curves of its layers: the loss, the learning rate.
import {chart} from './chart.js';
import {h, plain, title, words} from './dom.js';
/** @import {Curve, Go, Run, State} from './source.js' */

const FIRST = ['loss', 'lr'];

/** @typedef {{run: Run, numbers: Curve[]}} Numbers */

/**
 * Those that change during the run, the loss first.
 * @param {Run} run
 * @param {Curve[]} curves
 * @returns {Curve[]}
 */
export function changing(run, curves) {
  const facts = new Map(run.numbers.map((row) => [row.tag, row]));
  const found = curves.filter(({tag, values}) => facts.has(tag) && new Set(values.filter(Number.isFinite)).size > 1)
    .map((curve) => ({...curve, name: facts.get(curve.tag).reading}));
  const place = ({name}) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
  return found.sort((a, b) => place(a) - place(b));
}

/**
 * A chart of one of them with a choice of the others; null where none changes. `frame` is the chart above; `beside` the runs with the same axis.
 * @param {Numbers[]} runs
 * @param {State} state
 * @param {Go} go
 * @param {{width: number, left?: number, right?: number, reach?: number[] | null}} frame
 * @param {Numbers[]} beside
 */
export function numbersPanel(runs, state, go, frame, beside = runs) {
  const [own] = runs, shown = own.numbers.find(({name}) => name === state.number) ?? own.numbers[0];
  if (!shown) return null;
  const curvesOf = (some) => some.flatMap(({run, numbers}) => numbers.filter(({name}) => name === shown.name).map((curve) => ({...within(curve, frame.reach), name: plain(run.name)})));
  const curves = curvesOf(runs), also = curvesOf(beside).flatMap(({values}) => values);
  if (!curves.some(({steps}) => steps.length)) return null;
  return h('div', {class: 'numbers'},
    h('label', {class: 'inline'}, h('span', {class: 'muted'}, 'The run: '),
      own.numbers.length > 1 ? h('select', {'data-key': 'number', onchange: (event) => go({number: event.target.value})},
        own.numbers.map(({name}) => h('option', {value: name, selected: name === shown.name}, words(name)))) : h('b', {}, words(shown.name))),
    chart({curves, label: `${title(shown.name)} of the run`, height: 110, hint: '', also, ...frame}));
}

/**
 * The part of a curve that stands below the chart above.
 * @param {Curve} curve
 * @param {number[] | null} reach
 */
function within(curve, reach) {
  const kept = curve.steps.map((step, k) => k).filter((k) => !reach || (curve.steps[k] >= reach[0] && curve.steps[k] <= reach[1]));
  return {...curve, steps: kept.map((k) => curve.steps[k]), values: kept.map((k) => curve.values[k])};
}
