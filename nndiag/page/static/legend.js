// What the colors of a heat map mean.
import {color, fitted, h, number} from './dom.js';
import {ends, shades} from './scale.js';
/** @import {Scale} from './scale.js' */

const WIDTH = 180, HEIGHT = 16;

/**
 * A ramp with its ends, its direction, and the thresholds of rules; `paint(isDark)` colors it.
 * @param {Scale} scale
 */
export function legend(scale) {
  const bar = h('canvas', {class: 'ramp', 'aria-hidden': 'true'});
  const paint = (isDark) => {
    const context = fitted(bar, WIDTH, HEIGHT), lut = shades(scale, isDark);
    for (let x = 0; x < WIDTH; x += 1) {
      const i = Math.round(x / (WIDTH - 1) * 255) * 3;
      context.fillStyle = `rgb(${lut[i]} ${lut[i + 1]} ${lut[i + 2]})`;
      context.fillRect(x, 4, 1, 8);
    }
    context.fillStyle = color('--text');
    for (const limit of scale.limits) {
      const t = scale.place(limit.value);
      if (t > 0 && t <= 1) context.fillRect(t * (WIDTH - 1) - 1, 0, 2, HEIGHT);
    }
  };
  const [low, high] = ends(scale);
  const limits = scale.limits.map((limit) => `${limit.rule} from ${number(limit.value)}`).join(', ');
  const root = h('div', {class: 'legend'}, h('span', {class: 'n'}, low), bar, h('span', {class: 'n'}, high),
    h('span', {class: 'muted'}, scale.direction), limits ? h('span', {class: 'muted'}, `▏${limits}`) : null,
    h('span', {class: 'muted'}, h('span', {class: 'swatch', 'aria-hidden': 'true'}), ' no value'));
  return {root, paint};
}
