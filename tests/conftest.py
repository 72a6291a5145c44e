"""Eight host devices, strict numerics and a compilation cache for all tests."""

import os
import tempfile

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax  # noqa: E402, the flags above must be set before this import
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()  # pytest runs no app.run

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update(
  'jax_compilation_cache_dir',
  os.path.join(tempfile.gettempdir(), 'influence_jax_test_cache'),
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
