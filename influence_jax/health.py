"""Is a factor fit to be inverted? Numbers a layer that show when it is not."""

import numpy as np

from influence_jax import attribution, types
from influence_jax.curvature import kfac


def health(
  curvature: types.Curvature,
  layers: dict[str, types.Layer],
  factors: dict[str, types.Factors],
  damping: dict,
) -> list[dict]:
  """One record a layer, a slice of a stack being a layer of its own:

  layer            its name
  mean, max        of G's eigenvalues
  damping          as used
  condition        (max + damping) / (min + damping)
  effective_rank   (sum of eigenvalues)^2 / sum of their squares, of I O
  clipped          eigenvalues of A and S that rounding made negative
  kfac_gap         ||Lambda - K-FAC's eigenvalues|| / ||Lambda||, for EK-FAC
  """
  records = []
  slices = attribution.by_layer(factors, layers)
  dampings = attribution.by_layer(damping, layers)
  shapes = {
    name: (layers[path].num_in, layers[path].num_out)
    for name, path, _ in attribution.slices(layers)
  }
  for name, one in slices.items():
    eigenvalues = np.asarray(curvature.eigenvalues(one), np.float64)
    eigenvalues = np.broadcast_to(eigenvalues, shapes[name])
    d = float(dampings[name])
    record = {
      'layer': name,
      'mean': float(eigenvalues.mean()),
      'max': float(eigenvalues.max()),
      'damping': d,
      'condition': _ratio(eigenvalues.max() + d, eigenvalues.min() + d),
      'effective_rank': _ratio(eigenvalues.sum() ** 2, (eigenvalues**2).sum()),
    }
    if 'L_A' in one:
      negative = [np.asarray(one[key]) < 0 for key in ('L_A', 'L_S')]
      record['clipped'] = int(sum(x.sum() for x in negative))
    if 'L_A' in one and 'Lambda' in one:
      gap = np.linalg.norm(eigenvalues - np.asarray(kfac.eigenvalues(one)))
      record['kfac_gap'] = _ratio(gap, np.linalg.norm(eigenvalues))
    records.append(record)
  return records


def _ratio(a: float, b: float) -> float:
  return float(a / b) if b else float('inf')
