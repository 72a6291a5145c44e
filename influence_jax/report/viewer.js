// What is chosen, by pointer, keys or address; numbers under the pointer.

// ---- what is chosen

function permalink(sequence) {
  const parts = new URLSearchParams({query: query().id});
  if (sequence !== null) parts.set('sequence', sequence);
  if (controls.parts.value !== 'tokens') parts.set('parts', controls.parts.value);
  if (state.tab !== 'sequences') parts.set('tab', state.tab);
  return `#${parts}`;
}
const remember = () => history.replaceState(null, '', permalink(state.sequence));

const rowOf = (sequence) => query().rows.find((one) => one.sequence === sequence);
const cardOf = (sequence) => $('sequences').querySelector(`[data-sequence="${sequence}"]`);

function redraw(sequence) {
  const row = rowOf(sequence);
  const old = cardOf(sequence);
  if (!row || !old) return;
  const hadFocus = old.contains(document.activeElement);
  const made = card(row, sequence === state.sequence);
  old.replaceWith(made);
  if (hadFocus) made.querySelector('a').focus({preventScroll: true});
}

function chooseSequence(sequence) {
  const before = state.sequence;
  Object.assign(state, {sequence, token: null});
  if (before !== sequence) [before, sequence].forEach(redraw);
  $('sequences').querySelector('.at')?.classList.remove('at');
  hideTip();
  remember();
}

function step(by) {
  const cards = [...$('sequences').querySelectorAll('.card')];
  const shown = cards.map((one) => Number(one.dataset.sequence));
  const next = shown[shown.indexOf(state.sequence) + by];
  if (next === undefined) return;
  chooseSequence(next);
  cardOf(next).scrollIntoView({block: 'nearest'});
}

function chooseQuery(n, sequence = null) {
  Object.assign(state, {query: n, sequence, token: null});
  const rows = query().rows;
  for (const key of ['topic', 'title']) {
    options(controls[key], rows.map((row) => source(row)[key]), `any ${key}`);
  }
  drawQueries();
  drawQuery();
  drawSequences();
  drawDistribution();
  hideTip();
  $('queries').querySelector('[aria-current]')?.scrollIntoView({block: 'nearest'});
}

function stepQuery(by) {
  const n = state.query + by;
  if (n < 0 || n >= data.queries.length) return;
  chooseQuery(n);
  scrollTo(0, 0);
  remember();
}

// A choice of the texts, the most frequent first. Values begin with '=', so
// that an empty text is not 'any'.
function options(select, texts, any) {
  const counts = new Map();
  for (const one of texts) counts.set(one, (counts.get(one) ?? 0) + 1);
  const sorted = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const cut = (one) => one.length > 60 ? `${one.slice(0, 60)}…` : one;
  const kept = select.value;
  select.replaceChildren(
    make('option', {value: ''}, `${any} (${sorted.length})`),
    ...sorted.map(([one, num]) => make('option', {value: `=${one}`}, `${cut(one)} (${num})`)));
  select.value = counts.has(kept.slice(1)) && kept ? kept : '';
}

function chooseTab(tab) {
  state.tab = tab;
  for (const one of document.querySelectorAll('[data-view]')) {
    one.hidden = one.dataset.view !== tab;
  }
  for (const one of document.querySelectorAll('[data-tab]')) {
    if (one.dataset.tab === tab) one.setAttribute('aria-current', 'page');
    else one.removeAttribute('aria-current');
  }
  $('query').hidden = $('side').hidden = tab === 'run';
  document.body.classList.toggle('alone', tab === 'run');
  hideTip();
}

function openTab(tab) {
  chooseTab(tab);
  remember();
}

function openLink() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const n = data.queries.findIndex((one) => one.id === parts.get('query'));
  const tab = parts.get('tab');
  chooseTab(['distribution', 'run'].includes(tab) ? tab : 'sequences');
  const sequence = parts.get('sequence');
  const kind = parts.get('parts');
  controls.parts.value = data.has_parts && kind in PARTS ? kind : 'tokens';
  chooseQuery(Math.max(n, 0), sequence === null ? null : Number(sequence));
  if (parts.has('query') && n < 0) {
    $('found').textContent += `; no query ${parts.get('query')} here: this is the first`;
  }
  if (sequence !== null) cardOf(state.sequence)?.scrollIntoView({block: 'center'});
}

// ---- numbers under the pointer or the cursor

function showTip(target) {
  const row = rowOf(Number(target.closest('.card').dataset.sequence));
  const i = Number(target.dataset.token ?? target.dataset.layer);
  const isToken = 'token' in target.dataset;
  const {tokens, numbers} = shownTokens(row);
  const shown = isToken
    ? [make('code', null, seen(tokens[i].slice(0, 300))),
      ` ${partly(numbers, i)} nats${shownKind().as}`]
    : [make('b', null, data.layers[i]), ` ${partly(row.layers, i)} nats`];
  $('tip').replaceChildren(...shown);
  const at = target.getBoundingClientRect();
  const own = $('tip').getBoundingClientRect();
  const above = at.bottom + own.height + 8 > innerHeight;
  $('tip').style.left = `${Math.max(4, Math.min(at.left, innerWidth - own.width - 8))}px`;
  $('tip').style.top = `${above ? Math.max(4, at.top - own.height - 4) : at.bottom + 4}px`;
}
const hideTip = () => $('tip').replaceChildren();

function stepToken(by) {
  const spans = [...cardOf(state.sequence)?.querySelectorAll('[data-token]') ?? []];
  if (!spans.length) return;
  const {numbers} = shownTokens(rowOf(state.sequence));
  const sizes = numbers.parts.map(Math.abs);
  state.token = state.token === null
    ? sizes.indexOf(Math.max(...sizes))
    : Math.max(0, Math.min(spans.length - 1, state.token + by));
  spans.forEach((span, i) => span.classList.toggle('at', i === state.token));
  spans[state.token].scrollIntoView({block: 'nearest'});
  showTip(spans[state.token]);
}

// ---- events

$('query-search').addEventListener('input', drawQueries);
$('queries').addEventListener('click', (event) => {
  const button = event.target.closest('[data-query]');
  if (!button) return;
  chooseQuery(Number(button.dataset.query));
  $('queries').querySelector('[aria-current]')?.focus();
  scrollTo(0, 0);
  remember();
});
function changed() {
  state.token = null;
  drawSequences();
  hideTip();
  remember();
}
$('controls').addEventListener('input', changed);
$('controls').addEventListener('submit', (event) => event.preventDefault());
$('sequences').addEventListener('click', (event) => {
  const found = event.target.closest('.card');
  if (!found || String(getSelection())) return;
  if (event.target.closest('a')) event.preventDefault();
  chooseSequence(Number(found.dataset.sequence));
});
$('sequences').addEventListener('pointerover', (event) => {
  const target = event.target.closest('[data-token], [data-layer]');
  if (target) showTip(target); else hideTip();
});
$('sequences').addEventListener('pointerleave', hideTip);
$('sequences').addEventListener('focusin', (event) => {
  if (event.target.matches('.text:focus-visible')) stepToken(0);
});
addEventListener('scroll', () => {
  const token = $('sequences').querySelector('.at');
  const at = token?.getBoundingClientRect();
  if (at && at.bottom > 0 && at.top < innerHeight) showTip(token); else hideTip();
});
addEventListener('hashchange', openLink);
$('skip').addEventListener('click', (event) => { event.preventDefault(); $('main').focus(); });
for (const one of document.querySelectorAll('[data-tab]')) {
  one.addEventListener('click', () => openTab(one.dataset.tab));
}
$('help').addEventListener('click', () => $('keys').showModal());
$('theme').addEventListener('click', switchTheme);

function isDark() {
  const {classList} = document.documentElement;
  return classList.contains('dark')
    || !classList.contains('light') && matchMedia('(prefers-color-scheme: dark)').matches;
}
function switchTheme() {
  const to = isDark() ? 'light' : 'dark';
  document.documentElement.classList.remove('light', 'dark');
  document.documentElement.classList.add(to);
  nameTheme();
}
const nameTheme = () => { $('theme').textContent = isDark() ? 'Light' : 'Dark'; };

const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  ']': () => stepQuery(1), '[': () => stepQuery(-1),
  ArrowRight: () => stepToken(1), ArrowLeft: () => stepToken(-1),
  '/': () => {
    chooseTab('sequences');
    controls.text.focus();
    controls.text.select();
  },
  '?': () => $('keys').showModal(), d: switchTheme,
  t: () => { nextParts(); changed(); },
  1: () => openTab('sequences'), 2: () => openTab('distribution'), 3: () => openTab('run'),
};
const ON_SEQUENCES = ['t', 'j', 'k', 'ArrowDown', 'ArrowUp', 'ArrowRight', 'ArrowLeft'];

addEventListener('keydown', (event) => {
  const isField = event.target.matches?.('input, select');
  if (isField && event.key === 'Escape') event.target.blur();
  if (isField || $('keys').open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (ON_SEQUENCES.includes(event.key) && state.tab !== 'sequences') return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

controls.shown.append(
  make('option', {value: 'score'}, 'score'),
  make('option', {value: 'scan_score'}, 'scan score'),
  ...data.answers.map((label, n) => make('option', {value: n}, label)));
fillParts();
nameTheme();
drawRun();
openLink();
