'use strict';
// Elements, numbers, tables and charts. Texts become text nodes, never markup.

function make(tag, attributes, ...children) {
  const svg = ['svg', 'g', 'line', 'path', 'rect', 'circle', 'text', 'title'].includes(tag);
  const made = svg
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// x to `digits` digits or the unit, as influence_jax/report/records.py has it.
function number(x, digits = 3, sign = '+') {
  const [mantissa, exponent] = Math.abs(x).toExponential(digits - 1).split('e');
  const rounded = Number(`${mantissa}e${exponent}`);
  if (rounded === 0) return '0';
  const lead = x < 0 ? '-' : sign;
  if (rounded < 1e-3 || rounded >= 1e6) {
    return `${lead}${mantissa}e${Number(exponent)}`;
  }
  const decimals = Math.max(0, digits - 1 - Number(exponent));
  const form = {minimumFractionDigits: decimals, maximumFractionDigits: decimals};
  return lead + Math.abs(x).toLocaleString('en-US', form);
}

const count = (n) => n.toLocaleString('en-US');
const percent = (x) => `${Number((100 * x).toPrecision(3))} %`;

function table(title, header, rows) {
  const isNumber = (text) => /^[-+]?[\d.][\d.,e+-]*( [%KMGT]?i?B?s?)?$/.test(text);
  const numeric = header.map((_, i) => i > 0 && rows.every(
    (row) => isNumber(row[i]) || row[i] === ''));
  const side = (i) => ({class: numeric[i] ? 'num' : null});
  const cell = (text, i) => i
    ? make('td', side(i), make('bdi', null, text))
    : make('th', {scope: 'row'}, make('bdi', null, text));
  // What can be scrolled must be within reach of the keyboard.
  const place = {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': title || header[0]};
  return make('div', place, make('table', null,
    title ? make('caption', null, title) : '',
    make('thead', null, make('tr', null, ...header.map(
      (text, i) => make('th', {scope: 'col', ...side(i)}, text)))),
    make('tbody', null, ...rows.map((row) => make('tr', null, ...row.map(cell))))));
}

// Round values from low to high, about five.
function steps(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((x) => x * power >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(n * step);
  return ticks;
}

// Where a value lies between 0 and 1, and which values are named on the axis.
// `room`, of the whole, is left free at both ends.
function axis(values, isLog, room = 0) {
  const to = isLog ? Math.log10 : (x) => x;
  let [low, high] = [to(Math.min(...values)), to(Math.max(...values))];
  if (high - low <= 1e-9 * Math.abs(low)) {
    const room = isLog ? 0.5 : Math.abs(low) / 2 || 1;
    [low, high] = [low - room, high + room];
  }
  const free = room * (high - low);
  [low, high] = [low - free, high + free];
  let ticks = [];
  if (isLog) {
    const every = Math.ceil((high - low) / 7);
    for (let n = Math.ceil(low - 1e-9); n <= high + 1e-9; n += every) ticks.push(10 ** n);
    if (ticks.length < 2) ticks = steps(10 ** low, 10 ** high);
  } else {
    ticks = steps(low, high);
  }
  return {at: (x) => (to(x) - low) / (high - low), ticks};
}

const PLOT = {left: 70, right: 12, top: 10, bottom: 40, width: 430, height: 290};

// An empty plot: its svg, and (x, y) => its pixels.
function plot(label, x, y, names, forms) {
  const {left, right, top, bottom, width, height} = PLOT;
  const px = (value) => left + x.at(value) * (width - left - right);
  const py = (value) => height - bottom - y.at(value) * (height - top - bottom);
  const viewBox = `0 0 ${width} ${height}`;
  const svg = make('svg', {viewBox, width, height, role: 'img', 'aria-label': label});
  for (const value of x.ticks) {
    svg.append(
      make('line', {class: 'grid', x1: px(value), x2: px(value), y1: top, y2: height - bottom}),
      make('text', {class: 'middle', x: px(value), y: height - bottom + 15}, forms[0](value)));
  }
  for (const value of y.ticks) {
    svg.append(
      make('line', {class: 'grid', x1: left, x2: width - right, y1: py(value), y2: py(value)}),
      make('text', {class: 'end', x: left - 6, y: py(value) + 4}, forms[1](value)));
  }
  const [x0, y0] = [(left + width - right) / 2, (top + height - bottom) / 2];
  const turned = `translate(12 ${y0}) rotate(-90)`;
  svg.append(
    make('text', {class: 'middle', x: x0, y: height - 6}, names[0]),
    make('text', {class: 'middle', transform: turned}, names[1]));
  return {svg, px, py};
}

const path = (points, on, kind) => make('path', {class: kind, d: 'M' + points.map(
  ([x, y]) => `${on.px(x).toFixed(1)} ${on.py(y).toFixed(1)}`).join('L')});
const figure = (svg, caption) => make('figure', null, svg, make('figcaption', null, caption));

function tailChart(found) {
  const {ccdf, tail} = found;
  if (!ccdf.length) return make('p', {class: 'dim'}, 'No score is positive: no tail to show.');
  // From the score on that 99 % of the positive ones reach, as figures.py does.
  const shown = ccdf.filter(([x, share]) => share <= 0.99 || x === ccdf[0][0]);
  const all = [...shown, ...(tail.line ?? [])];
  const on = plot('Share of the positive scores that are at least x, by x',
    axis(all.map(([x]) => x), true), axis([...all.map(([, y]) => y), 1], true),
    ['score x (nats)', 'share of positive scores ≥ x'],
    [(x) => number(x, 1, ''), (y) => `${number(100 * y, 1, '')} %`]);
  on.svg.append(path(shown, on, 'curve'));
  if (tail.line) on.svg.append(path(tail.line, on, 'fit'));
  const fit = tail.line
    ? `Dashed: the power law of the largest ${percent(tail.share)} of all scores, from ` +
      `${number(tail.x_min)} nats on: exponent ${tail.alpha.toFixed(2)} ± ` +
      `${tail.error.toFixed(2)} (standard error).`
    : `No power law is fitted: ${tail.none}`;
  return figure(on.svg,
    `${count(found.num_positive)} of ${count(found.num)} scores are positive. ${fit}`);
}

function lengthChart(found) {
  const bins = found.by_length;
  const heights = bins.flatMap((bin) => bin.slice(3));
  const on = plot('Scores by length of the sequence',
    axis([bins[0][0] - 0.5, bins.at(-1)[1] + 0.5], false), axis(heights, false, 0.04),
    ['length of the sequence (tokens)', 'score (nats)'],
    [(x) => String(x), (y) => number(y, 3)]);
  for (const [first, last, , low, lower, median, upper, high] of bins) {
    const [x1, x2] = [on.px(first - 0.5) + 1, on.px(last + 0.5) - 1];
    const box = (kind, from, to) => make('rect', {
      class: kind, x: x1, width: Math.max(1, x2 - x1),
      y: on.py(to), height: Math.max(0.5, on.py(from) - on.py(to))});
    on.svg.append(box('outer', low, high), box('inner', lower, upper), make(
      'line', {class: 'median', x1, x2, y1: on.py(median), y2: on.py(median)}));
  }
  const correlation = found.rank_correlation === null ? ''
    : ` Rank correlation of |score| and length: ${found.rank_correlation.toFixed(2)}.`;
  return figure(on.svg, 'Line: median; dark: the middle half; light: from 1 % to 99 % ' +
    `of the scores of that length.${correlation}`);
}
