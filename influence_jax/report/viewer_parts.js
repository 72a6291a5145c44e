// Numbers of tokens and layers as viewer.py packs them; which of them are shown.

const DIGITS = [...Array(95).keys()]
  .map((n) => String.fromCharCode(32 + n))
  .filter((x) => !'"\\<>&'.includes(x));
const WORTH = Object.fromEntries(DIGITS.map((x, n) => [x, n]));

const PACKED = ['tokens', 'layers', 'input', 'output'];

// Of each number `parts` is how often it holds the unit.
function unpack([unit, packed, sum]) {
  const base = DIGITS.length;
  const parts = Array.from({length: packed.length / 2}, (_, i) =>
    WORTH[packed[2 * i]] * base + WORTH[packed[2 * i + 1]] - base ** 2 / 2);
  return {unit, parts, sum};
}

const values = ({unit, parts}) => parts.map((n) => n * unit);
const bound = (numbers) => numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

// A number to the digits that the page holds of it: three at most.
function partly({unit, parts}, i) {
  const x = parts[i] * unit;
  const last = 10 ** Math.ceil(Math.log10(unit) - 1e-9);
  return number(x, Math.min(3, String(Math.round(Math.abs(x) / last)).length));
}

// ---- what a token's number is of: controls.parts

const PARTS = {
  tokens: {
    name: 'by position',
    as: '',
    note: 'Colours: the part of the score that arises where a token is read, one token ' +
      'before the predicted one. Parts add up to the score.',
  },
  input: {
    name: 'input tokens',
    as: ' as input',
    note: 'Colours: what a token does to all predictions after it, by a factor on its ' +
      'embedding. Parts add up to nothing in particular.',
  },
  output: {
    name: 'output tokens',
    as: ' as target',
    note: 'Colours: what a token does as the one that is predicted, its own term of the ' +
      'loss. Parts add up to the score.',
  },
};
const NO_PARTS = 'Input and output tokens are not there: run experiments.token_parts, then ' +
  'experiments.view.';

const shownKind = () => PARTS[controls.parts.value];

// The tokens that are shown, and a number for each. As targets they begin with
// the second one, and there is one more at the end.
function shownTokens(row) {
  const {tokens, last} = source(row);
  const numbers = row[controls.parts.value];
  if (controls.parts.value !== 'output') return {tokens, numbers};
  const parts = [0, ...numbers.parts];
  return {tokens: [...tokens, last], numbers: {...numbers, parts}};
}

function fillParts() {
  for (const [value, {name}] of Object.entries(PARTS)) {
    const option = make('option', {value}, name);
    option.disabled = value !== 'tokens' && !data.has_parts;
    controls.parts.append(option);
  }
}

function nextParts() {
  if (!data.has_parts) return;
  const kinds = Object.keys(PARTS);
  controls.parts.value = kinds[(kinds.indexOf(controls.parts.value) + 1) % kinds.length];
}
