"""What MkDocs does not do by itself: files beside docs/, and the notebook.

A page links to files where they lie in the repository, ../results/x.png, so
that it can be read there, too. On the site what is linked to lies in
`repository/`, pages among it are rendered, and links are rewritten on the way.
A link to what is not there stays as it is, and `mkdocs build --strict` fails.
"""

import html
import json
import pathlib
import posixpath
import re

from mkdocs.structure import files as files_lib

ROOT = pathlib.Path(__file__).parents[1]
_NOTEBOOK = 'docs/tour.ipynb'
_LINK = re.compile(r'(?P<before>\]\(|\b(?:src|href)=")(?P<target>[^)"\s#:]+)')


def on_files(files, config):
  """Adds the notebook as a page, and all that pages link to."""
  made = {site_path(_NOTEBOOK): {'content': notebook(ROOT / _NOTEBOOK)}}
  todo = ['README.md', _NOTEBOOK, *(f'docs/{x.src_uri}' for x in files)]
  seen = {*todo}
  while todo:
    path = todo.pop()
    if not path.startswith('docs/'):
      made[site_path(path)] = {'abs_src_path': str(ROOT / path)}
    if path.endswith(('.md', '.ipynb')):
      linked = set(_linked((ROOT / path).read_text(), path)) - seen
      seen |= linked
      todo += linked
  for path, source in made.items():
    files.append(files_lib.File.generated(config, path, **source))
  return files


def on_page_markdown(markdown, page, **unused):
  """The page with its links as the site has them."""
  uri = page.file.src_uri
  path = _repository_path(uri)

  def rewrite(match):
    found = _find(match['target'], path)
    if found is None:
      return match[0]
    there = posixpath.relpath(site_path(found), posixpath.dirname(uri) or '.')
    return match['before'] + there

  return _LINK.sub(rewrite, markdown)


def site_path(path: str) -> str:
  """Where a file of the repository is among the sources of the site."""
  if path == _NOTEBOOK:
    return 'tour.md'
  if path.startswith('docs/'):
    return path.removeprefix('docs/')
  return f'repository/{path}'


def notebook(path: pathlib.Path) -> str:
  """The notebook as Markdown, with the outputs that it was kept with."""
  parts = []
  for cell in json.loads(path.read_text())['cells']:
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      parts.append(source)
    else:
      parts.append(f'```python\n{source}\n```')
      parts += map(_output, cell['outputs'])
  return '\n\n'.join(parts)


def _output(output: dict) -> str:
  if output['output_type'] == 'stream':
    data = {'text/plain': output['text']}
  else:
    data = output['data']
  kind = next(x for x in ('text/html', 'image/png', 'text/plain') if x in data)
  content = ''.join(data[kind])
  if kind == 'image/png':
    width = output['metadata']['image/png']['width']
    source = f'data:image/png;base64,{content.strip()}'
    content = f'<img src="{source}" width="{width}" alt="">'
  elif kind == 'text/plain':
    content = f'<pre>{html.escape(content)}</pre>'
  content = re.sub(r'\n\s*\n', '\n', content)  # a blank line ends HTML
  return f'<div class="output">{content}</div>'


def _repository_path(uri: str) -> str:
  """The inverse of `site_path`."""
  if uri == 'tour.md':
    return _NOTEBOOK
  outside = uri.removeprefix('repository/')
  return f'docs/{uri}' if outside == uri else outside


def _linked(text: str, path: str) -> list[str]:
  """Files of the repository that the page at `path` links to."""
  found = (_find(match['target'], path) for match in _LINK.finditer(text))
  return [x for x in found if x is not None]


def _find(target: str, path: str) -> str | None:
  """The file that a link of the page at `path` leads to, if it is there."""
  found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
  if (ROOT / found).is_dir():
    found += '/README.md'
  return found if (ROOT / found).is_file() else None
