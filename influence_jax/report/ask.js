'use strict';
// How far a query is, until it has ended; keys of its form.

const EVERY = 500; // milliseconds
const job = document.getElementById('job');
const put = (id, text) => { document.getElementById(id).textContent = text; };

async function poll() {
  const words = document.getElementById('words');
  let found;
  try {
    const answer = await fetch(`/ask/${job.dataset.job}/progress`);
    if (answer.status === 404) return location.reload();
    found = await answer.json();
  } catch {
    put('words', 'The server does not answer.');
    return setTimeout(poll, 10 * EVERY);
  }
  if (!['waiting', 'running'].includes(found.state)) return location.reload();
  if (words.textContent !== found.words) words.textContent = found.words;
  const bar = document.getElementById('progress');
  bar.max = Math.max(1, found.total);
  bar.value = found.done;
  const batches = found.total > 1
    ? `${found.done.toLocaleString('en-US')} of ${found.total.toLocaleString('en-US')} batches, `
    : '';
  put('count', found.state === 'running' ? `${batches}${found.seconds.toFixed(1)} s` : '');
  setTimeout(poll, EVERY);
}
if (job) poll();

document.getElementById('ask')?.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    event.currentTarget.requestSubmit();
  }
});
