// The views beside the sequences: how scores are spread, and what the run was.

function drawDistribution() {
  const found = query().distributions;
  const view = $('distribution');
  if (!found.length) {
    view.replaceChildren(make('p', null, `No distribution to show: ${data.absent}`));
    if (data.has_parts) view.append(normSection());
    return;
  }
  const kept = view.querySelector('select')?.value ?? '0';
  const choice = make(
    'select', null, ...data.answers.map((label, n) => make('option', {value: n}, label)));
  choice.value = kept;
  const charts = make('div', {class: 'charts'});
  const fill = () => charts.replaceChildren(...drawings(found[Number(choice.value)]));
  choice.addEventListener('change', fill);
  const label = make('label', null, 'answer ', choice);
  view.replaceChildren(
    ...(found.length > 1 ? [comparison(found), make('p', {class: 'note'}, COMPARED)] : []),
    make('p', {class: 'controls'}, label), charts);
  fill();
}

const drawings = (one) => [
  make('section', null, make('h3', null, 'How large the scores are'), tailChart(one)),
  make('section', null, make('h3', null, 'Scores and length'), lengthChart(one)),
  normSection(),
  table('Share of the positive influence',
    ['held by the top', 'scores', 'Gaussian noise'],
    one.held.map((row) => row.map(percent))),
];

// Answers side by side, in numbers; the correlations are of ranks.
const comparison = (found) => table('All answers to this query',
  ['answer', 'like the first', 'positive', 'tail exponent', 'held by top 1 %', 'with length'],
  found.map((one, n) => [
    data.answers[n], fixed(one.agreement), percent(one.num_positive / one.num),
    fixed(one.tail.alpha), heldBy(one, 0.01), fixed(one.rank_correlation),
  ]));
const COMPARED = 'Like the first: rank correlation of the scores of all sequences with those of ' +
  'the first answer. With length: that of |score| and length. The rest is as in the charts.';
const fixed = (x) => x === null || x === undefined ? '' : x.toFixed(2);
const heldBy = (one, top) => {
  const row = one.held.find(([share]) => share === top);
  return row ? percent(row[1]) : '';
};

// The top sequences alone: of no others is the gradient's norm known.
function normSection() {
  const title = make('h3', null, 'Scores and size of the gradient');
  if (!data.has_parts) {
    return make('section', null, title, make('p', {class: 'dim'},
      'No gradient norms to show: run experiments.token_parts, then experiments.view.'));
  }
  const rows = query().rows.filter((row) => row.norm > 0);
  if (!rows.length) return make('section', null, title, make('p', {class: 'dim'}, 'No rows.'));
  const on = plot('Score of the top sequences by the norm of their gradient',
    axis(rows.map((row) => row.norm), true, 0.04),
    axis([0, ...rows.map((row) => row.score)], false, 0.04),
    ['norm of the sequence\'s gradient', 'score (nats)'],
    [(x) => number(x, 2, ''), (y) => number(y, 3)]);
  for (const row of rows) {
    const {x, y} = {x: on.px(row.norm), y: on.py(row.score)};
    const name = source(row).title.trim() || `sequence ${row.sequence}`;
    on.svg.append(make('circle', {class: `dot ${row.kind}`, cx: x, cy: y, r: 3.5},
      make('title', null, `${name}: ${number(row.score)} nats, norm ${number(row.norm, 3, '')}`)));
  }
  const correlation = query().norm_correlation;
  const found = correlation === null ? ''
    : ` Rank correlation of |score| and norm among them: ${correlation.toFixed(2)}.`;
  return make('section', null, title, figure(on.svg,
    `The ${rows.length} top sequences of this query alone, positive (orange) and negative: ` +
    `they were chosen by their score, so this says nothing of the others.${found}`));
}

function drawRun() {
  $('run').replaceChildren(
    ...data.tables.flatMap(({title, header, rows, note}) =>
      [table(title, header, rows), ...(note ? [make('p', {class: 'note'}, note)] : [])]));
}
