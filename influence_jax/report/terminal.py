"""The one look of the tables that experiments print."""

from rich import box
from rich import table as rich_table


def table(
  title: str | None, *names: str, num_labels: int = 1, wrap: bool = False
) -> rich_table.Table:
  """A table without rows, to be printed by rich.

  Args:
    title: above its left edge.
    names: of the columns, of labels and then of numbers.
    num_labels: columns of labels or text: to the left, over several lines where
      they are too long. Numbers are to the right.
    wrap: whether numbers and their heads may be over several lines, too, broken
      at spaces: where there are more columns than fit, else they are cut.
  """
  found = rich_table.Table(
    title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False
  )
  for name in names[:num_labels]:
    found.add_column(name, overflow='fold')
  for name in names[num_labels:]:
    found.add_column(name, justify='right', no_wrap=not wrap)
  return found
