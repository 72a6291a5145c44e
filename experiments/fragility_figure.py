"""Figure of experiments.fragility: correlation against depth."""

from matplotlib import figure

from influence_jax.report import style

_MARKERS = {'cold': 'o', 'warm': 'D', 'PBRF': '^'}


@style.SETTINGS
def by_depth(result: dict) -> figure.Figure:
  """A column of panels a weight decay, a row the scores; a line a target.

  Spearman, the mean over queries: the line is of the best width, the small
  marks are of all.
  """
  cells = result['cells']
  decays = list(dict.fromkeys(cell['decay'] for cell in cells))
  labels = list(cells[0]['agreement'])
  fig = figure.Figure((1.6 + 1.6 * len(decays), 0.7 + 1.9 * len(labels)))
  panels = fig.subplots(
    len(labels), len(decays), sharex=True, sharey=True, squeeze=False
  )
  for label, row in zip(labels, panels, strict=True):
    for decay, panel in zip(decays, row, strict=True):
      _panel(panel, [x for x in cells if x['decay'] == decay], label)
    row[0].set(ylabel=f'{label}: Spearman')
  for decay, panel in zip(decays, panels[0], strict=True):
    panel.set_title(f'weight decay {decay:g}', fontsize=9)
  depths = sorted({cell['depth'] for cell in cells})
  for panel in panels[-1]:
    panel.set(xlabel='hidden layers', xticks=depths)
  handles, names = panels[0, 0].get_legend_handles_labels()
  fig.legend(handles, names, loc='outside right upper', title='target')
  return fig


def _panel(panel, cells: list[dict], label: str) -> None:
  for i, (target, marker) in enumerate(_MARKERS.items()):
    heights = {}
    for cell in cells:
      found = cell['agreement'][label][target]['spearman'][0]
      heights.setdefault(cell['depth'], []).append(found)
    look = style.line(i)
    for depth, all_widths in heights.items():
      panel.plot(
        [depth] * len(all_widths), all_widths, marker, ms=2.5, mfc='none',
        color=look['color'],
      )  # fmt: skip
    depths = sorted(heights)
    panel.plot(
      depths, [max(heights[depth]) for depth in depths], marker=marker, ms=4,
      label=target, **look,
    )  # fmt: skip
