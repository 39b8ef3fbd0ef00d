// The units of a layer: one by one, which of them are off, which of them are copies.
import {count, h, many, number, svg, title, toNumber, words} from './dom.js';
import {table} from './table.js';
/** @import {Units} from './source.js' */

const MOST_GROUPS = 12, MOST_NAMED = 24;
const HEIGHT = 96;

/**
 * The newest units of a layer, with a slider over earlier visits.
 * @param {Units} row
 */
export function unitsPanel(row) {
  const shots = row.snapshots.filter((shot) => shot.values.length);
  if (!shots.length) return null;
  const box = h('div', {});
  const show = (place) => box.replaceChildren(row.form === 'groups' ? groups(row, shots[place]) : bars(row, shots[place]));
  const slider = shots.length > 1 ? h('label', {class: 'slider'}, h('span', {class: 'muted'}, 'Visit'),
    h('input', {type: 'range', min: 0, max: shots.length - 1, value: shots.length - 1, 'aria-label': `Visit of the units of ${words(row.reading)}`, oninput: (event) => show(Number(event.target.value))})) : null;
  show(shots.length - 1);
  return h('div', {class: 'units'}, h('h3', {}, `${title(row.reading)} of each unit`), box, slider);
}

/**
 * One bar a unit; wide layers come as order statistics.
 * @param {Units} row
 * @param {{step: number, values: number[]}} shot
 */
function bars(row, {step, values}) {
  const finite = values.filter(Number.isFinite), high = Math.max(0, ...finite), low = Math.min(0, ...finite), span = high - low || 1;
  const width = values.length, isSorted = row.form === 'sorted';
  const y = (value) => HEIGHT - (value - low) / span * (HEIGHT - 4);
  const d = values.map((value, k) => (Number.isFinite(value) ? `M${k} ${y(0).toFixed(1)}h0.8V${Math.min(y(value), y(0) - 0.6).toFixed(1)}h-0.8z` : '')).join('');
  const zero = row.reading === 'dead_share' ? values.flatMap((value, k) => (value === 0 ? [k] : [])) : [];
  const off = zero.map((k) => `M${k} ${HEIGHT}h0.8v-4h-0.8z`).join('');
  const label = `${many(row.total, 'unit')}${isSorted ? `, ${values.length} of them in order of size` : ''} at step ${count(step)}: from ${number(Math.min(...finite))} to ${number(Math.max(...finite))}`;
  const facts = row.reading === 'dead_share' && !isSorted
    ? `${many(zero.length, 'unit')} of ${count(row.total)} ${zero.length === 1 ? 'was' : 'were'} never on: ${listed(zero)}.` : null;
  return h('figure', {},
    svg('svg', {class: 'bars', width: '100%', height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label},
      svg('path', {class: 'value', d}), svg('path', {class: 'off', d: off})),
    h('figcaption', {class: 'muted'}, label, '. ', row.reading === 'dead_share' ? 'A bar is the share of samples for which the unit is on. ' : null, facts),
    h('details', {class: 'fold'}, h('summary', {}, 'Show as table'), table(label, ['unit', words(row.reading)], values.map((value, k) => [isSorted ? `rank ${k}` : String(k), value]))));
}

function listed(units) {
  const shown = units.slice(0, MOST_NAMED).join(', ');
  return units.length ? (units.length > MOST_NAMED ? `${shown} and ${count(units.length - MOST_NAMED)} more` : shown) : 'none';
}

/**
 * Units with the same mark are copies of each other.
 * @param {Units} row
 * @param {{step: number, values: number[]}} shot
 */
function groups(row, {step, values}) {
  const found = new Map();
  values.map(toNumber).forEach((mark, unit) => found.set(mark, [...(found.get(mark) ?? []), unit]));
  const copies = [...found.values()].filter((units) => units.length > 1).sort((a, b) => b.length - a.length);
  const rest = row.total > values.length ? ` Of ${count(row.total)} units the first ${count(values.length)} are shown.` : '';
  return h('div', {},
    h('p', {}, copies.length ? `${many(copies.length, 'group')} of equal units at step ${count(step)}; ${count(found.size)} of ${count(values.length)} units are distinct.${rest}` : `All units are distinct at step ${count(step)}.${rest}`),
    h('ul', {class: 'groupslist'}, copies.slice(0, MOST_GROUPS).map((units) => h('li', {}, h('b', {}, `${units.length} equal: `), listed(units)))),
    copies.length > MOST_GROUPS ? h('p', {class: 'muted'}, `and ${many(copies.length - MOST_GROUPS, 'smaller group')}`) : null);
}
