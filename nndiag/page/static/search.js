// Finding a layer by a part of its name.
import {h, plain} from './dom.js';
import {inOrder} from './order.js';
/** @import {Run} from './source.js' */

const LIST = 'layer-names';

/**
 * A field that opens the layer chosen from its list, or the first one that fits when Enter is pressed.
 * @param {Run} run
 * @param {(layer: string) => void} open
 */
export function searchBox(run, open, value = '') {
  const names = new Map(inOrder(run.layers).map((place) => run.layers[place].name).map((name) => [plain(name, 400), name]));
  const input = h('input', {type: 'search', list: LIST, value, 'data-key': 'search', placeholder: 'Find a layer', 'aria-label': 'Find a layer', autocomplete: 'off'});
  const choose = (name) => { input.value = ''; open(name); };
  input.addEventListener('input', (event) => {
    input.setCustomValidity('');
    const isTyped = event instanceof InputEvent && event.inputType !== 'insertReplacementText';
    if (!isTyped && names.has(input.value)) choose(names.get(input.value));
  });
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !input.value.trim()) return;
    const found = fitting(names, input.value);
    if (found !== undefined) { choose(found); return; }
    input.setCustomValidity('No layer has this in its name.');
    input.reportValidity();
  });
  const list = h('datalist', {id: LIST});
  input.addEventListener('focus', () => list.append(...[...names.keys()].map((name) => h('option', {value: name}))), {once: true});
  return h('div', {class: 'find'}, input, list);
}

/** The layer of that name, else the first one with all the words in its name. */
function fitting(names, asked) {
  if (names.has(asked)) return names.get(asked);
  const parts = asked.toLowerCase().split(/\s+/).filter(Boolean);
  const key = [...names.keys()].find((name) => parts.every((part) => name.toLowerCase().includes(part)));
  return key === undefined ? undefined : names.get(key);
}
