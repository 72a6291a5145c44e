// The data, what is chosen (`state`), and how queries and sequences look.

const data = JSON.parse(document.getElementById('data').textContent);
for (const one of Object.values(data.sequences)) one.tokens = one.tokens.split('\x7f');
for (const one of data.queries) {
  one.rows = one.rows.map((row) => Object.fromEntries(data.columns.map((name, i) =>
    [name, PACKED.includes(name) ? unpack(row[i]) : row[i]])));
}
const $ = (id) => document.getElementById(id);
const controls = $('controls').elements;
const state = {tab: 'sequences', query: 0, sequence: null, token: null};
const LONG = 900; // characters of a text that is shown whole when not chosen
const FEW = 2; // answers that a line has room for; more are a table of the chosen one

const query = () => data.queries[state.query];
const source = (row) => data.sequences[row.sequence];
const bdi = (text) => make('bdi', null, text);
const span = (kind, ...children) => make('span', {class: kind}, ...children);
const seen = (token) => token.replaceAll('\n', '↵\n');

// ---- queries, on the left

function drawQueries() {
  const wanted = $('query-search').value.toLowerCase();
  const found = data.queries.filter((one) => [
    one.id, one.prompt, one.completion, ...Object.values(one.labels),
  ].join('\n').toLowerCase().includes(wanted));
  const all = `${data.queries.length} ${data.queries.length === 1 ? 'query' : 'queries'}`;
  $('queries-found').textContent = wanted ? `${found.length} of ${all}` : all;
  $('queries').replaceChildren(...found.map((one) => {
    const n = data.queries.indexOf(one);
    const isCurrent = n === state.query ? 'true' : null;
    return make('li', null, make(
      'button', {type: 'button', 'data-query': n, 'aria-current': isCurrent},
      span('name', bdi(one.id), span('num', `${number(one.loss, 3, '')} nats`)),
      make('span', {class: 'asked', dir: 'auto'},
        one.prompt.slice(-300), make('b', null, one.completion.slice(0, 300))),
      span('labels', Object.values(one.labels).join(' · '))));
  }));
}

function drawQuery() {
  const one = query();
  const labels = Object.entries(one.labels).map(
    ([name, value]) => span(null, `${name}: `, bdi(value)));
  $('query').replaceChildren(
    make('h2', null, bdi(one.id)),
    make('div', {class: 'whole', dir: 'auto'}, one.prompt, make('b', null, one.completion)),
    make('p', {class: 'facts'},
      span(null, `loss of the completion: ${number(one.loss, 3, '')} nats`), ...labels));
}

// ---- which sequences, in which order

const shownScore = (row) => {
  const shown = controls.shown.value;
  return ['score', 'scan_score'].includes(shown) ? row[shown] : row.answers[Number(shown)][0];
};
const shownRank = (row) => row.answers[Number(controls.shown.value)]?.[1] ?? row.rank;

// The largest share of the influence, sum |part|, that one token holds.
function largestShare(row) {
  const sizes = shownTokens(row).numbers.parts.map(Math.abs);
  return Math.max(0, ...sizes) / Math.max(1, sizes.reduce((a, b) => a + b, 0));
}

function isWanted(row) {
  const {title, topic, tokens} = source(row);
  const text = controls.text.value.toLowerCase();
  const sparse = largestShare(row) > controls.share.value / 100;
  return (!controls.kind.value || row.kind === controls.kind.value)
    && (!controls.topic.value || `=${topic}` === controls.topic.value)
    && (!controls.title.value || `=${title}` === controls.title.value)
    && (!controls.sparse.value || sparse === (controls.sparse.value === 'only'))
    && (!text || [title, topic, tokens.join('')].join('\n').toLowerCase().includes(text));
}

const ORDERS = {
  shown: (row) => -Math.abs(shownScore(row)) * (isOpposed(row) ? -1 : 1),
  scan_score: (row) => -Math.abs(row.scan_score),
  length: (row) => -source(row).tokens.length,
  title: (row) => source(row).title.toLowerCase(),
};
// Under another answer a score may have the other sign: it goes last.
const isOpposed = (row) => (shownScore(row) < 0) !== (row.kind === 'negative');

function wantedRows() {
  const key = ORDERS[controls.sort.value];
  return query().rows.filter(isWanted).sort((a, b) => {
    if (a.kind !== b.kind) return a.kind === 'positive' ? -1 : 1;
    const [x, y] = [key(a), key(b)];
    return x < y ? -1 : x > y ? 1 : a.rank - b.rank;
  });
}

// ---- sequences

function drawSequences() {
  controls.share.disabled = !controls.sparse.value;
  const note = shownKind().note + (data.has_parts ? '' : ` ${NO_PARTS}`);
  $('parts-note').textContent = note;
  const rows = wantedRows();
  if (!rows.some((row) => row.sequence === state.sequence)) {
    state.sequence = rows[0]?.sequence ?? null;
  }
  const parts = ['positive', 'negative'].flatMap((kind) => {
    const found = rows.filter((row) => row.kind === kind);
    if (!found.length) return [];
    return [
      make('h3', {class: 'kind'},
        span(null, `Most ${kind} `, span('dim', `(${found.length})`)),
        span('dim bars', 'parts of the layers')),
      ...found.map((row) => card(row, row.sequence === state.sequence)),
    ];
  });
  $('sequences').replaceChildren(...parts);
  const num = (kind) => rows.filter((row) => row.kind === kind).length;
  $('found').textContent = `${rows.length} of ${query().rows.length} sequences: ` +
    `${num('positive')} positive, ${num('negative')} negative`;
}

function card(row, isCurrent) {
  const {title, topic, document: from, chunk} = source(row);
  const score = shownScore(row);
  const name = title.trim() ? title : `sequence ${row.sequence}`;
  const place = `sequence ${row.sequence}, document ${from}, chunk ${chunk}`;
  const attributes = {
    class: 'card', 'data-sequence': row.sequence, 'aria-current': isCurrent ? 'true' : null,
  };
  return make('article', attributes,
    make('div', {class: 'head'},
      make('span', {class: 'num dim', title: 'rank'}, count(shownRank(row))),
      span(`num score ${score < 0 ? 'negative' : 'positive'}`, number(score)),
      span('title',
        make('a', {href: permalink(row.sequence), title}, bdi(name)), ' ',
        span('dim', bdi(topic)), span('place', place)),
      strip(row)),
    text(row, isCurrent),
    foot(row, isCurrent));
}

// Bars of the layers' parts, from a zero line that leaves room for both signs.
function strip(row) {
  const numbers = values(row.layers);
  const [low, high] = [Math.min(0, ...numbers), Math.max(0, ...numbers)];
  const strongest = numbers.findIndex((x) => Math.abs(x) === bound(numbers));
  const label = numbers.length
    ? `parts of ${numbers.length} layers, the largest ` +
      `${data.layers[strongest]} ${partly(row.layers, strongest)} nats`
    : '';
  const made = make('span', {class: 'strip', role: 'img', 'aria-label': label});
  made.style.setProperty('--zero', `${(100 * -low / (high - low || 1)).toFixed(1)}%`);
  numbers.forEach((x, i) => {
    const bar = make('i', {class: x < 0 ? 'n' : 'p', 'data-layer': i});
    bar.style.setProperty('--a', (x < 0 ? x / low : x / (high || 1)).toFixed(3));
    made.append(bar);
  });
  return made;
}

// The tokens, each on its colour; of a long text that is not chosen, the part
// that holds most of the influence.
function text(row, isCurrent) {
  const found = shownTokens(row);
  const [tokens, numbers] = [found.tokens, values(found.numbers)];
  const most = bound(numbers) || 1;
  const [start, stop] = isCurrent ? [0, tokens.length] : excerpt(tokens, numbers);
  const spans = tokens.slice(start, stop).map((token, n) => {
    const i = start + n;
    const isWhole = isCurrent || token.length <= LONG;
    const shown = make(
      'span', {'data-token': i}, seen(isWhole ? token : `${token.slice(0, LONG)}…`));
    if (numbers[i]) {
      shown.className = numbers[i] < 0 ? 'n' : 'p';
      shown.style.setProperty('--a', (Math.abs(numbers[i]) / most).toFixed(3));
    }
    return shown;
  });
  const left = (num) => num ? [span('dim', ` … ${num} tokens … `)] : [];
  return make('p', {class: 'text', dir: 'auto', tabindex: isCurrent ? 0 : null},
    ...left(start), ...spans, ...left(tokens.length - stop));
}

// [start, stop) of the tokens that fit in LONG characters and hold most |part|.
function excerpt(tokens, numbers) {
  let best = [0, 0], most = -1, start = 0, length = 0, mass = 0;
  for (let stop = 0; stop < tokens.length; stop++) {
    length += tokens[stop].length;
    mass += Math.abs(numbers[stop]);
    while (length > LONG && start < stop) {
      length -= tokens[start].length;
      mass -= Math.abs(numbers[start++]);
    }
    if (mass > most * (1 + 1e-9)) [best, most] = [[start, stop + 1], mass];
  }
  if (tokens.join('').length <= LONG) best = [0, tokens.length];
  return best;
}

// The same sequence under each answer, with its rank among all sequences.
const answersTable = (row) => table(
  '', ['answer', 'score', row.kind === 'negative' ? 'rank from below' : 'rank'],
  row.answers.map(([score, rank], n) => [data.answers[n], number(score), count(rank)]));

function foot(row, isCurrent) {
  const {tokens, numbers} = shownTokens(row);
  const most = number(bound(values(numbers)), 3, '');
  const from = row.kind === 'negative' ? ' from below' : '';
  const scores = row.answers.map(([score, rank], n) =>
    [data.answers[n], `${number(score)} (rank ${count(rank)}${from})`]);
  const facts = [
    ['', `${source(row).tokens.length} tokens, the largest holds ${percent(largestShare(row))}`],
    ...(numbers.sum !== undefined ? [['parts add up to', number(numbers.sum)]] : []),
    // The one that is shown stands above.
    ...(controls.shown.value === 'score' ? [] : [['score', number(row.score)]]),
    ...(controls.shown.value === 'scan_score' ? [] : [['scan', number(row.scan_score)]]),
    ...('norm' in row ? [['gradient norm', number(row.norm, 3, '')]] : []),
    ...(scores.length > FEW ? [] : scores),
  ];
  return make('div', {class: 'foot'},
    span('scale', `-${most}`, make('i'), `+${most} nats a token`),
    ...facts.map(([name, value]) => span(null, name, ' ', make('b', null, value))),
    ...(scores.length > FEW && isCurrent ? [answersTable(row)] : []));
}
