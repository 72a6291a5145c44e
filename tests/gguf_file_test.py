import json
import pathlib
import struct
import tempfile
from unittest import mock

import gguf
import jax
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from influence_jax import gguf_file, gguf_tokenizer, pretrained
from influence_jax.models import decoder

D, F, H, J, d, L = 32, 64, 4, 2, 8, 2
END, TURN, OWN = '<|endoftext|>', '<|im_end|>', '<tool>'
MERGES = ['1 2', 'a b', 'Ġ ab', 'Ã ©']
ALPHABET = [chr(n + 256 * (n <= 32)) for n in range(256)]
# GPT-2's letters for bytes: what is not printable comes after 255, in order
ALPHABET[127:161] = [chr(289 + n) for n in range(34)]
ALPHABET[173] = chr(323)
TEXTS = [END, TURN, OWN, *ALPHABET, *(x.replace(' ', '') for x in MERGES)]
KINDS = [3, 3, 4] + [1] * (len(TEXTS) - 3)
V = len(TEXTS)
NAMES = {  # Hugging Face's, llama.cpp's
  'model.embed_tokens': 'token_embd',
  'input_layernorm': 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'post_attention_layernorm': 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'model.norm': 'output_norm',
  'lm_head': 'output',
  'model.layers': 'blk',
}
CONFIG = {
  'model_type': 'llama',
  'vocab_size': V,
  'hidden_size': D,
  'intermediate_size': F,
  'num_attention_heads': H,
  'num_key_value_heads': J,
  'num_hidden_layers': L,
  'max_position_embeddings': 48,
  'rms_norm_eps': 0.125,
  'rope_theta': 500.0,
  'head_dim': d,
}
FIELDS = {
  'llama.block_count': L,
  'llama.context_length': 48,
  'llama.embedding_length': D,
  'llama.feed_forward_length': F,
  'llama.attention.head_count': H,
  'llama.attention.head_count_kv': J,
  'llama.attention.layer_norm_rms_epsilon': 0.125,
  'llama.rope.freq_base': 500.0,
  'llama.rope.dimension_count': d,
  'llama.vocab_size': V,
  'general.name': 'tiny',
  'tokenizer.ggml.model': 'gpt2',
  'tokenizer.ggml.pre': 'smollm',
  'tokenizer.ggml.tokens': TEXTS,
  'tokenizer.ggml.token_type': KINDS,
  'tokenizer.ggml.merges': MERGES,
  'tokenizer.ggml.bos_token_id': 1,
  'tokenizer.ggml.eos_token_id': 1,
  'tokenizer.ggml.add_bos_token': False,
}


def random_weights(tied):
  """By Hugging Face's names, [O, I]."""
  rng = np.random.default_rng(0)
  block = {
    'input_layernorm': (D,),
    'self_attn.q_proj': (H * d, D),
    'self_attn.k_proj': (J * d, D),
    'self_attn.v_proj': (J * d, D),
    'self_attn.o_proj': (D, H * d),
    'post_attention_layernorm': (D,),
    'mlp.gate_proj': (F, D),
    'mlp.up_proj': (F, D),
    'mlp.down_proj': (D, F),
  }
  shapes = {'model.embed_tokens': (V, D), 'model.norm': (D,)}
  shapes |= {} if tied else {'lm_head': (V, D)}
  for i in range(L):
    shapes |= {f'model.layers.{i}.{k}': shape for k, shape in block.items()}
  return {
    f'{name}.weight': rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def interleaved(x):
  """Rows as llama.cpp's convert_hf_to_gguf.py puts them, one by one."""
  y = np.empty_like(x)
  for head in range(len(x) // d):
    for pair in range(d // 2):
      y[head * d + 2 * pair] = x[head * d + pair]
      y[head * d + 2 * pair + 1] = x[head * d + d // 2 + pair]
  return y


def decoded(data, kind):
  """Blocks of 32 numbers, by their definition in ggml."""
  size = {'Q8_0': 34, 'Q4_1': 20}[kind]
  rows = []
  for row in data:
    numbers = []
    for start in range(0, len(row), size):
      block = row[start : start + size].tobytes()
      scale = float(np.frombuffer(block[:2], np.float16)[0])
      if kind == 'Q8_0':
        numbers += [scale * n for n in np.frombuffer(block[2:], np.int8)]
      else:
        least = float(np.frombuffer(block[2:4], np.float16)[0])
        low = [scale * (n % 16) + least for n in block[4:]]
        numbers += low + [scale * (n // 16) + least for n in block[4:]]
    rows.append(numbers)
  return np.array(rows, np.float32)


def write(
  path, weights, kind='F32', fields=FIELDS, architecture='llama', **ways
):
  """A GGUF; returns the weights as they are in it, by their own names."""
  writer = gguf.GGUFWriter(path, architecture, **ways)
  for key, value in fields.items():
    add = {
      bool: writer.add_bool,
      int: writer.add_uint32,
      float: writer.add_float32,
      str: writer.add_string,
      list: writer.add_array,
    }
    add[type(value)](key, value)
  kept = {}
  for name, x in weights.items():
    data = x
    if x.ndim == 2 and kind != 'F32':
      data = gguf.quantize(x, gguf.GGMLQuantizationType[kind])
    kept[name] = x if data is x else decoded(data, kind)
    data = interleaved(data) if 'q_proj' in name or 'k_proj' in name else data
    raw = None if data.dtype != np.uint8 else gguf.GGMLQuantizationType[kind]
    for theirs, llama_cpp in NAMES.items():
      name = name.replace(theirs, llama_cpp)
    writer.add_tensor(name, data, raw_dtype=raw)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return kept


class GgufTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / 'tiny.gguf'

  def write(self, **changes):
    """The tiny model; a change of None takes the key away."""
    fields = {k.replace('__', '.'): x for k, x in changes.items()}
    fields = {**FIELDS, **fields}
    fields = {k: x for k, x in fields.items() if x is not None}
    write(self.path, random_weights(tied=True), fields=fields)

  def assert_refused(self, *messages):
    """Raises all messages at once, before a tensor is read."""
    with (
      mock.patch.object(gguf_file, '_read', side_effect=AssertionError),
      self.assertRaises(ValueError) as caught,
    ):
      pretrained.load(self.path)
    for message in messages:
      self.assertRegex(str(caught.exception), message)


class LoadTest(GgufTest):
  @parameterized.product(
    kind=['F32', 'Q8_0', 'Q4_1'], tied=[False, True], scan=[False, True]
  )
  def test_a_gguf_is_the_checkpoint_that_it_was_made_of(self, kind, tied, scan):
    weights = write(self.path, random_weights(tied), kind)
    safetensors.numpy.save_file(weights, self.folder / 'model.safetensors')
    config_json = json.dumps({**CONFIG, 'tie_word_embeddings': tied})
    (self.folder / 'config.json').write_text(config_json)
    config, params = pretrained.load(self.path, scan=scan)
    expected, wanted = pretrained.load(self.folder, scan=scan)
    self.assertEqual(config, expected)
    self.assertEqual(jax.tree.structure(params), jax.tree.structure(wanted))
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7),
      *(params, wanted),
    )
    if scan and kind != 'F32':
      tokens_1x9 = np.arange(9)[None] * 7
      logits = [
        decoder.Decoder(config).apply({'params': x}, tokens_1x9)
        for x in (params, wanted)
      ]
      np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)

  def test_parameters_have_the_dtype_that_is_asked_for(self):
    self.write()
    _, params = pretrained.load(self.path, dtype='bfloat16')
    dtypes = {str(x.dtype) for x in jax.tree.leaves(params)}
    self.assertEqual(dtypes, {'bfloat16'})

  def test_what_a_file_may_leave_out_has_llama_cpps_default(self):
    self.write(
      llama__rope__freq_base=None,
      llama__rope__dimension_count=None,
      llama__vocab_size=None,
      **{'llama.expert_count': 0},
    )
    _, config_json, _ = gguf_file.headers(self.path)
    expected = {**CONFIG, 'rope_theta': 1e4, 'tie_word_embeddings': True}
    self.assertEqual(config_json, expected)
    weights = random_weights(tied=True)
    fields = dict(FIELDS)
    del fields['llama.attention.head_count_kv']
    write(self.path, weights, fields=fields)
    _, config_json, _ = gguf_file.headers(self.path)
    self.assertEqual(config_json['num_key_value_heads'], H)

  def test_a_file_is_parsed_once_and_anew_when_it_changes(self):
    self.write()
    with mock.patch.object(
      gguf_file, '_Reader', side_effect=gguf_file._Reader
    ) as reader:
      for _ in range(3):
        gguf_file.headers(self.path)
        self.assertEqual(gguf_file.metadata(self.path)['llama.block_count'], L)
        gguf_file.metadata(self.path).clear()
      reader.assert_called_once()
      self.write(llama__context_length=24, llama__name='longer')
      self.assertEqual(
        gguf_file.metadata(self.path)['llama.context_length'], 24
      )

  @parameterized.parameters(*gguf_file.QUANTIZED)
  def test_gguf_dequantises_each_kind(self, kind):
    kind = gguf.GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    x = gguf.dequantize(np.zeros((3, 2 * size), np.uint8), kind)
    self.assertEqual(x.shape, (3, 2 * gguf.GGML_QUANT_SIZES[kind][0]))


class RefusalTest(GgufTest):
  def test_all_that_is_wrong_with_tensors_is_said_at_once(self):
    weights = random_weights(tied=False)
    del weights['model.layers.1.mlp.up_proj.weight']
    weights['model.norm.weight'] = np.zeros(D, np.int8)
    weights['model.layers.0.self_attn.v_proj.weight'] = np.zeros((9, D), 'f')
    weights['rope_freqs.weight'] = np.ones(4, np.float32)
    write(self.path, weights)
    self.assert_refused(
      r'tiny.gguf does not hold the gguf/llama',
      r'blk.1.ffn_up.weight \(64, 32\) is missing',
      r'output_norm.weight is I8, not one of',
      r'blk.0.attn_v.weight is \(9, 32\), not \(16, 32\)',
      r'rope_freqs.weight \(4,\) is unknown',
    )

  @parameterized.parameters(
    ({'block_count': None}, 'block_count is None, expected a positive int'),
    ({'block_count': 1 << 31}, 'block_count is 2147483648, yet .* 20 tensors'),
    ({'attention.head_count': [4, 4]}, r'head_count is \[4, 4\], expected a p'),
    ({'rope.freq_base': float('nan')}, 'freq_base is nan, expected a positive'),
    ({'context_length': 48.0}, 'context_length is 48.0, expected .* int'),
    ({'rope.dimension_count': 4}, 'dimension_count is 4; only 8'),
    ({'attention.value_length': 16}, 'value_length is 16; only 8'),
    ({'rope.scaling.type': 'linear'}, "'rope.scaling.type': 'linear'}, which"),
    ({'expert_count': 8}, "'expert_count': 8}, which nothing here implements"),
    ({'vocab_size': V + 1}, rf'vocab_size is {V + 1} and there are {V} tokens'),
  )
  def test_metadata_that_is_not_implemented_is_named(self, changes, message):
    self.write(**{f'llama.{key}': x for key, x in changes.items()})
    self.assert_refused(f'tiny.gguf: .*{message}')

  def test_another_architecture_lists_those_known(self):
    write(self.path, {}, architecture='rwkv7')
    self.assert_refused(r"is 'rwkv7'; there are \['llama'\]")

  def test_a_file_cut_short_is_refused_wherever_it_is_cut(self):
    self.write()
    whole = self.path.read_bytes()
    start = gguf.GGUFReader(self.path).data_offset
    rng = np.random.default_rng(0)
    cuts = [0, 3, 4, 30, start - 64, start, len(whole) - 64, len(whole) - 1]
    for length in [*cuts, *rng.integers(start, size=20)]:
      self.path.write_bytes(whole[:length])
      self.assert_refused('tiny.gguf is no GGUF file, or is damaged or cut sho')

  def test_a_byte_of_the_header_changed_is_a_value_error_or_nothing(self):
    self.write()
    whole = self.path.read_bytes()
    start = gguf.GGUFReader(self.path).data_offset
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
      data = bytearray(whole)
      data[rng.integers(start)] ^= 1 << int(rng.integers(8))
      self.path.write_bytes(data)
      try:
        gguf_file.headers(self.path)
        gguf_tokenizer.tokenizer(self.path)
        gguf_tokenizer.template(self.path)
      except ValueError as error:
        refused += 1
        self.assertIn('tiny.gguf', str(error))
    self.assertBetween(refused, 20, 199)

  def test_an_array_longer_than_the_file_is_not_gone_through(self):
    key = b'tokenizer.ggml.token_type'
    counts = struct.pack('<4sIQQ', b'GGUF', 3, 0, 1)
    name = struct.pack('<Q', len(key)) + key
    array = struct.pack('<IIQ', 9, 0, 10**5)  # so many bytes, yet there are 2
    self.path.write_bytes(counts + name + array + b'\x01\x01')
    self.assert_refused('cut short: .* bytes are expected')

  def test_what_is_no_gguf_or_not_there_is_refused(self):
    self.assert_refused('there is no file .*tiny.gguf')
    self.path.write_bytes(b'\x80\x04.' * 100)
    self.assert_refused('magic')
    write(self.path, random_weights(tied=True), endianess=gguf.GGUFEndian.BIG)
    self.assert_refused('tiny.gguf .* of a machine of the other byte order')


if __name__ == '__main__':
  absltest.main()
