// One reading of all layers over the steps.
import {ticksOf} from './chart.js';
import {color, count, fitted, h, layerName, many, number, plain, words} from './dom.js';
import {everyFinding, grouped, inOrder, isActive} from './order.js';
import {ends, makeScale, shade, shades} from './scale.js';

const LEFT = 190, BOTTOM = 24, TOP = 2, RIGHT = 6;
const ROW = 16, TALL_ROW = 28, FIT = 560, LABEL = 13;
const NARROW = 620;

/** Which layers share a row: one row each, or one a module. Layers without this reading are left out. */
export function rowsOf(run, mode, opened, named) {
  const order = orderOf(run, named);
  const single = (place) => ({name: run.layers[place].name, members: [place], layer: run.layers[place].name});
  if (mode !== 'groups') return order.map(single);
  return grouped(run.layers, order).flatMap((group) => {
    if (group.members.length === 1) return [single(group.members[0])];
    const head = {name: `${group.name} (${group.members.length})`, members: group.members, layer: null, group: group.name};
    return opened.has(group.name) ? [head, ...group.members.map((place) => ({...single(place), indent: true}))] : [head];
  });
}

const orderOf = (run, named) => inOrder(run.layers).filter((place) => named.has(run.layers[place].name));

/** Names of the layers that have a value at some step. */
export function namesWithValues(run, matrix) {
  const n = matrix.steps.length;
  const has = (place) => matrix.values.subarray(place * n, (place + 1) * n).some((value) => !Number.isNaN(value));
  return run.layers.flatMap((layer, place) => (has(place) ? [layer.name] : []));
}

/** How rows are shown where the user has not said. */
export const defaultRows = (rows) => (rows * ROW <= FIT + 100 ? 'full' : 'fit');

export class HeatMap {
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
    this.at = null;
    this.canvas = h('canvas', {class: 'heat', tabindex: 0, role: 'application', 'aria-roledescription': 'heat map',
      'aria-label': `${words(matrix.measure)}: ${words(matrix.reading)}, ${this.rows.length} rows by ${matrix.steps.length} visits. Arrow keys move, with Shift by twenty, Enter opens.`});
    this.readout = h('p', {class: 'readout', role: 'status'}, 'Point at a cell, or use the arrow keys.');
    this.root = h('div', {class: 'heatbox'}, this.legend(), this.canvas, this.readout,
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

  draw(isDark) {
    const {steps} = this.matrix;
    const width = Math.floor(this.root.clientWidth);
    if (!width || !steps.length) return;
    this.isDark = isDark;
    this.gutter = width < NARROW ? 96 : LEFT;
    const plot = width - this.gutter - RIGHT;
    const most = 16_000 / (window.devicePixelRatio || 1) - BOTTOM;
    const row = Math.max(ROW, Math.min(TALL_ROW, 320 / this.rows.length));
    const tall = Math.min(this.rows.length * row, this.mode === 'fit' ? FIT : most);
    Object.assign(this, {width, plot, tall, rowHeight: tall / this.rows.length});
    this.image = this.raster(plot, isDark);
    this.paint();
  }

  raster(plot, isDark) {
    const lut = shades(this.scale, isDark), n = this.matrix.steps.length;
    const lines = Math.min(this.rows.length, Math.max(1, Math.round(this.tall * 2)));
    const image = new ImageData(Math.max(1, Math.round(plot)), lines);
    const columns = Int32Array.from({length: image.width}, (_, x) => this.columnAt((x + 0.5) / image.width));
    const pixels = new Uint32Array(image.data.buffer);
    const palette = Uint32Array.from({length: 256}, (_, i) => ((255 << 24) | (lut[i * 3 + 2] << 16) | (lut[i * 3 + 1] << 8) | lut[i * 3]) >>> 0);
    const line = new Int16Array(n);
    for (let y = 0; y < lines; y += 1) {
      const from = Math.floor(y * this.rows.length / lines), to = Math.max(from + 1, Math.floor((y + 1) * this.rows.length / lines));
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
    const context = fitted(this.canvas, this.width, TOP + this.tall + BOTTOM);
    context.fillStyle = color('--none');
    context.fillRect(this.gutter, TOP, this.plot, this.tall);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, this.gutter, TOP, this.plot, this.tall);
    this.paintGroups(context);
    this.paintNames(context);
    this.paintSteps(context);
    this.paintFindings(context);
    this.outline(context, this.selectedRow(), color('--accent'), 2);
    if (this.at) this.cursor(context);
  }

  selectedRow() {
    return this.rows.findIndex((row) => row.layer != null && row.layer === this.layer);
  }

  /** Thin lines between modules, where there is room for them. */
  paintGroups(context) {
    if (this.mode === 'groups' || this.tall / this.groups.length < 8 || this.groups.length < 2) return;
    context.fillStyle = color('--card');
    let row = 0;
    for (const group of this.groups) {
      row += group.members.length;
      if (group.members.length > 1 || this.rowHeight > 4) context.fillRect(this.gutter, TOP + row * this.rowHeight - 0.5, this.plot, 1);
    }
  }

  paintNames(context) {
    const selected = this.selectedRow(), muted = color('--muted'), accent = color('--accent');
    const font = color('--font') || 'sans-serif';
    const room = this.gutter - 12;
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    const labels = this.rowHeight >= LABEL - 1 ? this.rows.map((row, r) => ({text: row.name, at: r + 0.5, row: r, strong: row.group})) : this.sparseNames();
    let bottom = -Infinity;
    for (const label of labels) {
      const y = Math.max(7, TOP + label.at * this.rowHeight);
      const isNear = selected >= 0 && label.row !== selected && Math.abs(y - (TOP + (selected + 0.5) * this.rowHeight)) < LABEL;
      if (y - bottom < LABEL - 1 || isNear) continue;
      bottom = y;
      context.fillStyle = muted;
      context.font = `${label.strong ? 600 : 400} 11px ${font}`;
      context.fillText(shortened(context, plain(label.text), room), this.gutter - 8, y);
    }
    if (selected >= 0) {
      context.fillStyle = accent;
      context.font = `600 11px ${font}`;
      context.fillText(shortened(context, plain(this.rows[selected].name), room), this.gutter - 8, TOP + (selected + 0.5) * this.rowHeight);
    }
  }

  /** Where rows are too low for names: the module at the middle of its rows. */
  sparseNames() {
    if (this.groups.length < 4) return this.rows.map((row, r) => ({text: row.name, at: r + 0.5, row: r}));
    const found = [];
    let row = 0;
    for (const group of this.groups) {
      found.push({text: group.name, at: row + group.members.length / 2, row: -1});
      row += group.members.length;
    }
    return found;
  }

  paintSteps(context) {
    context.font = `11px ${color('--font') || 'sans-serif'}`;
    context.fillStyle = color('--muted');
    context.textAlign = 'left';
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
    const rowOf = new Map(), n = this.matrix.steps.length;
    this.rows.forEach((row, r) => row.members.forEach((place) => rowOf.set(place, r)));
    const has = (place) => place != null && this.matrix.values.subarray(place * n, (place + 1) * n).some((value) => !Number.isNaN(value));
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
      const x = this.gutter + Math.max(5, Math.min(this.plot - 5, this.shareOf(step) * this.plot));
      if (this.rowHeight < 9) {  // no room for a dot: the rows of a finding become one line
        context.fillStyle = fills[severity] ??= color(`--${severity}`);
        context.fillRect(x - 1.5, TOP + row * this.rowHeight, 3, Math.max(2, this.rowHeight));
        continue;
      }
      context.beginPath();
      context.arc(x, TOP + (row + 0.5) * this.rowHeight, 4, 0, 7);
      context.fillStyle = fills[severity] ??= color(`--${severity}`);
      context.fill();
      context.stroke();
    }
  }

  outline(context, row, stroke, width) {
    if (row < 0) return;
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.strokeRect(this.gutter + 1, TOP + row * this.rowHeight, this.plot - 2, Math.max(2, this.rowHeight));
  }

  cursor(context) {
    const {row, column} = this.at, x = this.left(column) * this.plot;
    context.strokeStyle = color('--text');
    context.lineWidth = 1.5;
    context.strokeRect(this.gutter + x, TOP + row * this.rowHeight, Math.max(3, this.left(column + 1) * this.plot - x), Math.max(3, this.rowHeight));
  }

  cell(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - TOP) / this.rowHeight);
    const t = (event.clientX - box.left - this.gutter) / this.plot;
    if (row < 0 || row >= this.rows.length || t >= 1) return null;
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
    this.hover({row: within(from.row + (this.at ? move[0] : 0), this.rows.length), column: within(from.column + (this.at ? move[1] : 0), this.matrix.steps.length)});
  }

  legend() {
    const bar = h('canvas', {class: 'ramp', 'aria-hidden': 'true'});
    this.paintLegend = (isDark) => {
      const context = fitted(bar, 180, 16), lut = shades(this.scale, isDark);
      for (let x = 0; x < 180; x += 1) {
        const i = Math.round(x / 179 * 255) * 3;
        context.fillStyle = `rgb(${lut[i]} ${lut[i + 1]} ${lut[i + 2]})`;
        context.fillRect(x, 4, 1, 8);
      }
      context.fillStyle = color('--text');
      for (const limit of this.scale.limits) {
        const t = this.scale.place(limit.value);
        if (t > 0 && t <= 1) context.fillRect(t * 179 - 1, 0, 2, 16);
      }
    };
    const [low, high] = ends(this.scale);
    const limits = this.scale.limits.map((limit) => `${limit.rule} from ${number(limit.value)}`).join(', ');
    return h('div', {class: 'legend'}, h('span', {class: 'n'}, low), bar, h('span', {class: 'n'}, high),
      h('span', {class: 'muted'}, this.scale.direction), limits ? h('span', {class: 'muted'}, `▏${limits}`) : null,
      h('span', {class: 'muted'}, h('span', {class: 'swatch', 'aria-hidden': 'true'}), ' no value'));
  }
}

/** A name that fits: the end says more than the beginning. */
function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let cut = text;
  while (cut.length > 4 && context.measureText(`…${cut}`).width > room) cut = cut.slice(Math.max(1, Math.floor(cut.length / 12)));
  return `…${cut}`;
}
