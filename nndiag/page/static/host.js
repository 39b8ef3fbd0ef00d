// TensorBoard around the page: reloads, dark mode, and the address. All of it may be missing.

const KEY = 'p.nndiag.';
const TAB = 'nndiag';

/** Calls back when TensorBoard has loaded data anew. */
export function onReload(callback) {
  if (window.parent === window) return;
  const channel = new MessageChannel();
  channel.port1.onmessage = (event) => {
    let message;
    try { message = JSON.parse(event.data); } catch { return; }
    if (message.isReply) return;
    channel.port1.postMessage(JSON.stringify({type: message.type, id: message.id, payload: null, error: null, isReply: true}));
    if (message.type === 'experimental.DataReloaded') callback();
  };
  window.parent.postMessage('experimental.bootstrap', '*', [channel.port2]);
}

/** Calls back with whether it is dark, now and at each change. TensorBoard tells its frames nothing of it. */
export function onTheme(callback) {
  const media = window.matchMedia('(prefers-color-scheme: dark)');
  const body = parentPage((page) => (page === window ? null : page.document.body));
  const isDark = () => (body ? body.classList.contains('dark-mode') : media.matches);
  if (body) new MutationObserver(() => callback(isDark())).observe(body, {attributes: true, attributeFilter: ['class']});
  media.addEventListener('change', () => callback(isDark()));
  callback(isDark());
}

/** What the address says of this tab. */
export function readAddress() {
  const found = {};
  for (const part of hash().split('&')) {
    const [key, value = ''] = part.split('=');
    if (!key.startsWith(KEY)) continue;
    try { found[key.slice(KEY.length)] = decodeURIComponent(value); } catch { /* not one of ours */ }
  }
  return found;
}

/** Puts the state into the address, so that it can be sent to somebody and survives a reload. */
export function writeAddress(state) {
  const kept = hash().split('&').filter((part) => !part.startsWith(KEY));
  if (parentPage((page) => page !== window) && kept[0] !== TAB) return;  // another tab is in front
  const own = Object.entries(state)
    .filter(([, value]) => value != null && value !== '')
    .map(([key, value]) => `${KEY}${key}=${encodeURIComponent(wellFormed(value))}`);
  parentPage((page) => {  // the whole path, as the frame's base is another one
    const {pathname, search} = page.location;
    page.history.replaceState(page.history.state, '', `${pathname}${search}#${[...kept.filter(Boolean), ...own].join('&')}`);
  });
}

/** Calls back when the address was changed from outside: a link in another tab, the back button. */
export function onAddress(callback) {
  parentPage((page) => page.addEventListener('hashchange', () => callback(readAddress())));
}

function hash() {
  return parentPage((page) => page.location.hash.slice(1)) ?? '';
}

function parentPage(use) {
  try { return use(window.parent); } catch { return null; }
}

function wellFormed(value) {
  return String(value).replace(/\p{Cs}/gu, '\ufffd');
}
