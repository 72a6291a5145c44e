'use strict';
// Keys, and choices that show at once; the pages work without.

function step(by) {
  const shown = [...document.querySelectorAll('.card')];
  const at = shown.findIndex((one) => one.contains(document.activeElement));
  const next = shown[at < 0 ? 0 : at + by];
  next?.querySelector('a').focus();
}

const follow = (rel) => document.querySelector(`a[rel=${rel}]`)?.click();
const KEYS = {
  '/': () => document.querySelector('input[type=search]')?.select(),
  j: () => step(1), k: () => step(-1),
  ']': () => follow('next'), '[': () => follow('prev'), u: () => follow('up'),
};

addEventListener('keydown', (event) => {
  const isField = event.target.matches?.('input, select, textarea');
  if (isField && event.key === 'Escape') event.target.blur();
  if (isField || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
for (const one of document.querySelectorAll('form[role=search] select')) {
  one.addEventListener('change', () => one.form.requestSubmit());
}
