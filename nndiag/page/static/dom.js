// Elements and words. Every text goes through text nodes: names and messages come from others.

const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;
const MOST = 120;

/**
 * An element. Attributes that are null or false are left out; `on...` are listeners.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} attributes
 * @param {...any} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/**
 * The same for drawings.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} attributes
 * @param {...any} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** A text from others without anything invisible in it, cut in the middle where it is very long. */
export function plain(text, most = MOST) {
  const all = String(text ?? '');
  const kept = all.length > most ? `${all.slice(0, most / 2)}…${all.slice(-most / 2)}` : all;
  return kept.replace(HIDDEN, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, '0')}`);
}

/** The name of a layer, isolated so that its direction of writing touches nothing beside it. */
export function layerName(name, most = 60) {
  const shown = plain(name, most) || (name == null ? 'the run' : '(the model)');
  return h('bdi', {class: 'layer-name', title: plain(name, 400)}, shown);
}

/** A value from JSON as a number: null is NaN, "inf" is infinite. */
export function toNumber(value) {
  if (typeof value === 'number') return value;
  if (value === 'inf') return Infinity;
  return value === '-inf' ? -Infinity : NaN;
}

/** A sentence in which code stands between backticks. */
export function prose(text, most = 1500) {
  return plain(text, most).split(/`([^`]+)`/).map((part, place) => (place % 2 ? h('code', {}, part) : part));
}

/**
 * A number with as many digits as a person reads.
 * @param {number} value
 */
export function number(value) {
  if (Number.isNaN(value)) return '–';
  if (!Number.isFinite(value)) return value > 0 ? 'infinite' : '-infinite';
  const size = Math.abs(value);
  if (size >= 1e4 && size < 1e7) return Math.round(value).toLocaleString('en');
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace(/\.?0*e\+?/, 'e');
  return String(Number(value.toPrecision(4)));
}

/** A fact of any plain kind. */
export function fact(value) {
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'number') return Number.isInteger(value) ? value.toLocaleString('en') : number(value);
  return value == null ? 'unknown' : plain(value, 300);
}

/** A whole number with separators. */
export const count = (value) => Number(value).toLocaleString('en');

/** "1 layer", "2 layers". */
export const many = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;

/** "dead_share" as words. */
export const words = (name) => plain(name).replaceAll('_', ' ').replaceAll('-', ' ');

/** The same at the beginning of a line. */
export const title = (name) => words(name).replace(/^(bn|ln)\b|^./u, (start) => start.toUpperCase());

/** Waits until a style sheet is there, or is not. */
export function loadStyle(href) {
  return new Promise((resolve) => {
    document.head.append(h('link', {rel: 'stylesheet', href, onload: resolve, onerror: resolve}));
  });
}

/** A color of the style sheet. */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Sizes a canvas for the screen; returns its context in CSS pixels.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
export function fitted(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  return context;
}
