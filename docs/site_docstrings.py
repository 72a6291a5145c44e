"""Docstrings and comments of this code as Markdown, for the API's pages.

The code is written to be read as it stands: blocks are indented by two, the
first sentence may take two paragraphs, brackets are shapes and angles are inner
products, and fields of records have a comment in place of a docstring.
"""

import re

import griffe

_BLOCK = re.compile(r'(?<=\n\n)(?:  .*\n?)+')  # indented by two or more
_SHORT_FIRST = re.compile(r'\A(.*[^.:\s])\n\n(?=[a-z0-9(])')
_COMMENT = re.compile(r'  # (.+)')


class Docstrings(griffe.Extension):
  def on_object(self, *, obj, **unused):
    if obj.docstring is None and obj.is_attribute and obj.lineno:
      found = _COMMENT.search(obj.source.splitlines()[-1])
      if found:
        obj.docstring = griffe.Docstring(
          found[1], parent=obj, lineno=obj.lineno
        )
    if obj.docstring is not None:
      obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
  """What Markdown makes the text of."""
  text = _SHORT_FIRST.sub(r'\1 ', text).replace('::\n\n', ':\n\n')
  found, end = [], 0
  for block in _BLOCK.finditer(text):
    found.append(_prose(text[end : block.start()]))
    found.append(re.sub('^(?=.)', '  ', block[0], flags=re.MULTILINE))
    end = block.end()
  return ''.join([*found, _prose(text[end:])])


def _prose(text: str) -> str:
  """Without characters that Markdown would take for markup, but in `code`."""
  parts = text.split('`')
  parts[::2] = [
    re.sub(r'(?<=[\[, {(])\*(?=\w)', r'\\*', x.replace('<', '&lt;'))
    for x in parts[::2]
  ]
  return '`'.join(parts)
