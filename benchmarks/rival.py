"""The stages of a case with kronfluence 1.0.1 in PyTorch on the CPU.

    python -m benchmarks.rival --folder=CASE --stage=lambda --batch=32

Its inner functions are timed: nothing is written to a disk inside. float32, but
float64 in the eigendecomposition (its default); EK-FAC, damping 0.1 of the mean
(its default); no data loader but slices; queries in one accumulated set, since
it goes over the training data once a set. Low rank is its default too, the
randomised `torch.svd_lowrank`. Loaded before the baseline of memory is taken:
`torch._dynamo`, which it imports in the middle of a pairwise pass.
"""

import pathlib
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch._dynamo  # noqa: F401
from kronfluence import analyzer, arguments
from kronfluence.factor import covariance, eigen
from kronfluence.score import pairwise
from kronfluence.score import self as self_score
from kronfluence.utils import state as kronfluence_state

from benchmarks import cases, measure, rival_model

_NEEDS = {
  'eigendecomposition': ['covariance'],
  'lambda': ['eigendecomposition'],
  **dict.fromkeys(
    ('pairwise', 'pairwise_rank32', 'tokens_rank32', 'self_influence'),
    ['eigendecomposition', 'lambda'],
  ),
}


def prepare(folder: pathlib.Path, stage: str, query_batch: int) -> Callable:
  warnings.filterwarnings('ignore', category=FutureWarning)
  torch.set_num_threads(measure.THREADS)
  torch.manual_seed(0)
  model, task, data = rival_model.load(folder)
  model = analyzer.prepare_model(model, task)
  factors = {}
  for name in _NEEDS.get(stage, ()):
    factors |= _unflatten(measure.kept(folder, 'rival', name))
  common = {
    'model': model,
    'state': kronfluence_state.State(cpu=True),
    'disable_tqdm': True,
  }
  runs = _Runs(common, task, data, query_batch)
  return lambda batches, num: getattr(runs, stage)(factors, batches, num)


class _Runs:
  """A method a stage: (factors, batches, num) -> what `measure` wants."""

  def __init__(self, common, task, data, query_batch):
    self.common, self.task, self.data = common, task, data
    self.query_batch = min(query_batch, len(data['query'][0]))
    self.factor_args = arguments.FactorArguments(strategy='ekfac')

  def covariance(self, factors, batches, num):
    found = self._covariance(batches, num)

    def result():
      A, S = found['activation_covariance'], found['gradient_covariance']
      num_tokens = _first(found['num_activation_covariance_processed'])
      value = [x.diagonal() for name in A for x in (A[name], S[name])]
      return torch.cat(value).numpy() / num_tokens, _flatten(found)

    return result

  def eigendecomposition(self, factors, batches, num):
    found = self._eigendecomposition(factors)
    L_A, L_S = found['activation_eigenvalues'], found['gradient_eigenvalues']
    value = [x for name in L_A for x in (L_A[name], L_S[name])]
    return lambda: (torch.cat(value).numpy(), _flatten(found))

  def eigenvalue(self, factors, batches, num):
    found = self._lambda(factors, batches, num)

    def result():
      count = _first(found['num_lambda_processed'])
      value = [x.flatten().sort()[0] for x in found['lambda_matrix'].values()]
      return torch.cat(value).numpy()[::7] / count, _flatten(found)

    return result

  def pairwise(self, factors, batches, num, **score_args):
    loader = self._loader('query', None, self.query_batch)
    score_args = arguments.ScoreArguments(
      damping_factor=None,
      query_gradient_accumulation_steps=len(loader),
      **score_args,
    )
    scores = pairwise.compute_pairwise_scores_with_loaders(
      loaded_factors=factors, task=self.task, query_loader=loader,
      per_device_query_batch_size=self.query_batch,
      train_loader=self._loader('train', num, batches.score),
      score_args=score_args, factor_args=self.factor_args,
      tracked_module_names=None, **self.common,
    )  # fmt: skip
    return lambda: (scores['all_modules'].numpy(), {})

  def pairwise_rank32(self, factors, batches, num):
    return self.pairwise(
      factors, batches, num, query_gradient_low_rank=cases.RANK
    )

  def tokens_rank32(self, factors, batches, num):
    return self.pairwise(
      factors, batches, num,
      query_gradient_low_rank=cases.RANK, compute_per_token_scores=True,
    )  # fmt: skip

  def self_influence(self, factors, batches, num):
    scores = self_score.compute_self_scores_with_loaders(
      loaded_factors=factors, task=self.task,
      train_loader=self._loader('train', num, batches.score),
      score_args=arguments.ScoreArguments(damping_factor=None),
      factor_args=self.factor_args, tracked_module_names=None, **self.common,
    )  # fmt: skip
    return lambda: (scores['all_modules'].numpy(), {})

  def end_to_end(self, factors, batches, num):
    factors = self._eigendecomposition(self._covariance(batches, num))
    factors |= self._lambda(factors, batches, num)
    return self.pairwise(factors, batches, num)

  def _covariance(self, batches, num):
    return covariance.fit_covariance_matrices_with_loader(
      task=self.task,
      loader=self._loader('train', num, batches.covariance),
      factor_args=self.factor_args,
      **self.common,
    )[1]

  def _eigendecomposition(self, factors):
    return eigen.perform_eigendecomposition(
      covariance_factors=factors, factor_args=self.factor_args, **self.common
    )

  def _lambda(self, factors, batches, num):
    return eigen.fit_lambda_matrices_with_loader(
      task=self.task,
      loader=self._loader('train', num, batches.eigenvalue),
      factor_args=self.factor_args,
      eigen_factors=factors,
      **self.common,
    )[1]

  def _loader(self, kind, num, batch):
    num = num or len(self.data[kind][0])
    return rival_model.Loader(self.data[kind], measure.slices(num, batch))


setattr(_Runs, 'lambda', _Runs.eigenvalue)  # a keyword cannot be a method


def _first(counts: dict) -> float:
  return next(iter(counts.values())).item()


def _flatten(factors: dict) -> dict[str, np.ndarray]:
  """{'factor/module': array} of {factor: {module: tensor}}."""
  return {
    f'{factor}/{module}': tensor.numpy()
    for factor, modules in factors.items()
    for module, tensor in modules.items()
  }


def _unflatten(arrays: dict[str, np.ndarray]) -> dict:
  factors = {}
  for name, array in arrays.items():
    factor, module = name.split('/')
    factors.setdefault(factor, {})[module] = torch.from_numpy(array)
  return factors


if __name__ == '__main__':
  measure.main('rival', prepare)
