// The numbers behind a picture: as a table, and as a file.
import {h, number, plain} from './dom.js';

const MOST_ROWS = 500;

/** A table; of very many rows the first ones, and a word about the others. */
export function table(caption, columns, rows) {
  const cell = (value) => (typeof value === 'number' ? number(value) : plain(value, 400));
  const isNumber = (place) => rows.some((row) => typeof row[place] === 'number');
  const body = rows.slice(0, MOST_ROWS).map((row) => h('tr', {}, row.map((value, place) => (
    place ? h('td', {class: isNumber(place) && 'n'}, cell(value)) : h('th', {scope: 'row', class: isNumber(0) && 'n'}, cell(value))))));
  return h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
    h('table', {},
      h('caption', {}, rows.length > MOST_ROWS ? `${caption} (the first ${MOST_ROWS} of ${rows.length} rows; the file has all)` : caption),
      h('thead', {}, h('tr', {}, columns.map((name, place) => h('th', {scope: 'col', class: isNumber(place) && 'n'}, plain(name))))),
      h('tbody', {}, body)));
}

/** A button that saves rows as CSV. The rows are asked for when it is pressed. */
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
