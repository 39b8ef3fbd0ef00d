// From a value to a color. Where a rule judges a reading, the color says how bad a value is: calm where it is
// fine, strong from the rule's threshold on. Where none does, a plain ramp says how large it is and no more.
import {number} from './dom.js';
/** @import {Scaled} from './source.js' */

const CALM_TO_BAD = {
  light: ['#e4ebf4', '#dce6f1', '#cedceb', '#bfd3e6', '#a3b9d9', '#8c86bf', '#88519d', '#810f7c', '#4d004b'],
  dark: ['#363d4b', '#354054', '#344563', '#3a5078', '#4d66a0', '#7d7cc4', '#b08ad4', '#dda4dc', '#ffe3f1'],
};
const SMALL_TO_LARGE = {
  light: ['#e9edf2', '#dfe5ec', '#cfd8e2', '#b9c5d4', '#9dadc2', '#8196b0', '#677f9d'],
  dark: ['#363c47', '#39424f', '#3f4a5b', '#48566c', '#556580', '#687b99', '#7f94b3'],
};
const BELOW_TO_ABOVE = {
  light: ['#7f3b08', '#b35806', '#e08214', '#fdb863', '#f4f4f4', '#b2abd2', '#8073ac', '#542788', '#2d004b'],
  dark: ['#ffd9a0', '#f6b26b', '#c9822f', '#7d5426', '#2b2f38', '#4a4577', '#7a6fc0', '#a99be6', '#dcd5fb'],
};
const SHADES = 256;
const WIDE = 50;
const AT_LIMIT = 0.65;

/**
 * @typedef {object} Scale
 * @property {(value: number) => number} place 0 to 1 in the order of the palette.
 * @property {(place: number) => number} value The inverse.
 * @property {(value: number) => number} badness
 * @property {{light: string[], dark: string[]}} palette
 * @property {string} direction
 * @property {{rule: string, value: number}[]} limits
 * @property {boolean} isFixed
 * @property {boolean} isLow
 */

/**
 * How one reading is colored; several extents (of runs to compare) are joined.
 * @param {Scaled} reading
 * @param {Scaled[]} extents
 * @returns {Scale}
 */
export function makeScale(reading, extents = [reading]) {
  const low = Math.min(...kept(extents, 'smallest')), high = Math.max(...kept(extents, 'largest'));
  const limits = Object.entries(reading.limits ?? {}).map(([rule, value]) => ({rule, value}));
  const isLow = reading.worst === 'low';
  const facts = {limits, isFixed: false, isLow, palette: SMALL_TO_LARGE, direction: 'stronger is larger', badness: (v) => (isLow ? -v : v)};
  if (reading.worst === 'far from one') return {...facts, ...aroundOne(low, high, limits)};
  const judged = reading.judged ? {palette: CALM_TO_BAD, direction: isLow ? 'lower is worse' : 'higher is worse'} : {};
  if (reading.range) return {...facts, ...judged, ...linear(...(isLow && reading.judged ? [...reading.range].reverse() : reading.range)), isFixed: true};
  if (reading.judged && limits.length === 1 && limits[0].value > 0) return {...facts, ...judged, ...aroundLimit(limits[0].value, low, high, isLow)};
  const [from, to] = [least(extents), most(extents)];
  return {...facts, ...judged, ...(from > 0 && to / from > WIDE ? logarithmic(from, to) : linear(from >= 0 && from < 0.5 * to ? 0 : from, to))};
}

const kept = (extents, key) => extents.map((extent) => extent[key]).filter((value) => value != null);
const least = (extents) => (kept(extents, 'low').length ? Math.min(...kept(extents, 'low')) : 0);
const most = (extents) => (kept(extents, 'high').length ? Math.max(...kept(extents, 'high')) : 1);

/** Each scale has `place(value)`, 0 to 1 in the order of its palette, and the inverse. */
function linear(from, to) {
  const span = to - from || 1;
  return {place: (v) => (v - from) / span, value: (t) => from + t * span};
}

function logarithmic(from, to) {
  const start = Math.log(from), span = Math.log(to) - start || 1;
  return {place: (v) => (v > 0 ? (Math.log(v) - start) / span : 0), value: (t) => Math.exp(start + t * span)};
}

/** Calm up to a rule's threshold; beyond it by how many times it is exceeded. */
function aroundLimit(limit, low, high, isLow) {
  const ratio = (v) => (isLow ? (v > 0 ? limit / v : Infinity) : Math.max(0, v / limit));
  const reach = Math.log(Math.min(1e6, Math.max(4, ratio(isLow ? low : high))));
  const ofRatio = (r) => (r <= 1 ? AT_LIMIT * r : AT_LIMIT + (1 - AT_LIMIT) * Math.log(r) / reach);
  const inverse = (t) => (t <= AT_LIMIT ? t / AT_LIMIT : Math.exp((t - AT_LIMIT) / (1 - AT_LIMIT) * reach));
  return {place: (v) => ofRatio(ratio(v)), value: (t) => (isLow ? limit / inverse(t) : limit * inverse(t))};
}

/** Both sides of 1, on a logarithmic axis that reaches at least to a hundredth and to a hundred. */
function aroundOne(low, high, limits) {
  const far = [low, high].map((v) => (v > 0 && Number.isFinite(v) ? Math.abs(Math.log(v)) : 0));
  const reach = Math.min(Math.log(1e4), Math.max(limits.length ? Math.log(10) : Math.log(100), ...far));
  return {
    place: (v) => (v > 0 ? 0.5 + Math.log(v) / reach / 2 : 0), value: (t) => Math.exp((t - 0.5) * 2 * reach),
    palette: BELOW_TO_ABOVE, direction: '1 is even; below it orange, above it violet', badness: (v) => (v > 0 ? Math.abs(Math.log(v)) : Infinity),
  };
}

/**
 * 256 colors as bytes, in the order of places.
 * @param {Scale} scale
 * @param {boolean} isDark
 */
export function shades({palette}, isDark) {
  const anchors = palette[isDark ? 'dark' : 'light'].map(bytes);
  const table = new Uint8ClampedArray(SHADES * 3);
  for (let i = 0; i < SHADES; i += 1) {
    const t = i / (SHADES - 1) * (anchors.length - 1), a = Math.min(Math.floor(t), anchors.length - 2);
    for (let c = 0; c < 3; c += 1) table[i * 3 + c] = anchors[a][c] + (anchors[a + 1][c] - anchors[a][c]) * (t - a);
  }
  return table;
}

/**
 * The color of a value in that table; -1 where there is no value.
 * @param {Scale} scale
 * @param {number} value
 */
export function shade(scale, value) {
  if (Number.isNaN(value)) return -1;
  return Math.max(0, Math.min(SHADES - 1, Math.round(scale.place(value) * (SHADES - 1))));
}

/**
 * The words at the two ends of a legend.
 * @param {Scale} scale
 */
export function ends(scale) {
  const mark = (t) => number(Number(scale.value(t).toPrecision(3)));
  if (scale.isFixed) return [mark(0), mark(1)];
  const isFalling = scale.value(1) < scale.value(0);
  return [`${isFalling ? '≥' : '≤'} ${mark(0)}`, `${isFalling ? '≤' : '≥'} ${mark(1)}`];
}

function bytes(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
