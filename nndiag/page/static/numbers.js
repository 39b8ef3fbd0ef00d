// Numbers of the run as a whole, below the curves of its layers: the loss, the learning rate.
import {chart} from './chart.js';
import {h, plain, title, words} from './dom.js';

const FIRST = ['loss', 'lr'];

/** Those that change during the run, the loss first. */
export function changing(run, curves) {
  const facts = new Map(run.numbers.map((row) => [row.tag, row]));
  const found = curves.filter(({tag, values}) => facts.has(tag) && new Set(values.filter(Number.isFinite)).size > 1)
    .map((curve) => ({...curve, name: facts.get(curve.tag).reading}));
  const place = ({name}) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
  return found.sort((a, b) => place(a) - place(b));
}

/** A chart of one of them with a choice of the others; null where none changes. `frame` is the chart above. */
export function numbersPanel(runs, state, go, frame) {
  const [own] = runs, shown = own.numbers.find(({name}) => name === state.number) ?? own.numbers[0];
  if (!shown) return null;
  const curves = runs.flatMap(({run, numbers}) => numbers.filter(({name}) => name === shown.name).map((curve) => ({...within(curve, frame.reach), name: plain(run.name)})));
  if (!curves.some(({steps}) => steps.length)) return null;
  return h('div', {class: 'numbers'},
    h('label', {class: 'inline'}, h('span', {class: 'muted'}, 'The run: '),
      own.numbers.length > 1 ? h('select', {'data-key': 'number', onchange: (event) => go({number: event.target.value})},
        own.numbers.map(({name}) => h('option', {value: name, selected: name === shown.name}, words(name)))) : h('b', {}, words(shown.name))),
    chart({curves, label: `${title(shown.name)} of the run`, height: 110, hint: '', ...frame}));
}

/** The part of a curve that stands below the chart above. */
function within(curve, reach) {
  const kept = curve.steps.map((step, k) => k).filter((k) => !reach || (curve.steps[k] >= reach[0] && curve.steps[k] <= reach[1]));
  return {...curve, steps: kept.map((k) => curve.steps[k]), values: kept.map((k) => curve.values[k])};
}
