"""What makes XLA fast on a CPU: call `tune` before JAX touches a device."""

import ctypes
import os

_FLAG = 'xla_cpu_experimental_ynn_fusion_type'
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def tune() -> None:
  """Sets XLA's matrix products and the C library's memory; does nothing else.

  * XLA's newer kernels for matrix products (YNNPACK) are left for Eigen's,
    unless XLA_FLAGS says otherwise: those were faster for a transformer's
    forward and backward pass. No effect on other devices.
  * Freed memory stays with the process: a step would otherwise map and clear
    its temporary buffers anew.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if _FLAG not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --{_FLAG}='.lstrip()
  libc = ctypes.CDLL(None)
  if hasattr(libc, 'mallopt'):  # glibc
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
