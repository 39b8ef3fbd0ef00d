// The page. TensorBoard imports this module into a frame and calls render().
import {count, h, loadStyle, plain, title, words} from './dom.js';
import {findingsCard, runLabel, statusCard} from './findings.js';
import {HeatMap} from './heatmap.js';
import {onAddress, onReload, onTheme, readAddress, writeAddress} from './host.js';
import {layerPage, loadLayer} from './layer.js';
import {everyFinding, inOrder, isActive, rank} from './order.js';
import {tensorboardSource} from './source.js';
import {changing, numbersPanel} from './numbers.js';
import {defaultRows, namesWithValues} from './rows.js';
import {searchBox} from './search.js';
import {keyOf, stripsCard} from './strips.js';
import {csvButton, table} from './table.js';
/** @import {Run, RunRow, Source, State} from './source.js' */

const FULL = 1000;  // visits that TensorBoard keeps, unless it is told otherwise
const VIEWS = {overview: 'Overview', map: 'Heat map', layer: 'Layer'};
const SCROLLED = ['.scroll', '.heatwindow'];
const KEYS = ['view', 'run', 'dir', 'beside', 'reading', 'layer', 'finding', 'hide', 'of', 'rows', 'axis', 'table', 'number'];

export async function render() {
  document.documentElement.lang = 'en';
  document.title = 'nndiag';
  await loadStyle('static/style.css');
  const page = new Page(tensorboardSource());
  document.body.append(page.root);
  onTheme((isDark) => page.theme(isDark));
  onAddress((state) => page.go(state, {replace: true}));
  onReload(() => page.load());
  await page.load();
}

export class Page {
  /** @type {RunRow[] | undefined} */ runs;
  /** @type {string | null | undefined} What was read last. */ shown;
  /** @type {{run: Run, beside: Run | null} | undefined} */ current;
  /** @type {{layers: unknown, box: HTMLElement} | undefined} */ searched;
  /** @type {string | undefined} */ stayed;
  /** @type {object | undefined} */ turn;
  /** @type {((isDark: boolean) => void)[]} */ painters = [];
  isDark = false;
  width = 0;

  /** @param {Source} source */
  constructor(source) {
    this.source = source;
    this.state = only(readAddress());
    this.known = new Map();
    this.opened = new Set();
    this.bar = h('header', {class: 'bar'}, h('h1', {}, 'nndiag'));
    this.main = h('main', {'aria-busy': 'true'}, message('Loading', 'Reading what nndiag wrote.'));
    this.root = h('div', {class: 'page'}, this.bar, this.main);
    new ResizeObserver(() => { if (this.root.clientWidth && this.root.clientWidth !== this.width) this.paint(); }).observe(this.root);
  }

  theme(isDark) {
    this.isDark = isDark;
    document.documentElement.classList.toggle('dark', isDark);
    this.paint();
  }

  /** Draws whatever depends on size or theme. */
  paint() {
    this.width = this.root.clientWidth;
    this.root.style.setProperty('--bar', `${this.bar.offsetHeight}px`);
    if (this.width) for (const paint of this.painters) paint(this.isDark);
  }

  /** Reads everything anew. */
  async load() {
    let runs;
    try {
      runs = await this.source.runs();
    } catch (error) { this.fail(error); return; }
    const text = JSON.stringify(runs);
    if (text === this.shown) return;  // no new visit: what is open stays open
    this.known.clear();
    this.runs = runs;
    this.shown = text;
    if (!this.runs.length) { this.bar.replaceChildren(h('h1', {}, 'nndiag')); this.put([nothingYet(() => this.load())]); return; }
    await this.show();
  }

  /** Moves to another state. `quietly` notes it without drawing again. */
  go(change, {quietly = false, replace = false} = {}) {
    const before = this.state;
    if (change.rule !== undefined) change = {...change, reading: this.readingOf(change.rule) ?? undefined};
    this.state = only(replace ? change : {...before, ...change});
    if (before.run !== this.state.run || before.view !== this.state.view) this.opened = new Set();
    if (!replace) writeAddress(this.state);
    if (quietly || !this.runs?.length) return;
    if (before.view !== this.state.view) window.scrollTo(0, 0);
    this.show();
  }

  /** The reading that a rule judges, else the first of its measure. */
  readingOf(rule) {
    const run = this.current?.run;
    const finding = run && everyFinding(run.findings).find((each) => each.rule === rule);
    const found = run?.readings.find((reading) => (reading.rules ?? []).includes(rule)) ?? run?.readings.find((reading) => reading.measure === finding?.measure);
    return found ? keyOf(found) : null;
  }

  async show() {
    const turn = (this.turn = {});
    const isThere = (name) => this.runs.some((run) => run.name === name);
    // A run that is looked at stays in front when another one becomes sicker.
    const name = [this.state.run, this.state.dir ? null : this.stayed].find(isThere) ?? this.firstRun();
    this.stayed = name;
    const besideName = isThere(this.state.beside) && this.state.beside !== name ? this.state.beside : null;
    this.fillBar(name, besideName);
    this.main.setAttribute('aria-busy', 'true');
    try {
      const [run, beside] = await Promise.all([this.read(name), besideName == null ? null : this.read(besideName)]);
      if (turn !== this.turn) return;
      this.current = {run, beside};
      this.fillBar(name, besideName);  // now with the layers
      const view = this.view();
      const made = run.is_newer || beside?.is_newer ? {cards: [upgrade()]} : await this[view](run, beside);
      if (turn === this.turn) this.put(made.cards, made.draws);
    } catch (error) {
      if (turn === this.turn) this.fail(error);
    }
  }

  /** The run in the directory that a link names, by the end of its path; else the sickest. */
  firstRun() {
    const shared = (run) => sharedEnd(run.name, this.state.dir ?? '');
    const most = Math.max(...this.runs.map(shared)), named = this.runs.filter((run) => shared(run) === most);
    const weight = (run) => Math.max(-1, ...everyFinding(run.findings).filter(isActive).map((f) => ['info', 'warning', 'critical'].indexOf(f.severity)));
    return named.sort((a, b) => weight(b) - weight(a))[0].name;
  }

  read(name) {
    return this.once(`run ${name}`, () => this.source.run(name));
  }

  /** What was read stays until TensorBoard reloads; a failure does not. */
  once(key, ask) {
    if (!this.known.has(key)) {
      const asked = ask();
      asked.catch(() => this.known.delete(key));
      this.known.set(key, asked);
    }
    return this.known.get(key);
  }

  put(cards, draws = []) {
    const focus = document.activeElement?.closest('[data-key]')?.getAttribute('data-key');
    const spots = SCROLLED.map((kind) => [...this.main.querySelectorAll(kind)].map((node) => node.scrollTop));
    this.root.classList.toggle('two', this.current?.beside != null);
    this.main.replaceChildren(...cards.filter(Boolean));
    this.main.removeAttribute('aria-busy');
    this.painters = draws;
    this.paint();
    SCROLLED.forEach((kind, k) => this.main.querySelectorAll(kind).forEach((node, place) => { node.scrollTop = spots[k][place] ?? node.scrollTop; }));
    this.focus(this.root, focus);
  }

  /** What was drawn anew keeps the focus that its predecessor had. */
  focus(within, key) {
    const found = key && within.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (found instanceof HTMLElement) found.focus({preventScroll: true});
  }

  fail(error) {
    this.shown = null;
    const {host} = this.source, said = `${plain(error.message, 300)}.`;
    this.put([host ? message(`${host} did not answer`, `${said} Is it still running? Its terminal may say more.`,
      h('button', {type: 'button', class: 'solid', onclick: () => this.load()}, 'Try again')) : message('This part cannot be shown', said)]);
  }

  /** Views of what there is: a report alone has no series. */
  views() {
    const {map, ...others} = VIEWS;
    return this.current?.run.is_series === false ? others : {...others, map};
  }

  view() {
    return this.state.view in this.views() ? this.state.view : 'overview';
  }

  fillBar(name, beside) {
    const choice = (label, key, selected, none) => h('label', {class: 'inline'}, h('span', {}, label),
      h('select', {'data-key': key, onchange: (event) => this.go({[key]: this.runs[event.target.value]?.name ?? null})},
        none && h('option', {value: ''}, none),
        this.runs.map((run, place) => h('option', {value: place, selected: run.name === selected, disabled: key === 'beside' && run.name === name}, runLabel(run)))));
    const focus = document.activeElement?.getAttribute('data-key');
    const view = this.view(), only = this.runs.length === 1 ? this.runs[0] : null, current = this.current?.run;
    this.bar.replaceChildren(
      h('h1', {}, 'nndiag'),
      only ? h('span', {class: 'run-name'}, plain(only.name)) : choice('Run', 'run', name, null),
      this.runs.length > 1 ? choice('beside', 'beside', beside, 'no other run') : '',
      this.search(current),
      h('nav', {'aria-label': 'Views'}, Object.entries(VIEWS).filter(([key]) => key in this.views()).map(([key, label]) => h('button', {type: 'button', class: 'tab', 'data-key': `view-${key}`,
        'aria-current': view === key ? 'page' : null, onclick: () => this.go({view: key, table: null})}, label))));
    this.focus(this.bar, focus);
  }

  /** The field over the layers of a run: made once, as thousands of names take their time. */
  search(run) {
    if (!run?.layers.length) return h('span', {class: 'find'});
    if (this.searched?.layers !== run.layers) {
      const typed = this.bar.querySelector('input')?.value;
      this.searched = {layers: run.layers, box: searchBox(run, (layer) => this.go({view: 'layer', layer, table: null}), typed)};
    }
    return this.searched.box;
  }

  overview(run, beside) {
    const go = (...args) => this.go(...args);
    const rules = (each) => each && new Set(everyFinding(each.findings).filter(isActive).map((f) => f.rule));
    const column = (each, other) => {
      const strips = stripsCard(each, this.state, (change) => go(each === run ? change : {...change, run: each.name, beside: run.name}), other);
      const label = beside ? h('h2', {class: 'run-name'}, plain(each.name)) : null;
      const cards = [statusCard(each), findingsCard(each, this.state, go, {others: rules(other)}), each.readings.length ? strips.card : null];
      if (beside) for (const card of cards.filter(Boolean)) card.setAttribute('aria-label', `${card.getAttribute('aria-label')}, ${plain(each.name)}`);
      return {cards: [label, ...cards], draw: strips.draw};
    };
    const columns = [column(run, beside), ...(beside ? [column(beside, run)] : [])];
    const cards = beside ? [h('div', {class: 'pair rows'}, columns.map((each) => h('div', {class: 'column'}, each.cards)))] : columns[0].cards;
    return {cards, draws: columns.map((each) => each.draw)};
  }

  async map(run, beside) {
    const readings = run.readings;
    if (!readings.length) return {cards: [message('No readings yet', 'nndiag has not looked at a layer of this run so far.')]};
    const reading = readings.find((each) => keyOf(each) === this.state.reading) ?? this.worstReading(run);
    const key = keyOf(reading), pair = [run, ...(beside ? [beside] : [])];
    const numbers = Promise.all(pair.map((each) => this.once(`numbers ${each.name}`, () => this.source.numbers(each.name))));
    const matrices = await Promise.all(pair.map((each) => {
      const own = each.readings.find((candidate) => keyOf(candidate) === key);
      return own ? this.once(`matrix ${each.name} ${own.tag}`, () => this.source.matrix(each.name, own.tag)) : null;
    }));
    const named = new Set(pair.flatMap((each, k) => (matrices[k] ? namesWithValues(each, matrices[k]) : [])));
    const steps = matrices.filter((matrix) => matrix?.steps.length).flatMap((matrix) => [matrix.steps[0], matrix.steps.at(-1)]);
    const reach = steps.length ? [Math.min(...steps), Math.max(...steps)] : null;  // runs side by side share their axis
    const maps = pair.map((each, k) => matrices[k]?.steps.length && named.size && new HeatMap(each, matrices[k], {
      extents: matrices.filter(Boolean), reach, named, mode: this.state.rows, axis: this.state.axis, layer: this.state.layer, opened: this.opened,
      onPick: (layer) => this.go({view: 'layer', layer, reading: key, ...(each === run ? {} : {run: each.name, beside: run.name})}),
      onGroup: (group) => { if (!this.opened.delete(group)) this.opened.add(group); this.show(); },
    }));
    const curves = await numbers, below = pair.map(() => h('div', {}));
    const boxes = maps.map((map, k) => h('div', {class: 'column'}, beside ? h('h3', {class: 'run-name'}, plain(pair[k].name)) : null,
      !map ? h('p', {class: 'empty'}, 'This run has no value of this reading.') : this.state.table === 'map' ? mapTable(pair[k], matrices[k], map) : map.root, below[k], map ? kept(pair[k], matrices[k], this.source.host) : null));
    const card = h('section', {class: 'card', 'aria-label': 'Heat map'},
      h('div', {class: 'head'}, this.readingPicker(run, key), this.mapTools(run, matrices[0], named.size)),
      reading.about ? h('p', {class: 'muted'}, plain(reading.about, 300)) : null,
      h('div', {class: beside ? 'pair' : ''}, boxes));
    const draws = maps.map((map, k) => (isDark) => {
      if (!map || this.state.table === 'map') return;
      map.draw(isDark);
      const others = pair.map((each, place) => ({run: each, numbers: changing(each, curves[place])}));
      below[k].replaceChildren(numbersPanel([others[k]], this.state, (change) => this.go(change), map.frame(), others) ?? '');
    });
    return {cards: [card], draws};
  }

  /** The reading of the gravest finding that several layers have. */
  worstReading(run) {
    const wide = run.readings.filter((reading) => reading.values.filter((value) => !Number.isNaN(value)).length > 1);
    const about = ({rule, measure}) => wide.find((reading) => rule in (reading.limits ?? {})) ?? wide.find((reading) => (reading.rules ?? []).includes(rule))
      ?? wide.find((reading) => reading.measure === measure);
    return everyFinding(run.findings).filter(isActive).sort((a, b) => rank(b) - rank(a)).map(about).find(Boolean) ?? wide[0] ?? run.readings[0];
  }

  readingPicker(run, key) {
    const measures = [...new Set(run.readings.map((reading) => reading.measure))];
    return h('label', {class: 'inline strong'}, h('span', {class: 'hidden'}, 'Reading'),
      h('select', {class: 'large', 'data-key': 'reading', onchange: (event) => this.go({reading: event.target.value})},
        measures.map((measure) => h('optgroup', {label: title(measure)}, run.readings.filter((each) => each.measure === measure)
          .map((each) => h('option', {value: keyOf(each), selected: keyOf(each) === key}, `${title(measure)}: ${words(each.reading)}`))))));
  }

  mapTools(run, matrix, rows) {
    const segmented = (label, key, value, choices) => h('div', {class: 'segmented', role: 'group', 'aria-label': label},
      choices.map(([name, word, hint]) => h('button', {type: 'button', 'data-key': `${key}-${name}`, title: hint, 'aria-pressed': String(value === name), onclick: () => this.go({[key]: name})}, word)));
    const isTable = this.state.table === 'map';
    return h('div', {class: 'tools'},
      segmented('Rows', 'rows', this.state.rows ?? defaultRows(rows), [['fit', 'Fit', 'All layers at once'], ['full', 'Full', 'One readable row a layer'], ['groups', 'Modules', 'One row a module, its worst layer; press to open']]),
      segmented('Columns', 'axis', this.state.axis ?? 'steps', [['steps', 'Steps', 'As wide as the steps between visits'], ['visits', 'Visits', 'Each visit as wide as the next']]),
      h('button', {type: 'button', class: 'quiet', 'data-key': 'map-table', 'aria-pressed': String(isTable), onclick: () => this.go({table: isTable ? null : 'map'})}, 'Show as table'),
      matrix ? csvButton(`${run.name}-${matrix.measure}-${matrix.reading}`, ['layer', 'step', 'value'], () => longRows(run, matrix)) : null);
  }

  async layer(run, beside) {
    if (!run.layers.length) return {cards: [message('No layers yet', 'nndiag has not looked at this run so far.')]};
    const name = this.state.layer ?? everyFinding(run.findings).find((f) => isActive(f) && f.layers.length)?.layers[0] ?? run.layers[inOrder(run.layers)[0]].name;
    const load = (each) => this.once(`layer ${each.name} ${name}`, () => loadLayer(this.source, each, name));
    const [data, other] = await Promise.all([load(run), beside && load(beside)]);
    const page = layerPage(run, {...this.state, layer: name}, (...args) => this.go(...args), data, beside && {run: beside, data: other});
    return {cards: page.cards, draws: [page.draw]};
  }
}

const only = (state) => Object.fromEntries(KEYS.filter((key) => state[key] != null && state[key] !== '').map((key) => [key, state[key]]));

/** How many parts two paths have in common at their ends. */
function sharedEnd(one, other) {
  const [a, b] = [one, other].map((path) => path.split('/').filter((part) => part && part !== '.').reverse());
  const differs = a.findIndex((part, k) => part !== b[k]);
  return differs < 0 ? a.length : differs;
}

/** How much of the run is in the picture. */
function kept(run, matrix, host) {
  const {samples} = matrix, shown = matrix.steps.length, said = [];
  if (host && samples < run.visits && samples >= FULL) said.push(`${host} kept ${count(samples)} of ${count(run.visits)} visits; start it with --samples_per_plugin=nndiag=0 to keep all.`);
  if (shown < samples) said.push(`${count(shown)} of ${count(samples)} visits are drawn.`);
  return said.length ? h('p', {class: 'muted'}, said.join(' ')) : null;
}

function mapTable(run, matrix, map) {
  const n = matrix.steps.length;
  const named = new Set(namesWithValues(run, matrix));
  const rows = inOrder(run.layers).filter((place) => named.has(run.layers[place].name)).map((place) => {
    const seen = [...matrix.values.subarray(place * n, (place + 1) * n)].filter((value) => !Number.isNaN(value));
    const worst = seen.reduce((best, value) => (map.scale.badness(value) > map.scale.badness(best) ? value : best), seen[0] ?? NaN);
    return [run.layers[place].name, seen[0] ?? NaN, seen.at(-1) ?? NaN, worst];
  });
  return table(`${title(matrix.measure)}: ${words(matrix.reading)} of ${plain(run.name)}`, ['layer', 'first', 'newest', 'worst'], rows);
}

function longRows(run, matrix) {
  const n = matrix.steps.length, rows = [];
  for (const place of inOrder(run.layers)) {
    for (let j = 0; j < n; j += 1) {
      const value = matrix.values[place * n + j];
      if (!Number.isNaN(value)) rows.push([run.layers[place].name, matrix.steps[j], value]);
    }
  }
  return rows;
}

/** A page with one thing to say. */
function message(head, text, ...more) {
  return h('section', {class: 'card message'}, h('h2', {}, head), h('p', {}, text), more);
}

function nothingYet(again) {
  return message('Nothing from nndiag here yet', 'Add the monitor to a run, and point TensorBoard at the directory the run writes to.',
    h('pre', {}, h('code', {}, 'import nndiag\n\nTrainer(callbacks=[nndiag.DiagnosticsMonitor()])')),
    h('p', {class: 'muted'}, 'The first visit is at step 0: if training has begun, reload in a moment.'),
    h('button', {type: 'button', class: 'solid', onclick: again}, 'Reload'));
}

function upgrade() {
  return message('Upgrade nndiag', 'A newer nndiag wrote this run than the one that TensorBoard has loaded. Upgrade it where TensorBoard runs, and start TensorBoard again.',
    h('pre', {}, h('code', {}, 'pip install --upgrade nndiag')));
}
