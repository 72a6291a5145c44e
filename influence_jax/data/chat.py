"""A chat as the prompt of a query: messages become the text before the answer.

  human_assistant(messages)     as the queries of Grosse et al. 2023 are written
  template(folder)(messages)    as the model in `folder` was taught
  compiled(...)(messages)       by a template that is not in a folder

Messages are those of the chat interfaces: a list of {'role', 'content'}, the
last not the assistant's: what it answers is the query's completion.

A template is a program that came with a checkpoint: it runs in jinja2's sandbox
and sees no more than the messages. It is not told the date (`strftime_now`), so
that a query is the same tomorrow. The sandbox does not bound time or memory.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.sandbox

from influence_jax.data import pretrained_tokenizer

Messages = list[dict[str, str]]
Template = Callable[[Messages], str]
_NAMES = {'user': 'Human', 'assistant': 'Assistant'}
_FILE = 'chat_template.jinja'


def human_assistant(messages: Messages) -> str:
  """'Human: ...', a blank line, 'Assistant:'; 'system' stands as it is.

  A completion that follows begins with a space.
  """
  check(messages)
  turns = []
  for message in messages:
    role, content = message['role'], message['content']
    if role != 'system' and role not in _NAMES:
      raise ValueError(
        f'a message has the role {role!r}, expected system, user or assistant'
      )
    turns.append(content if role == 'system' else f'{_NAMES[role]}: {content}')
  return '\n\n'.join([*turns, 'Assistant:'])


def template(folder: str | os.PathLike[str]) -> Template:
  """The chat template in a checkpoint's folder, as `compiled`.

  Reads chat_template.jinja or tokenizer_config.json; ValueError if there is
  none, or one that is not UTF-8.
  """
  folder = pathlib.Path(folder)
  special = pretrained_tokenizer.special_tokens(folder)
  return compiled(_source(folder), special, folder)


def template_if_any(folder: str | os.PathLike[str]) -> Template:
  """As `template`, but `human_assistant` if there is none."""
  folder = pathlib.Path(folder)
  fields = pretrained_tokenizer.read_json(folder / 'tokenizer_config.json')
  if (folder / _FILE).is_file() or fields.get('chat_template'):
    return template(folder)
  return human_assistant


def compiled(
  source: str, special: dict[str, str], path: str | os.PathLike[str]
) -> Template:
  """A chat template, asked for the assistant's turn.

  A prompt that begins with a special token gets no other from `queries`.

  Args:
    source: in jinja's language.
    special: the texts 'bos_token' and 'eos_token', those that there are.
    path: where the template is from, for messages.

  Returns:
    A function that raises ValueError where the template does not take the
    messages, fails, or tries what the sandbox forbids.

  Raises:
    ValueError: its syntax is broken.
  """
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=['jinja2.ext.loopcontrols'],
  )
  environment.globals['raise_exception'] = _refuse
  try:
    program = environment.from_string(source)
  except jinja2.TemplateError as error:
    raise ValueError(
      f'the chat template in {path} is broken: {error}; mend it or write the '
      'prompts out'
    ) from error

  def prompt(messages: Messages) -> str:
    check(messages)
    try:
      return program.render(
        messages=messages,
        add_generation_prompt=True,
        tools=None,  # templates ask whether they are none, not if defined
        documents=None,
        **special,
      )
    except jinja2.exceptions.SecurityError as error:
      raise ValueError(
        f'the chat template in {path} is unsafe: {error}; it is not run'
      ) from error
    except Exception as error:  # it is a program
      raise ValueError(
        f'the chat template in {path} refuses these messages: {error}; '
        f'the roles are {[message["role"] for message in messages]}'
      ) from error

  return prompt


def check(messages: Any) -> None:
  """ValueError unless they are messages that an answer can follow."""
  if not isinstance(messages, list) or not messages:
    raise ValueError(f'messages are {messages!r:.60}, expected a list of some')
  for message in messages:
    if (
      not isinstance(message, dict)
      or set(message) != {'role', 'content'}
      or not all(isinstance(value, str) for value in message.values())
    ):
      raise ValueError(
        f'a message is {message!r:.60}, expected an object of two strings, '
        'role and content'
      )
  if messages[-1]['role'] == 'assistant':
    raise ValueError(
      "the last message is the assistant's: write it as the completion"
    )


def _source(folder: pathlib.Path) -> str:
  path = folder / _FILE
  if path.is_file():
    try:
      return path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{path} is not UTF-8: {error}; fetch it again, or save it as UTF-8'
      ) from error
  path = folder / 'tokenizer_config.json'
  found = pretrained_tokenizer.read_json(path).get('chat_template')
  if isinstance(found, list):  # some have one more for tools
    found = {one['name']: one['template'] for one in found}.get('default')
  if not isinstance(found, str):
    raise ValueError(
      f'no chat template in {path}, nor {_FILE} beside it: use '
      'chat.human_assistant or write the prompts out'
    )
  return found


def _refuse(message: str) -> None:
  raise jinja2.TemplateError(message)
