import json
import pathlib
import shutil
import tempfile
import tracemalloc
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized
from flax import traverse_util

from influence_jax import pretrained, safetensors_folder, sharding
from influence_jax.models import transformer

_FOLDER = pathlib.Path(__file__).parent / 'families'


def _tensors(folder):
  """All tensors of a folder's files."""
  found = {}
  for path in sorted(folder.glob('*.safetensors')):
    found |= safetensors.numpy.load_file(path)
  return found


class PretrainedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def copy(self, name):
    shutil.copytree(_FOLDER / name, self.folder, dirs_exist_ok=True)
    return _tensors(self.folder)

  def write(self, name, tensors):
    """The fixture's config.json with other tensors, in one file."""
    shutil.copy(_FOLDER / name / 'config.json', self.folder)
    path = self.folder / 'model.safetensors'
    safetensors.numpy.save_file(
      {name: np.ascontiguousarray(x) for name, x in tensors.items()}, path
    )

  def assert_refused(self, *messages):
    """Raises all messages at once, before a tensor is read."""
    with (
      mock.patch.object(
        safetensors_folder, '_read', side_effect=AssertionError
      ),
      self.assertRaises(ValueError) as caught,
    ):
      pretrained.load(self.folder)
    for message in messages:
      self.assertRegex(str(caught.exception), message)

  def assert_same(self, got, wanted):
    self.assertEqual(jax.tree.structure(got), jax.tree.structure(wanted))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


class LoadTest(PretrainedTest):
  def test_shards_are_one_checkpoint(self):
    self.write('llama', _tensors(_FOLDER / 'llama'))
    self.assertLen([*_FOLDER.glob('llama/*.safetensors')], 4)
    _, one = pretrained.load(self.folder)
    _, many = pretrained.load(_FOLDER / 'llama')
    self.assert_same(many, one)

  @parameterized.parameters('qwen2_sliding', 'gpt_neox', 'gpt2')
  def test_a_stack_is_the_layers_one_on_another(self, name):
    config, stacked = pretrained.load(_FOLDER / name, scan=True)
    self.assertTrue(config.scan)
    _, layers = pretrained.load(_FOLDER / name)
    self.assert_same(stacked, transformer.stack_params(layers))

  def test_parameters_have_the_dtype_that_is_asked_for(self):
    tensors = _tensors(_FOLDER / 'qwen3')
    narrow = {k: x.astype(ml_dtypes.bfloat16) for k, x in tensors.items()}
    self.write('qwen3', narrow)
    config, params = pretrained.load(self.folder, dtype='bfloat16', scan=True)
    self.assertEqual(config.dtype, 'bfloat16')
    leaves = jax.tree.leaves(params)
    self.assertEqual({x.dtype for x in leaves}, {jnp.dtype('bfloat16')})
    _, wide = pretrained.load(self.folder, dtype='float32', scan=True)
    leaves = jax.tree.leaves(wide)
    self.assertEqual({x.dtype for x in leaves}, {jnp.dtype('float32')})
    self.assert_same(params, wide)  # bfloat16 is exact in both

  @parameterized.parameters(False, True)
  def test_every_array_is_put_where_put_puts_it(self, scan):
    mesh = sharding.make_mesh(data=1, model=2)
    spec, seen = jax.sharding.PartitionSpec(None, 'model'), []

    def put(path, x):
      seen.append(path)
      if x.ndim < 2 or x.shape[1] % 2:
        return sharding.replicate(mesh, x)
      return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    _, params = pretrained.load(_FOLDER / 'qwen3', scan=scan, put=put)
    _, wanted = pretrained.load(_FOLDER / 'qwen3', scan=scan)
    self.assert_same(params, wanted)
    self.assertCountEqual(seen, traverse_util.flatten_dict(params, sep='/'))
    for path, x in traverse_util.flatten_dict(params, sep='/').items():
      same = x.sharding.is_equivalent_to(
        put(path, np.asarray(x)).sharding, x.ndim
      )
      self.assertTrue(same, path)

  @parameterized.parameters(False, True)
  def test_the_host_holds_one_tensor_at_a_time(self, scan):
    rng = np.random.default_rng(0)
    config_json = json.loads((_FOLDER / 'qwen3' / 'config.json').read_text())
    # Tensors of more than what Python itself needs
    sizes = {8: 64, 16: 128, 24: 2048, 32: 256}
    config_json |= {
      key: sizes[config_json[key]]
      for key in ('head_dim', 'hidden_size', 'intermediate_size')
    }
    tensors = {}
    for name, x in _tensors(_FOLDER / 'qwen3').items():
      shape = [sizes.get(n, n) for n in x.shape]
      tensors[name] = rng.normal(size=shape).astype(np.float32)
    self.write('qwen3', tensors)
    (self.folder / 'config.json').write_text(json.dumps(config_json))
    largest = max(x.nbytes for x in tensors.values())
    self.assertGreater(sum(x.nbytes for x in tensors.values()), 6 * largest)

    def put(path, x):
      del path
      return jnp.array(x, copy=True)

    pretrained.load(self.folder, scan=scan, put=put)  # compiles
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    pretrained.load(self.folder, scan=scan, put=put)
    _, peak = tracemalloc.get_traced_memory()
    self.assertLess(peak, 2.5 * largest)  # a stack, of two, more would not do

  def test_the_largest_tensors_are_read_first(self):
    sizes = []

    def put(path, x):
      del path
      sizes.append(x.size)
      return jax.device_put(x)

    pretrained.load(_FOLDER / 'olmoe', put=put)
    self.assertGreater(len(set(sizes)), 3)
    self.assertEqual(sizes, sorted(sizes, reverse=True))

  def test_gpt2_of_the_hub_has_no_prefix_and_old_buffers(self):
    tensors = _tensors(_FOLDER / 'gpt2')
    bare = {k.removeprefix('transformer.'): x for k, x in tensors.items()}
    for i in range(2):
      bare[f'h.{i}.attn.bias'] = np.ones((1, 1, 32, 32), np.float32)
      bare[f'h.{i}.attn.masked_bias'] = np.float32(-1e4)
    self.write('gpt2', bare)
    self.assertIn('wte.weight', bare)
    _, got = pretrained.load(self.folder)
    self.assert_same(got, pretrained.load(_FOLDER / 'gpt2')[1])

  def test_a_copy_of_the_embedding_may_stand_for_a_tied_head(self):
    tensors = _tensors(_FOLDER / 'qwen2')
    head = tensors['model.embed_tokens.weight'].copy()
    self.write('qwen2', {**tensors, 'lm_head.weight': head})
    _, got = pretrained.load(self.folder)
    self.assert_same(got, pretrained.load(_FOLDER / 'qwen2')[1])
    head[60, 15] += 1
    self.write('qwen2', {**tensors, 'lm_head.weight': head})
    with self.assertRaisesRegex(ValueError, 'lm_head.weight is not model.emb'):
      pretrained.load(self.folder)


class RefusalTest(PretrainedTest):
  def test_all_that_is_wrong_with_tensors_is_said_at_once(self):
    tensors = self.copy('llama')
    (self.folder / 'model.safetensors.index.json').unlink()
    gone = 'model.layers.1.mlp.up_proj.weight'
    wide = 'model.layers.0.self_attn.k_proj.weight'
    del tensors[gone]
    tensors[wide] = np.zeros((16, 17), np.float32)
    tensors['model.norm.weight'] = np.zeros(16, np.int8)
    tensors['model.layers.2.mlp.up_proj.weight'] = np.zeros((24, 16))
    tensors['model.layers.0.self_attn.q_proj.bias'] = np.zeros(32)
    self.write('llama', tensors)
    self.assert_refused(
      rf'{gone} \(24, 16\) is missing',
      rf'{wide} is \(16, 17\), not \(16, 16\)',
      r'model.norm.weight is I8, not one of',
      r'model.layers.2.mlp.up_proj.weight \(24, 16\) is unknown',
      r'model.layers.0.self_attn.q_proj.bias \(32,\) is unknown',
    )

  def test_a_long_list_is_cut(self):
    self.write('llama', {'model.norm.weight': np.zeros(16)})
    self.assert_refused(r'is missing.*, and 11 more$')

  def test_a_fused_tensor_has_its_own_shape(self):
    for name, tensor in {
      'gpt2': 'transformer.h.0.attn.c_attn.weight',
      'gpt_neox': 'gpt_neox.layers.0.attention.query_key_value.weight',
    }.items():
      tensors = _tensors(_FOLDER / name)
      shape = tensors[tensor].shape
      tensors[tensor] = tensors[tensor].T
      self.write(name, tensors)
      found, wanted = (str(s)[1:-1] for s in (shape[::-1], shape))
      self.assert_refused(rf'{tensor} is \({found}\), not \({wanted}\)')

  @parameterized.parameters(1, 9000, 9798)
  def test_a_truncated_shard_is_named(self, cut):
    self.copy('llama')
    path = self.folder / 'model-00003-of-00004.safetensors'
    path.write_bytes(path.read_bytes()[:-cut])
    self.assert_refused('00003-of-00004.* is damaged or cut short, .*again')

  @parameterized.parameters(
    ('../x.safetensors', 'names .*x.safetensors.*expected files of its folder'),
    ('/etc/passwd', 'expected files of its folder'),
    ('..', 'expected files of its folder'),
    ('deeper/x.safetensors', 'expected files of its folder'),
    ('x.safetensors', r"lacks \['x.safetensors'\] of the 5 files"),
  )
  def test_an_index_names_only_files_that_are_in_its_folder(self, name, text):
    self.copy('llama')
    path = self.folder / 'model.safetensors.index.json'
    index = json.loads(path.read_text())
    index['weight_map']['lm_head.weight'] = name
    index['weight_map']['other'] = 'model-00004-of-00004.safetensors'
    path.write_text(json.dumps(index))
    self.assert_refused(text)

  def test_a_tensor_in_two_shards_is_refused(self):
    self.copy('llama')
    path = self.folder / 'model-00004-of-00004.safetensors'
    more = safetensors.numpy.load_file(path)
    more['model.norm.weight'] = np.zeros(16, np.float32)
    safetensors.numpy.save_file(more, path)
    self.assert_refused('model.norm.weight is in .*00004.* and in .*00003')

  @parameterized.parameters('pytorch_model.bin', 'model.pt', 'flax_model.pkl')
  def test_pickles_are_refused(self, name):
    shutil.copy(_FOLDER / 'llama' / 'config.json', self.folder)
    (self.folder / name).write_bytes(b'\x80\x04.')
    self.assert_refused(f'no model.safetensors .*{name}.* pickles.* run code')

  def test_what_is_not_there_or_no_json_is_named(self):
    self.assert_refused('there is no .*config.json.*, of which none are there')
    (self.folder / 'm.gguf').touch()
    self.assert_refused(r"there is no .*config.json.*\['m.gguf'\] are there")
    (self.folder / 'config.json').write_text('{"model_type": ')
    self.assert_refused('config.json is damaged')
    (self.folder / 'config.json').write_text('[]')
    self.assert_refused('config.json is a list')
    shutil.copy(_FOLDER / 'llama' / 'config.json', self.folder)
    self.assert_refused('has no model.safetensors and no .*; download or save')
    index = self.folder / 'model.safetensors.index.json'
    index.write_text('{"metadata": {}}')
    self.assert_refused('has no weight_map')

  def test_an_unknown_family_lists_those_known(self):
    (self.folder / 'config.json').write_text('{"model_type": "rwkv"}')
    self.assert_refused(r"'rwkv'; there are \['llama', 'mistral'")


if __name__ == '__main__':
  absltest.main()
