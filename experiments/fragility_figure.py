"""Figure of experiments.fragility: correlation against depth."""

from matplotlib import figure

from influence_jax.report import style

_TARGETS = 'cold', 'warm', 'PBRF'


@style.SETTINGS
def by_depth(result: dict) -> figure.Figure:
  """A column of panels a weight decay, a row the scores; a line a target.

  Spearman, the mean over queries: the line is of the best width, with its 95 %
  interval; the hollow marks are of all.
  """
  cells = result['cells']
  decays = list(dict.fromkeys(cell['decay'] for cell in cells))
  labels = list(cells[0]['agreement'])
  fig, panels = style.panels(
    style.TWO_COLUMNS, 0.5 + 1.3 * len(labels), len(labels), len(decays),
    sharex=True, sharey=True,
  )  # fmt: skip
  for label, row in zip(labels, panels, strict=True):
    for decay, panel in zip(decays, row, strict=True):
      _panel(panel, [x for x in cells if x['decay'] == decay], label)
    row[0].set(ylabel=f'{label}: Spearman')
  for decay, panel in zip(decays, panels[0], strict=True):
    panel.set_title(f'weight decay {decay:g}')
  depths = sorted({cell['depth'] for cell in cells})
  for panel in panels[-1]:
    panel.set(xlabel='hidden layers', xticks=depths)
  handles, names = panels[0, 0].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside upper right', ncols=len(names))
  return fig


def _panel(panel, cells: list[dict], label: str) -> None:
  for i, target in enumerate(_TARGETS):
    by_depth = {}
    for cell in cells:
      found = cell['agreement'][label][target]['spearman']
      by_depth.setdefault(cell['depth'], []).append(found)
    depths, look = sorted(by_depth), style.marked(i)
    for depth in depths:
      heights = [found[0] for found in by_depth[depth]]
      hollow = {**look, 'ls': '', 'ms': 2.5, 'mfc': 'none', 'mew': 0.6}
      panel.plot([depth] * len(heights), heights, **hollow)
    best = [max(by_depth[depth]) for depth in depths]
    panel.plot(depths, [found[0] for found in best], label=target, **look)
    ends = [found[1:] or found * 2 for found in best]
    style.band(panel, depths, *zip(*ends, strict=True), look['color'])
