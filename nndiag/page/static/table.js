// The numbers behind a picture: as a table, and as a file.
import {count, h, number, plain} from './dom.js';

const CELLS = 2000;  // drawn at once: a browser lays out many more too slowly

/** @typedef {(string | number)[][]} Rows */

/**
 * A table; where it has very many rows, more of them come as it is scrolled.
 * @param {string} caption
 * @param {string[]} columns
 * @param {Rows} rows
 */
export function table(caption, columns, rows) {
  const cell = (value) => (typeof value === 'number' ? number(value) : plain(value, 400));
  const numeric = columns.map((_, place) => rows.some((row) => typeof row[place] === 'number'));
  const line = (row) => h('tr', {}, row.map((value, place) => (
    place ? h('td', {class: numeric[place] && 'n'}, cell(value)) : h('th', {scope: 'row', class: numeric[0] && 'n'}, cell(value)))));
  const body = h('tbody'), atOnce = Math.max(40, Math.ceil(CELLS / columns.length));
  const more = () => body.append(...rows.slice(body.childElementCount, body.childElementCount + atOnce).map(line));
  more();
  const box = h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
    h('table', {'aria-rowcount': rows.length + 1},
      h('caption', {}, rows.length > atOnce ? `${caption} (${count(rows.length)} rows: scroll for more of them; the file has all)` : caption),
      h('thead', {}, h('tr', {}, columns.map((name, place) => h('th', {scope: 'col', class: numeric[place] && 'n'}, plain(name))))),
      body));
  box.addEventListener('scroll', () => {
    if (box.scrollTop + 2 * box.clientHeight > box.scrollHeight) more();
  });
  return box;
}

/**
 * A button that saves rows as CSV. The rows are asked for when it is pressed.
 * @param {string} name
 * @param {string[]} columns
 * @param {() => Rows} rows
 */
export function csvButton(name, columns, rows) {
  return h('button', {type: 'button', class: 'quiet', onclick: () => save(name, [columns, ...rows()])}, 'Download CSV');
}

function save(name, rows) {
  const text = rows.map((row) => row.map(field).join(',')).join('\r\n');
  const address = URL.createObjectURL(new Blob([`${text}\r\n`], {type: 'text/csv;charset=utf-8'}));
  const link = h('a', {href: address, download: `${plain(name).replace(/[^\w.-]+/g, '_').slice(0, 100)}.csv`});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A field; one that a spreadsheet would take for a formula gets an apostrophe. */
function field(value) {
  if (typeof value === 'number') return Number.isNaN(value) ? '' : String(value);
  const text = String(value ?? '');
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}
