"""A query that is typed in: its top sequences, a few seconds later.

  asked = interactive.Interactive(config, workdir)
  job = asked.start('The capital of France', ' is Paris')
  job.wait()
  job.result  # rows of experiments.top_table

The workdir has a model and a fit: what experiments.train and fit_curvature, or
experiments.influence, left there. Model, factors and corpus are read once,
programs are compiled by the first query that needs them, and nothing is
written. The numbers are those of experiments.score for a file with the query in
it, by the same functions; of several answers (score.answers) it has the first.

One thread works, a query at a time: a job that is started meanwhile waits for
its turn. Sections read: data, model or checkpoint, layers, curvature, fit,
damping, score.
"""

import functools
import os
import pathlib
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import jax
from absl import logging
from ml_collections import ConfigDict

from experiments import (
  common,
  fit_curvature,
  refine,
  score,
  solve,
  top_table,
  trained,
)
from influence_jax import attribution, contraction, topk, types
from influence_jax import scan as scan_lib
from influence_jax.data import batches as batches_lib
from influence_jax.data import queries as queries_lib

METHODS = 'all', 'tf_idf', 'bm25'  # of choosing candidates
STAGES = 'candidates', 'gradient', 'solve', 'scan', 'refine'
MOST_WAITING, MOST_SHOWN = 8, 500  # jobs at once; sequences of a sign
_KEPT = 20  # jobs that have ended
_ID = 'typed'  # of each query

_T = TypeVar('_T')


class Progress(NamedTuple):
  stage: str  # one of STAGES, '' before the first
  done: int  # batches of the stage; the three without any count as one
  total: int
  seconds: float  # since the job's turn came, until it ended


class Job:
  """One query's way through the stages; made by `Interactive.start`.

  state: 'waiting', 'running', then 'done', 'cancelled' or 'failed'.
  result: rows of `top_table.rows`, once done.
  loss: of the completion, nats, once there is one.
  error: a sentence, once failed.
  """

  def __init__(self, query: queries_lib.Query, config: ConfigDict):
    self.id = secrets.token_hex(8)
    self.query = query
    self.config = config  # with what was asked for in its section score
    self.state, self.error = 'waiting', ''
    self.result: list[dict[str, Any]] | None = None
    self.loss: float | None = None
    self._at = '', 0, 1
    self._began: dict[str, float] = {}  # stage: when
    self._end: float | None = None
    self._stop, self._ended = threading.Event(), threading.Event()

  @property
  def progress(self) -> Progress:
    return Progress(*self._at, sum(self.seconds.values()))

  @property
  def seconds(self) -> dict[str, float]:
    """Of each stage that has begun, in their order."""
    began = dict(self._began)
    end = self._end or time.perf_counter()
    stops = [*began.values(), end][1:]
    return {
      stage: stop - start
      for (stage, start), stop in zip(began.items(), stops, strict=True)
    }

  def cancel(self) -> None:
    """Ends it before its next batch, or its turn; later it does nothing."""
    self._stop.set()

  @property
  def has_ended(self) -> bool:
    return self._ended.is_set()

  def wait(self, seconds: float | None = None) -> bool:
    """Until it has ended; whether it has."""
    return self._ended.wait(seconds)

  def begin(self, stage: str, total: int = 1) -> None:
    """For the thread that works, as `each`."""
    if self._stop.is_set():
      raise _Cancelled
    self._began.setdefault(stage, time.perf_counter())
    self._at = stage, 0, total

  def each(self, stage: str, items: Iterable[_T], total: int) -> Iterator[_T]:
    """`items`, counted; nothing comes after a `cancel`."""
    self.begin(stage, total)
    for done, item in enumerate(items, start=1):
      if self._stop.is_set():
        raise _Cancelled
      yield item
      self._at = stage, done, total

  def end(self, state: str, error: str = '') -> None:
    self._end = time.perf_counter()
    self.error, self.state = error, state
    self._ended.set()


class _Cancelled(Exception):
  pass


class Interactive:
  """Model, factors and corpus of a workdir, and the thread that works."""

  def __init__(self, config: ConfigDict, workdir: str | os.PathLike):
    """Raises ValueError if there is no whole fit of this config."""
    if jax.process_count() > 1:
      raise ValueError(
        f'{jax.process_count()} processes, expected one: typed queries are for '
        'a process alone, with all its devices'
      )
    workdir = pathlib.Path(workdir)
    if not (workdir / 'factors').exists():  # before a corpus is made
      raise ValueError(
        f'no factors in {workdir}, expected those of a fit: run '
        'experiments.fit_curvature or experiments.influence with this --config '
        'and --workdir'
      )
    self.config, self._mesh = config, common.mesh(config)
    ours = trained.load(config, workdir)
    answers = solve.answers(config)[:1]
    factors = fit_curvature.restore(
      answers[0].approximation, ours.model.layers, workdir,
      fit_curvature.expected_meta(config, ours), complete=True,
    ).factors  # fmt: skip
    self._params = common.place(config, self._mesh, ours.params)
    if self._mesh.size == 1:  # one copy for all programs
      ours, factors = (
        ours._replace(params=self._params),
        jax.device_put(factors),
      )
    self.ours = ours
    self.layer_names = attribution.layer_names(ours.model.layers)
    self._gradient, self._solved = solve.steps(
      config, ours, answers, factors, config.score.rank
    )
    self._step = scan_lib.make_step(ours.model, self._mesh)
    with refine.precision(config):
      self._solver, self._details = refine.make(config, ours, factors)
    self._lock, self._jobs = threading.Lock(), {}
    self._thread = futures.ThreadPoolExecutor(1, 'interactive')

  def start(
    self,
    prompt: str,
    completion: str,
    *,
    candidates: Mapping[str, Any] | None = None,
    num: int | None = None,
  ) -> Job:
    """A job that finds the top sequences of the query.

    Args:
      prompt: as in a file of queries; may be empty.
      completion: what is attributed.
      candidates: keys of score.candidates that are other than the config's.
      num: sequences of each sign, score.num_top unless given.

    Raises:
      ValueError: a sentence that says what is wrong with one of them.
    """
    config = _changed(self.config, candidates or {}, num)
    query = queries_lib.Query(_ID, prompt, completion)
    _check(query)
    batch = score.query_batch(config, self.ours, [query])
    job = Job(query, config)
    with self._lock:
      waiting = sum(not one.has_ended for one in self._jobs.values())
      if waiting >= MOST_WAITING:
        raise ValueError(
          f'{waiting} queries are under way, expected fewer than '
          f'{MOST_WAITING}: wait for one of them or cancel it'
        )
      ended = [one.id for one in self._jobs.values() if one.has_ended]
      for old in ended[: max(0, len(ended) - _KEPT + 1)]:
        del self._jobs[old]
      self._jobs[job.id] = job
      self._thread.submit(self._run, job, batch)
    return job

  def job(self, number: str) -> Job | None:
    """By id; the oldest that ended are forgotten."""
    return self._jobs.get(number)

  def jobs(self) -> list[Job]:
    """Those that are known, the newest first."""
    with self._lock:
      return list(self._jobs.values())[::-1]

  def close(self) -> None:
    """Cancels all jobs and waits for the thread."""
    for job in self.jobs():
      job.cancel()
    self._thread.shutdown()

  def _run(self, job: Job, batch: types.Batch) -> None:
    try:
      job.state = 'running'
      job.result = self._answer(job, batch)
      job.end('done')
    except _Cancelled:
      job.end('cancelled')
    except ValueError as error:
      job.end('failed', str(error))
    except Exception:  # the thread goes on with the next one
      logging.exception('query %s', job.id)
      job.end(
        'failed', 'it ended in an error: the log of this program says why'
      )

  def _answer(self, job: Job, batch: types.Batch) -> list[dict[str, Any]]:
    config, ours = job.config, self.ours
    job.begin('candidates')
    numbers = score.candidates(config, ours, batch)
    job.begin('gradient')
    found = jax.block_until_ready(self._gradient(batch, [0]))
    job.begin('solve')
    (queries,), (loss,) = self._solved(*found, 1)
    job.loss = float(loss)
    summary = self._scan(job, queries, numbers)
    job.begin('refine')
    with refine.precision(config):
      if config.score.refine:
        (queries,), _ = self._solver(batch, [0])
      tops = refine.of_query(
        config, ours, self._details, queries, summary, 0,
        lambda plan: job.each('refine', plan, len(plan)),
      )  # fmt: skip
    return top_table.rows(ours, [job.query], [tops])

  def _scan(self, job: Job, queries: contraction.Queries, numbers):
    """`score.scan` of one query, kept in memory alone."""
    section, sequences = job.config.score, self.ours.corpus.sequences
    plan = batches_lib.split(sequences, numbers, section.batch_tokens)
    get = functools.partial(common.get_batch, self._mesh, sequences)
    results = scan_lib.scan(
      self._step, self._params, queries, map(get, plan), self._mesh
    )
    summary = topk.start(1, max(section.num_top, section.refine, 1))
    for ids_B, scores_KxB in job.each('scan', results, len(plan)):
      summary = topk.update(summary, ids_B, scores_KxB)
    return summary


def _changed(config, candidates, num) -> ConfigDict:
  """The config with what is asked for; ValueError if that cannot be."""
  num = config.score.num_top if num is None else num
  wanted = {**config.score.candidates.to_dict(), **candidates}
  unknown = wanted.keys() - {'method', 'per_query'}
  if unknown or wanted['method'] not in METHODS:
    raise ValueError(
      f'candidates are {wanted}, expected a method of {list(METHODS)} and a '
      'number per_query'
    )
  for name, value in {'per_query': wanted['per_query'], 'num': num}.items():
    most = MOST_SHOWN if name == 'num' else float('inf')
    if not isinstance(value, int) or not 1 <= value <= most:
      raise ValueError(
        f'{name}={value!r}, expected a whole number from 1'
        f'{f" to {most}" if name == "num" else ""}: ask for another'
      )
  made = config.copy_and_resolve_references()
  made.score.candidates, made.score.num_top = ConfigDict(wanted), num
  return made


def _check(query: queries_lib.Query) -> None:
  """What a file of queries cannot have, or is told of otherwise."""
  for name in ('prompt', 'completion'):
    text = getattr(query, name)
    if not isinstance(text, str):
      raise ValueError(
        f'the {name} is {text!r}, expected a text: give it as a string'
      )
    if any('\ud800' <= x <= '\udfff' for x in text):
      raise ValueError(
        f'the {name} holds half of a surrogate pair, expected Unicode text: '
        'type that character again'
      )
  if not query.completion:
    raise ValueError(
      'the completion is empty, expected the text whose probability is to be '
      'explained: type at least one character'
    )
