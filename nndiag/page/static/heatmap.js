// One reading of all layers over the steps.
import {ticksOf} from './chart.js';
import {color, count, fitted, h, layerName, many, number, plain, words} from './dom.js';
import {legend} from './legend.js';
import {everyFinding, grouped, isActive} from './order.js';
import {MOST, ROW, defaultRows, hasValues, orderOf, rowsOf} from './rows.js';
import {makeScale, shade, shades} from './scale.js';
/** @import {Matrix, Run} from './source.js' */

const LEFT = 190, BOTTOM = 24, TOP = 2, RIGHT = 6;
const TALL_ROW = 28, FIT = 560, LABEL = 13;
const NARROW = 620;

export class HeatMap {
  /** @type {Run} */ run;
  /** @type {Matrix} */ matrix;
  /** @type {string | undefined} */ axis;
  /** @type {string | undefined} */ layer;
  /** @type {(layer: string) => void} */ onPick;
  /** @type {(group: string) => void} */ onGroup;
  /** @type {{row: number, column: number} | null} */ at = null;
  /** @type {[number, number]} The rows that are drawn. */ part = [0, 0];
  first = 0; last = 0; width = 0; plot = 0; tall = 0; gutter = 0; rowHeight = 0; offset = 0;
  isDark = false; isPlaced = false;

  /**
   * @param {Run} run
   * @param {Matrix} matrix
   * @param {{extents: Matrix[], reach: number[] | null, named: Set<string>, mode?: string, axis?: string, layer?: string,
   *   onPick: (layer: string) => void, onGroup: (group: string) => void, opened: Set<string>}} how
   */
  constructor(run, matrix, {extents, reach, named, mode, axis, layer, onPick, onGroup, opened}) {
    Object.assign(this, {run, matrix, axis, layer, onPick, onGroup});
    [this.first, this.last] = reach ?? [matrix.steps[0], matrix.steps.at(-1)];
    this.mode = mode ?? defaultRows(named.size);
    this.rows = rowsOf(run, this.mode, opened ?? new Set(), named);
    this.scale = makeScale(matrix, extents);
    this.values = this.worstOfRows();
    this.marks = this.marksOfFindings();
    this.groups = grouped(run.layers, orderOf(run, named));
    this.leftOut = run.layers.length - orderOf(run, named).length;
    this.canvas = h('canvas', {class: 'heat', tabindex: 0, role: 'application', 'aria-roledescription': 'heat map',
      'aria-label': `${words(matrix.measure)}: ${words(matrix.reading)}, ${this.rows.length} rows by ${matrix.steps.length} visits. Arrow keys move, with Shift by twenty, Enter opens.`});
    this.readout = h('p', {class: 'readout', role: 'status'}, 'Point at a cell, or use the arrow keys.');
    this.rest = h('div', {'aria-hidden': 'true'});
    this.window = h('div', {class: 'heatwindow'}, this.canvas, this.rest);
    this.window.addEventListener('scroll', () => this.scrolled());
    this.legend = legend(this.scale);
    this.root = h('div', {class: 'heatbox'}, this.legend.root, this.window, this.readout,
      this.leftOut ? h('p', {class: 'muted'}, `${many(this.leftOut, 'layer')} without this reading ${this.leftOut === 1 ? 'is' : 'are'} left out.`) : null);
    this.canvas.addEventListener('pointermove', (event) => this.hover(this.cell(event)));
    this.canvas.addEventListener('pointerleave', () => this.hover(null));
    this.canvas.addEventListener('click', (event) => { const cell = this.cell(event); if (cell) this.pick(cell.row); });
    this.canvas.addEventListener('keydown', (event) => this.key(event));
  }

  /** A row of several layers shows the worst of them. */
  worstOfRows() {
    const {steps, values} = this.matrix, n = steps.length;
    const out = new Float32Array(this.rows.length * n).fill(NaN);
    this.rows.forEach((row, r) => {
      for (const place of row.members) {
        for (let j = 0; j < n; j += 1) {
          const value = values[place * n + j];
          const kept = out[r * n + j];
          if (!Number.isNaN(value) && (Number.isNaN(kept) || this.scale.badness(value) > this.scale.badness(kept))) out[r * n + j] = value;
        }
      }
    });
    return out;
  }

  /** The visit whose values hold at a place between 0 and 1 of the width; -1 before the first and after the last. */
  columnAt(t) {
    const {steps} = this.matrix, n = steps.length;
    if (this.axis === 'visits') return Math.min(n - 1, Math.floor(t * n));
    const step = this.first + t * (this.end(this.last) - this.first);
    if (step < steps[0] || step > this.end(steps[n - 1])) return -1;
    let low = 0, high = n - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (steps[middle] <= step) low = middle; else high = middle - 1;
    }
    return low;
  }

  /** The newest visit gets a width too. */
  end(step) {
    return step + Math.max(1, (this.last - this.first) / Math.max(8, this.matrix.steps.length));
  }

  /** Where a chart below has to begin and end to be in line with the columns. */
  frame() {
    const isSteps = this.axis !== 'visits';
    return {width: this.width, left: this.gutter, right: RIGHT, reach: isSteps ? [this.first, this.end(this.last)] : null};
  }

  left(column) {
    const {steps} = this.matrix, n = steps.length;
    if (this.axis === 'visits') return column / n;
    return ((column < n ? steps[column] : this.end(steps[n - 1])) - this.first) / (this.end(this.last) - this.first);
  }

  /** Draws the part of the rows that the window shows: thousands of rows are one small canvas. */
  draw(isDark) {
    if (!this.root.clientWidth || !this.matrix.steps.length) return;
    const row = this.mode === 'fit' ? Math.min(FIT / this.rows.length, TALL_ROW) : Math.max(ROW, Math.min(TALL_ROW, 320 / this.rows.length));
    const whole = this.rows.length * row, tall = Math.min(whole, MOST);
    this.legend.paint(isDark);
    this.rowHeight = row;
    this.window.style.height = `${TOP + tall + BOTTOM}px`;
    this.rest.style.height = `${whole - tall}px`;
    const width = Math.floor(this.window.clientWidth);  // without the scroll bar
    this.gutter = this.room(width < NARROW ? 96 : LEFT);
    Object.assign(this, {isDark, width, tall, plot: width - this.gutter - RIGHT});
    if (!this.isPlaced && this.selectedRow() >= 0) this.reveal(this.selectedRow(), 0.5);
    this.isPlaced = true;
    this.scrolled();
  }

  /** Room for the names, and no more. */
  room(most) {
    const names = this.isFine(this.rowHeight) ? this.rows.map((row) => row.name) : this.groups.map((group) => group.name);
    const longest = names.map((name) => plain(name)).reduce((a, b) => (b.length > a.length ? b : a), '');
    const context = this.canvas.getContext('2d');
    context.font = `600 11px ${color('--font') || 'sans-serif'}`;
    return Math.max(64, Math.min(most, Math.ceil(context.measureText(longest).width * 1.1) + 20));
  }

  isFine(row) {
    return row >= LABEL - 1;
  }

  scrolled() {
    const last = Math.ceil((this.window.scrollTop + this.tall) / this.rowHeight - 1e-6);
    this.offset = this.window.scrollTop;
    this.part = [Math.floor(this.offset / this.rowHeight), Math.min(this.rows.length, last)];
    this.image = this.raster(Math.round(this.plot), ...this.part);
    this.paint();
  }

  /** Scrolls until a row can be seen; to a place of the window where one is given. */
  reveal(row, place = null) {
    const top = row * this.rowHeight, seen = this.window.scrollTop;
    if (place != null) this.window.scrollTop = top - place * this.tall;
    else if (top < seen) this.window.scrollTop = top;
    else if (top + this.rowHeight > seen + this.tall) this.window.scrollTop = top + this.rowHeight - this.tall;
  }

  /** Where a row begins on the canvas. */
  y(row) {
    return TOP + row * this.rowHeight - this.offset;
  }

  isSeen(row) {
    return row >= this.part[0] && row < this.part[1];
  }

  raster(plot, begin, end) {
    const lut = shades(this.scale, this.isDark), n = this.matrix.steps.length, rows = end - begin;
    const lines = Math.min(rows, Math.max(1, Math.round(this.tall * 2)));
    const image = new ImageData(Math.max(1, plot), lines);
    const columns = Int32Array.from({length: image.width}, (_, x) => this.columnAt((x + 0.5) / image.width));
    const pixels = new Uint32Array(image.data.buffer);
    const palette = Uint32Array.from({length: 256}, (_, i) => ((255 << 24) | (lut[i * 3 + 2] << 16) | (lut[i * 3 + 1] << 8) | lut[i * 3]) >>> 0);
    const line = new Int16Array(n);
    for (let y = 0; y < lines; y += 1) {
      const from = begin + Math.floor(y * rows / lines), to = Math.max(from + 1, begin + Math.floor((y + 1) * rows / lines));
      for (let j = 0; j < n; j += 1) line[j] = shade(this.scale, this.worstBetween(from, to, j));
      for (let x = 0; x < image.width; x += 1) {
        const index = columns[x] < 0 ? -1 : line[columns[x]];
        if (index >= 0) pixels[y * image.width + x] = palette[index];
      }
    }
    const canvas = document.createElement('canvas');
    canvas.width = image.width;
    canvas.height = lines;
    canvas.getContext('2d').putImageData(image, 0, 0);
    return canvas;
  }

  /** The worst of several rows in one line of pixels: where they are squeezed, no bad one may vanish. */
  worstBetween(from, to, column) {
    const n = this.matrix.steps.length;
    let worst = this.values[from * n + column];
    for (let r = from + 1; r < to; r += 1) {
      const value = this.values[r * n + column];
      if (!Number.isNaN(value) && (Number.isNaN(worst) || this.scale.badness(value) > this.scale.badness(worst))) worst = value;
    }
    return worst;
  }

  paint() {
    const context = fitted(this.canvas, this.width, TOP + this.tall + BOTTOM), [begin, end] = this.part;
    this.paintSteps(context);
    context.beginPath();
    context.rect(0, 0, this.width, TOP + this.tall);
    context.clip();
    context.fillStyle = color('--none');
    context.fillRect(this.gutter, TOP, this.plot, this.tall);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, this.gutter, this.y(begin), this.plot, (end - begin) * this.rowHeight);
    this.paintGroups(context);
    this.paintNames(context);
    this.paintFindings(context);
    this.outline(context, this.selectedRow(), color('--accent'), 2);
    if (this.at) this.cursor(context);
  }

  selectedRow() {
    return this.rows.findIndex((row) => row.layer != null && row.layer === this.layer);
  }

  /** Whether no row is outside the window. */
  isWhole() {
    return this.rows.length * this.rowHeight <= this.tall + 1;
  }

  /** Thin lines between modules, where there is room for them. */
  paintGroups(context) {
    if (this.mode === 'groups' || this.rows.length * this.rowHeight / this.groups.length < 8 || this.groups.length < 2) return;
    context.fillStyle = color('--card');
    let row = 0;
    for (const group of this.groups) {
      row += group.members.length;
      if (group.members.length > 1 || this.rowHeight > 4) context.fillRect(this.gutter, this.y(row) - 0.5, this.plot, 1);
    }
  }

  paintNames(context) {
    const selected = this.selectedRow(), muted = color('--muted'), accent = color('--accent');
    const font = color('--font') || 'sans-serif';
    const room = this.gutter - 12;
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    const isSeen = selected >= 0 && this.isSeen(selected);
    const labels = this.isFine(this.rowHeight) ? this.rows.map((row, r) => ({text: row.group ? `${row.isOpen ? '▾' : '▸'} ${row.name}` : row.name, at: r + 0.5, row: r, strong: row.isOpen})) : this.sparseNames();
    let bottom = -Infinity;
    for (const label of labels) {
      const y = this.isWhole() ? Math.max(7, Math.min(this.tall - 4, this.y(label.at))) : this.y(label.at);
      const isNear = isSeen && Math.abs(y - this.y(selected + 0.5)) < LABEL;
      if (y - bottom < LABEL - 1 || isNear || y < -LABEL || y > TOP + this.tall + LABEL) continue;
      bottom = y;
      context.fillStyle = muted;
      context.font = `${label.strong ? 600 : 400} 11px ${font}`;
      context.fillText(shortened(context, plain(label.text), room), this.gutter - 8, y);
    }
    if (isSeen) {
      context.fillStyle = accent;
      context.font = `600 11px ${font}`;
      context.fillText(shortened(context, plain(this.rows[selected].name), room), this.gutter - 8, this.y(selected + 0.5));
    }
  }

  /** Where rows are too low for names: the module at the middle of its rows. */
  sparseNames() {
    if (this.groups.length < 4) return this.rows.map((row, r) => ({text: row.name, at: r + 0.5, row: r, strong: false}));
    const found = [];
    let row = 0;
    for (const group of this.groups) {
      found.push({text: group.name, at: row + group.members.length / 2, row: -1, strong: false});
      row += group.members.length;
    }
    return found;
  }

  paintSteps(context) {
    context.font = `11px ${color('--font') || 'sans-serif'}`;
    context.fillStyle = color('--muted');
    context.textAlign = 'left';
    context.textBaseline = 'middle';
    let edge = -Infinity;
    for (const [step, share] of this.ticks()) {
      const text = count(step), size = context.measureText(text).width;
      const x = this.gutter + Math.min(this.plot - size, Math.max(0, share * this.plot - size / 2));
      if (x < edge + 8) continue;
      edge = x + size;
      context.fillText(text, x, TOP + this.tall + BOTTOM / 2 + 2);
    }
  }

  /** Steps to name, and where they stand. */
  ticks() {
    const {steps} = this.matrix, most = Math.max(2, Math.min(8, Math.floor(this.plot / 90)));
    if (this.axis !== 'visits') return ticksOf([this.first, this.end(this.last)], this.plot).map((step) => [step, this.shareOf(step)]);
    return Array.from({length: most + 1}, (_, t) => [steps[this.columnAt(Math.min(t / most, 0.9999))], t / most]);
  }

  shareOf(step) {
    const {steps} = this.matrix;
    if (this.axis === 'visits') {
      const column = steps.findIndex((each) => each >= step);
      return ((column < 0 ? steps.length - 1 : column) + 0.5) / steps.length;
    }
    return Math.max(0, Math.min(1, (step - this.first) / (this.end(this.last) - this.first)));
  }

  /** Findings of this measure: the row they are about, and where they began. */
  marksOfFindings() {
    const places = new Map(this.run.layers.map((layer, place) => [layer.name, place]));
    const rowOf = new Map();
    this.rows.forEach((row, r) => row.members.forEach((place) => rowOf.set(place, r)));
    const has = (place) => place != null && hasValues(this.matrix, place);
    const reader = new Map();  // a finding names the module; the reading may be of the activation that reads it
    this.run.layers.forEach((layer, place) => { if (layer.source != null && has(place)) reader.set(layer.source, place); });
    const own = everyFinding(this.run.findings).filter((finding) => finding.measure === this.matrix.measure && isActive(finding));
    return own.flatMap((finding) => finding.layers.flatMap((name) => {
      const place = has(places.get(name)) ? places.get(name) : reader.get(name) ?? places.get(name);
      return rowOf.has(place) ? [{row: rowOf.get(place), step: finding.first_step, severity: finding.severity}] : [];
    }));
  }

  paintFindings(context) {
    context.lineWidth = 1.5;
    context.strokeStyle = color('--card');
    const fills = {};
    for (const {row, step, severity} of this.marks) {
      if (!this.isSeen(row)) continue;
      const x = this.gutter + Math.max(5, Math.min(this.plot - 5, this.shareOf(step) * this.plot));
      if (this.rowHeight < 9) {  // no room for a dot: the rows of a finding become one line
        context.fillStyle = fills[severity] ??= color(`--${severity}`);
        context.fillRect(x - 1.5, this.y(row), 3, Math.max(2, this.rowHeight));
        continue;
      }
      context.beginPath();
      context.arc(x, this.y(row + 0.5), 4, 0, 7);
      context.fillStyle = fills[severity] ??= color(`--${severity}`);
      context.fill();
      context.stroke();
    }
  }

  outline(context, row, stroke, width) {
    if (row < 0 || !this.isSeen(row)) return;
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.strokeRect(this.gutter + 1, this.y(row), this.plot - 2, Math.max(2, this.rowHeight));
  }

  cursor(context) {
    const {row, column} = this.at, x = this.left(column) * this.plot;
    context.strokeStyle = color('--text');
    context.lineWidth = 1.5;
    context.strokeRect(this.gutter + x, this.y(row), Math.max(3, this.left(column + 1) * this.plot - x), Math.max(3, this.rowHeight));
  }

  cell(event) {
    const box = this.canvas.getBoundingClientRect();
    const down = event.clientY - box.top - TOP, row = Math.floor((down + this.offset) / this.rowHeight);
    const t = (event.clientX - box.left - this.gutter) / this.plot;
    if (down < 0 || down >= this.tall || row >= this.rows.length || t >= 1) return null;
    const column = this.columnAt(Math.max(0, t));
    return column < 0 ? null : {row, column};
  }

  hover(cell) {
    if (cell?.row === this.at?.row && cell?.column === this.at?.column) return;
    this.at = cell;
    if (this.image) this.paint();
    this.say();
  }

  say() {
    if (!this.at) { this.readout.textContent = 'Point at a cell, or use the arrow keys.'; return; }
    const {row, column} = this.at, value = this.values[row * this.matrix.steps.length + column];
    const what = this.rows[row].group ? ', worst' : '';
    this.readout.replaceChildren(layerName(this.rows[row].name), ` · step ${count(this.matrix.steps[column])}${what} · ${Number.isNaN(value) ? 'no value' : number(value)}`);
  }

  pick(row) {
    const {layer, group} = this.rows[row];
    if (layer != null) this.onPick(layer); else this.onGroup(group);
  }

  key(event) {
    const by = event.shiftKey ? 20 : 1;
    const move = {ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by], Home: [0, -1e9], End: [0, 1e9]}[event.key];
    if (event.key === 'Enter' && this.at) { this.pick(this.at.row); return; }
    if (event.key === 'Escape') { this.hover(null); return; }
    if (!move) return;
    event.preventDefault();
    const from = this.at ?? {row: Math.max(0, this.selectedRow()), column: this.matrix.steps.length - 1};
    const within = (value, n) => Math.max(0, Math.min(n - 1, value));
    const row = within(from.row + (this.at ? move[0] : 0), this.rows.length);
    this.reveal(row);
    this.hover({row, column: within(from.column + (this.at ? move[1] : 0), this.matrix.steps.length)});
  }
}

/** A name that fits: the end says more than the beginning. */
function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let cut = text;
  while (cut.length > 4 && context.measureText(`…${cut}`).width > room) cut = cut.slice(Math.max(1, Math.floor(cut.length / 12)));
  return `…${cut}`;
}
