"""Launch scripts, run here or on a fake cluster: what is each process told?"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import yaml
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
OURS = ('SLURM_', 'JAX_', 'CUDA_', 'DRY_RUN', 'LOGS', 'PIN', 'PORT', 'TPU')

# Writes what a process was told, then does as $MODE says.
RECORD = """
import json, os, signal, subprocess, sys, time
told = dict(a[2:].split('=', 1) for a in sys.argv[1:] if a[:2] == '--')
me = told.get('process_id') or os.environ.get('SLURM_PROCID', '0')
mode = os.environ.get('MODE', '')
if mode == 'deaf':  # as after jax.distributed.initialize
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(['sleep', '60']) if mode else None
path = os.path.join(os.environ['TOLD'], me)
record = {'argv': sys.argv[1:], 'env': dict(os.environ), 'pid': os.getpid()}
record['child'] = child and child.pid
json.dump(record, open(path + '.part', 'w'))
os.rename(path + '.part', path)
print('process', me, flush=True)
if mode:
  while len(os.listdir(os.environ['TOLD'])) < int(told['num_processes']):
    time.sleep(0.01)
  if mode != 'wait' and me == '1':
    sys.exit(3)
  time.sleep(60)
"""
FLAGS = ['--config=a b', '--workdir=$W']

SRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKES/srun.txt"
echo $$ > "$FAKES/part" && mv "$FAKES/part" "$FAKES/srun.pid"
[[ -z ${SLEEP:-} ]] || exec sleep "$SLEEP"
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$((i % SLURM_NTASKS_PER_NODE)) "$@" || exit
done
exit "${STATUS:-0}"
"""
SCONTROL = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKES/scontrol.txt"
kill "$(cat "$FAKES/srun.pid")"
"""
GCLOUD = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKES/gcloud.txt"
for word; do [[ $word != --command=* ]] || bash -c "${word#*=}" || exit; done
exit "${STATUS:-0}"
"""


def parsed(line: str) -> tuple[dict, list[str]]:
  """Variables and words of a line 'env A=1 B=2 word word' of a dry run."""
  words = shlex.split(line)
  assert words.pop(0) == 'env', line
  variables = {}
  while re.match(r'[A-Z_]+=', words[0]):
    name, value = words.pop(0).split('=', 1)
    variables[name] = value
  return variables, words


def alive(pid: int) -> bool:
  try:  # a zombie is dead; a container may have nobody who reaps it
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return stat.rsplit(')', 1)[1].split()[0] != 'Z'
  except FileNotFoundError:
    return False


class LaunchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder).resolve()
    self.fakes, self.told = self.folder / 'fakes', self.folder / 'told'
    self.fakes.mkdir()
    self.told.mkdir()
    script = self.folder / 'record.py'
    script.write_text(RECORD)
    self.cmd = [sys.executable, '-S', str(script), *FLAGS]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    self.environ = {
      **kept,
      'PATH': f'{self.fakes}:{kept["PATH"]}',
      'FAKES': str(self.fakes),
      'TOLD': str(self.told),
      'LOGS': str(self.folder / 'logs'),
    }

  def fake(self, name: str, text: str) -> None:
    path = self.fakes / name
    path.write_text(text)
    path.chmod(0o755)

  def start(self, script: str, *words, **environ) -> subprocess.Popen:
    return subprocess.Popen(
      ['bash', ROOT / 'launch' / script, *map(str, words)],
      env={**self.environ, **{k: str(v) for k, v in environ.items()}},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

  def run_script(self, script: str, *words, status: int = 0, **environ) -> str:
    process = self.start(script, *words, **environ)
    out, self.errors = process.communicate(timeout=30)
    self.assertEqual(process.returncode, status, out + self.errors)
    return out

  def records(self) -> list[dict]:
    """What each process was told, in the order of ids."""
    paths = sorted(self.told.glob('*[0-9]'), key=lambda path: int(path.name))
    self.assertEqual([int(p.name) for p in paths], [*range(len(paths))])
    return [json.loads(path.read_text()) for path in paths]

  def wait_for(self, happened) -> None:
    deadline = time.monotonic() + 15
    while not happened():
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)


class ScriptsTest(parameterized.TestCase):
  def test_bash_can_read_them(self):
    self.assertLen(SCRIPTS, 3)
    for script in SCRIPTS:
      subprocess.run(['bash', '-n', script], check=True)
      self.assertIn('set -euo pipefail', script.read_text())

  def test_shellcheck_finds_nothing(self):
    if not shutil.which('shellcheck'):
      self.skipTest('SHELLCHECK IS NOT INSTALLED: launch/*.sh are not linted')
    command = ['shellcheck', '--severity=warning', *SCRIPTS]
    found = subprocess.run(command, capture_output=True, text=True)
    self.assertEqual(found.returncode, 0, found.stdout)


class LocalTest(LaunchTest):
  def test_each_process_gets_its_flags_and_a_log(self):
    out = self.run_script('local.sh', 3, *self.cmd, JAX_PLATFORMS='cpu')
    self.assertEqual(out, 'process 0\n')
    logs = sorted((self.folder / 'logs').iterdir())
    self.assertEqual(
      [(path.name, path.read_text()) for path in logs],
      [(f'process_{i}.log', f'process {i}\n') for i in (1, 2)],
    )
    records = self.records()
    addresses = set()
    for i, record in enumerate(records):
      *mine, address, num, process_id = record['argv']
      self.assertEqual(mine, FLAGS)
      self.assertRegex(address, r'^--coordinator=127\.0\.0\.1:\d+$')
      self.assertEqual(num, '--num_processes=3')
      self.assertEqual(process_id, f'--process_id={i}')
      bound = record['env']['JAX_COORDINATOR_BIND_ADDRESS']
      addresses |= {address.split('=')[1], bound}
    self.assertLen(records, 3)
    self.assertLen(addresses, 1)

  @parameterized.parameters('fail', 'deaf')
  def test_the_first_that_fails_ends_the_others(self, mode):
    begin = time.monotonic()
    environ = {'JAX_PLATFORMS': 'cpu', 'MODE': mode}
    self.run_script('local.sh', 3, *self.cmd, status=3, **environ)
    self.assertLess(time.monotonic() - begin, 20 if mode == 'deaf' else 10)
    self.assertIn('process 1 failed with status 3', self.errors)
    self.assertIn('process 1\n', self.errors)  # its log's end
    records = self.records()
    self.assertLen(records, 3)
    for record in records:
      self.wait_for(lambda r=record: not alive(r['pid']))
      self.wait_for(lambda r=record: not alive(r['child']))

  @parameterized.parameters(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  def test_a_signal_ends_all(self, number):
    process = self.start(
      'local.sh', 2, *self.cmd, JAX_PLATFORMS='cpu', MODE='wait'
    )
    self.wait_for(lambda: len([*self.told.glob('[01]')]) == 2)
    process.send_signal(number)
    process.communicate(timeout=10)
    self.assertEqual(process.returncode, 128 + number)
    for record in self.records():
      self.wait_for(lambda r=record: not alive(r['pid']))
      self.wait_for(lambda r=record: not alive(r['child']))

  @parameterized.parameters(
    (['--dry-run'], {}), ([], {'DRY_RUN': 1})
  )  # fmt: skip
  def test_a_dry_run_prints_what_a_run_does(self, words, environ):
    common = {'JAX_NUM_CPU_DEVICES': 4, 'JAX_PLATFORMS': 'cpu', 'PORT': 23456}
    printed = self.run_script(
      'local.sh', *words, 2, *self.cmd, **common, **environ
    )
    self.assertEmpty(self.records())
    self.run_script('local.sh', 2, *self.cmd, **common)
    lines = [parsed(line) for line in printed.splitlines()]
    for (env, argv), record in zip(lines, self.records(), strict=True):
      self.assertEqual(argv[-len(self.cmd) - 3 :][3:], record['argv'])
      self.assertIn('--coordinator=127.0.0.1:23456', argv)
      self.assertEqual(env['JAX_NUM_CPU_DEVICES'], '4')
      self.assertEqual(env, {k: record['env'][k] for k in env})

  def dry(self, n: int, **environ) -> list[tuple[dict, list[str]]]:
    printed = self.run_script('local.sh', '--dry-run', n, 'x', **environ)
    return [parsed(line) for line in printed.splitlines()]

  def test_gpus_are_split_evenly(self):
    self.fake('nvidia-smi', '#!/bin/bash\nseq 0 7\n')
    told = [env for env, _ in self.dry(2)]
    self.assertEqual([env['CUDA_VISIBLE_DEVICES'] for env in told],
                     ['0,1,2,3', '4,5,6,7'])  # fmt: skip
    self.assertEqual([env['JAX_LOCAL_DEVICE_IDS'] for env in told],
                     ['0,1,2,3'] * 2)  # fmt: skip
    told = [env for env, _ in self.dry(2, CUDA_VISIBLE_DEVICES='2,GPU-a')]
    self.assertEqual([env['CUDA_VISIBLE_DEVICES'] for env in told],
                     ['2', 'GPU-a'])  # fmt: skip
    for environ in {'JAX_PLATFORMS': 'cpu'}, {'CUDA_VISIBLE_DEVICES': ''}:
      for env, _ in self.dry(3, **environ):
        self.assertNotIn('JAX_LOCAL_DEVICE_IDS', env)
    for n in 3, 16:
      self.run_script('local.sh', n, *self.cmd, status=2)
      self.assertIn(f'{n} processes cannot share 8 GPUs evenly', self.errors)
    self.assertEmpty(self.records())

  def test_cores_are_split_where_there_are_enough(self):
    self.fake('taskset', '#!/bin/bash\necho "pid 1\'s list: 0-2,8,10-11"\n')
    common = {'JAX_PLATFORMS': 'cpu'}
    starts = [argv[:4] for _, argv in self.dry(2, **common)]
    self.assertEqual(starts, [['taskset', '-c', cores, 'x']
                              for cores in ('0,1,2', '8,10,11')])  # fmt: skip
    starts = [argv[2] for _, argv in self.dry(4, **common)]
    self.assertEqual(starts, ['0', '1', '2', '8'])
    for n, environ in (7, {}), (2, {'PIN': 0}):
      for _, argv in self.dry(n, **common, **environ):
        self.assertEqual(argv[0], 'x')

  @parameterized.parameters(([],), ([2],), ([0, 'x'],), (['x', 'x'],))
  def test_a_wrong_call_says_how(self, words):
    self.run_script('local.sh', *words, status=2)
    self.assertIn('usage: launch/local.sh', self.errors)


class SlurmTest(LaunchTest):
  """srun, faked, runs the tasks of all nodes here, one after another."""

  def setUp(self):
    super().setUp()
    self.fake('srun', SRUN)
    self.fake('scontrol', SCONTROL)

  def run_job(self, tasks: int, per_node: int, gpus: str = '', **environ):
    self.environ.update(
      SLURM_JOB_ID='77',
      SLURM_NNODES=str(tasks // per_node),
      SLURM_NTASKS=str(tasks),
      SLURM_NTASKS_PER_NODE=str(per_node),
      SLURM_CPUS_PER_TASK='4',
      SLURM_STEP_NODELIST='node[007-008,011],other3',
    )
    if gpus:
      self.environ['SLURM_GPUS_PER_TASK'] = gpus
    return self.run_script('slurm.sh', *self.cmd, **environ)

  @parameterized.named_parameters(
    ('a_node', 2, 1, '8', '0,1,2,3,4,5,6,7', ['0,1,2,3,4,5,6,7'] * 2),
    ('bound', 4, 2, '1', '0', ['0'] * 4),
    ('bound_by_number', 2, 2, '1', '5', ['0', '0']),
    ('not_bound', 4, 2, 'h100:2', '0,1,2,3', ['0,1', '2,3'] * 2),
    ('not_said', 2, 1, '', '0,1', ['0,1'] * 2),
    ('no_gpus', 2, 1, '', '', [None] * 2),
  )
  def test_a_task_knows_its_gpus(self, tasks, per_node, gpus, seen, expected):
    self.fake('nvidia-smi', '#!/bin/bash\nexit 9\n')
    self.run_job(tasks, per_node, gpus, CUDA_VISIBLE_DEVICES=seen)
    records = self.records()
    ids = [record['env'].get('JAX_LOCAL_DEVICE_IDS') for record in records]
    self.assertEqual(ids, expected)
    for record in records:
      self.assertEqual(record['argv'], [*FLAGS, '--coordinator=auto'])

  def test_gpus_are_counted_where_slurm_names_none(self):
    self.fake('nvidia-smi', '#!/bin/bash\nseq 0 3\n')
    self.run_job(1, 1)
    told = self.records()[0]['env']
    self.assertEqual(told['JAX_LOCAL_DEVICE_IDS'], '0,1,2,3')

  def test_a_failed_step_ends_the_job(self):
    self.environ.update(SLURM_JOB_ID='77', SLURM_NTASKS='0')
    out = self.run_script(
      'slurm.sh', *self.cmd, STATUS=7, status=7, SLURM_CPUS_PER_TASK=4
    )
    self.assertIn('job 77, restart 0', out)
    options = (self.fakes / 'srun.txt').read_text().split()
    for option in '--kill-on-bad-exit=1', '--cpus-per-task=4':
      self.assertIn(option, options[: options.index('bash')])
    self.assertFalse((self.fakes / 'scontrol.txt').exists())

  def test_near_the_time_limit_the_job_is_queued_again(self):
    process = self.start('slurm.sh', *self.cmd, SLURM_JOB_ID=77, SLEEP=60)
    self.wait_for((self.fakes / 'srun.pid').exists)
    begin = time.monotonic()
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=10)
    self.assertLess(time.monotonic() - begin, 5)
    self.assertEqual(process.returncode, 128 + signal.SIGTERM)
    told = (self.fakes / 'scontrol.txt').read_text().split()
    self.assertEqual(told, ['requeue', '77'])

  def test_a_preempted_job_goes_on_and_keeps_its_log(self):
    text = (ROOT / 'launch' / 'slurm.sh').read_text()
    options = re.findall('^#SBATCH (.*)$', text.split('set -euo')[0], re.M)
    for option in '--requeue', '--open-mode=append', '--signal=B:USR1@120':
      self.assertIn(option, options)

  @parameterized.parameters(
    (['--dry-run'], {}), ([], {'DRY_RUN': 1})
  )  # fmt: skip
  def test_a_dry_run_prints_what_tasks_are_told(self, words, environ):
    self.run_job(4, 2, '2', CUDA_VISIBLE_DEVICES='0,1')
    printed = self.run_script('slurm.sh', *words, *self.cmd, **environ)
    lines = [parsed(line) for line in printed.splitlines()]
    for (env, argv), record in zip(lines, self.records(), strict=True):
      self.assertEqual(argv, [*self.cmd[:3], *record['argv']])
      self.assertLen(env, 4)
      self.assertEqual(env, {k: record['env'][k] for k in env})

  def test_a_dry_run_needs_no_cluster(self):
    printed = self.run_script('slurm.sh', '--dry-run', 'x')
    lines = [parsed(line) for line in printed.splitlines()]
    ids = [(env['SLURM_PROCID'], env['SLURM_LOCALID']) for env, _ in lines]
    self.assertEqual(ids, [('0', '0'), ('1', '0')])

  def test_jax_finds_the_same_job(self):
    try:
      from jax._src.clusters import slurm_cluster
    except ImportError:
      self.skipTest('jax._src.clusters.slurm_cluster HAS MOVED: not compared')
    self.run_job(4, 2, '2', CUDA_VISIBLE_DEVICES='0,1')
    cluster = slurm_cluster.SlurmCluster
    for i, record in enumerate(self.records()):
      with mock.patch.dict(os.environ, record['env'], clear=True):
        self.assertTrue(cluster.is_env_present())
        self.assertEqual(cluster.get_process_id(), i)
        self.assertEqual(cluster.get_process_count(), 4)
        address = cluster.get_coordinator_address(1, None)
        # Why slurm.sh names the GPUs: jax would take one, by this number.
        self.assertEqual(cluster.get_local_process_id(), i % 2)
      self.assertEqual(address, f'node007:{77 + 65535 - 2**12 + 1}')


class TpuPodTest(LaunchTest):
  def setUp(self):
    super().setUp()
    self.fake('gcloud', GCLOUD)
    self.work = self.folder / 'a b'
    self.work.mkdir()
    self.environ |= {'TPU': 'my-tpu', 'ZONE': 'z1', 'DIR': str(self.work)}

  def test_all_hosts_run_the_command_in_their_folder(self):
    self.run_script('tpu_pod.sh', *self.cmd, status=5, STATUS=5)
    words = (self.fakes / 'gcloud.txt').read_text().splitlines()
    start = ['compute', 'tpus', 'tpu-vm', 'ssh', 'my-tpu', '--zone=z1']
    self.assertEqual(words[:7], [*start, '--worker=all'])
    (record,) = self.records()
    self.assertEqual(record['argv'], [*FLAGS, '--coordinator=auto'])
    self.assertEqual(record['env']['PWD'], str(self.work))

  @parameterized.parameters(
    (['--dry-run'], {}), ([], {'DRY_RUN': 1})
  )  # fmt: skip
  def test_a_dry_run_calls_nobody(self, words, environ):
    out = self.run_script(
      'tpu_pod.sh', *words, *self.cmd, PROJECT='p', **environ
    )
    self.assertFalse((self.fakes / 'gcloud.txt').exists())
    remote, _, call = out.partition('\ngcloud ')
    argv = [*self.cmd, '--coordinator=auto']
    self.assertEqual(shlex.split(remote)[-len(argv) :], argv)
    self.assertEqual(shlex.split(call)[-1], f'--command={remote}')
    self.assertIn('--project=p', shlex.split(call))

  @parameterized.parameters(('TPU', 'name'), ('ZONE', 'zone'))
  def test_a_slice_must_be_named(self, variable, what):
    del self.environ[variable]
    self.run_script('tpu_pod.sh', *self.cmd, status=1)
    self.assertIn(f'{variable}: {what} of the slice', self.errors)


class GkeJobSetTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    text = (ROOT / 'launch' / 'gke_jobset.yaml').read_text()
    self.jobset = yaml.safe_load(text)
    self.spec = self.jobset['spec']
    (self.job,) = self.spec['replicatedJobs']
    self.indexed = self.job['template']['spec']
    self.pod = self.indexed['template']['spec']
    (self.container,) = self.pod['containers']

  def told(self, index: int) -> list[str]:
    """Arguments of pod `index`, with $(NAME) filled in as a kubelet does."""
    at, name = self.spec['coordinator'], self.jobset['metadata']['name']
    pod = f'{at["replicatedJob"]}-{at["jobIndex"]}-{at["podIndex"]}'
    annotations = {
      'batch.kubernetes.io/job-completion-index': str(index),
      'jobset.sigs.k8s.io/coordinator': f'{name}-{pod}.{name}',
    }
    values = {}
    for env in self.container['env']:
      values[env['name']] = env.get('value')
      if 'valueFrom' in env:
        path = env['valueFrom']['fieldRef']['fieldPath']
        key = re.fullmatch(r"metadata\.annotations\['(.*)'\]", path)[1]
        values[env['name']] = annotations[key]
    return [
      re.sub(r'\$\((\w+)\)', lambda found: values[found[1]], word)
      for word in self.container['args']
    ]

  def test_every_pod_is_told_its_place(self):
    n = self.indexed['completions']
    self.assertEqual(self.indexed['parallelism'], n)
    self.assertEqual(self.indexed['completionMode'], 'Indexed')
    self.assertEqual(self.job.get('replicas', 1), 1)
    self.assertEqual(self.spec['coordinator']['replicatedJob'],
                     self.job['name'])  # fmt: skip
    ports = [port['containerPort'] for port in self.container['ports']]
    address = f'influence-workers-0-0.influence:{ports[0]}'
    for index in range(n):
      self.assertEqual(self.told(index)[-3:], [
        f'--coordinator={address}',
        f'--num_processes={n}',
        f'--process_id={index}',
      ])  # fmt: skip

  def test_pods_reach_each_other_by_name(self):
    self.assertEqual(self.jobset['apiVersion'], 'jobset.x-k8s.io/v1alpha2')
    self.assertEqual(self.jobset['kind'], 'JobSet')
    self.assertTrue(self.spec['network']['enableDNSHostnames'])
    self.assertTrue(self.spec['network']['publishNotReadyAddresses'])
    name = re.compile(r'[a-z]([-a-z0-9]*[a-z0-9])?')  # a DNS label
    self.assertRegex(self.jobset['metadata']['name'], name)
    self.assertRegex(self.job['name'], name)

  def test_a_pod_that_fails_restarts_all(self):
    self.assertGreater(self.spec['failurePolicy']['maxRestarts'], 0)
    self.assertEqual(self.indexed['backoffLimit'], 0)
    self.assertEqual(self.pod['restartPolicy'], 'Never')
    (rule,) = self.indexed['podFailurePolicy']['rules']
    (condition,) = rule['onPodConditions']
    self.assertEqual(rule['action'], 'FailJob')
    self.assertEqual(condition, {'type': 'DisruptionTarget', 'status': 'True'})
    (rule,) = self.spec['failurePolicy']['rules']
    self.assertEqual(rule['action'], 'RestartJobSetAndIgnoreMaxRestarts')
    self.assertEqual(rule['onJobFailureReasons'], ['PodFailurePolicy'])

  def test_the_workdir_is_on_the_shared_volume(self):
    volumes = {volume['name']: volume for volume in self.pod['volumes']}
    mounts = {m['name']: m['mountPath'] for m in self.container['volumeMounts']}
    self.assertEqual({*volumes}, {*mounts})
    self.assertIn('persistentVolumeClaim', volumes['shared'])
    (workdir,) = (w for w in self.told(0) if w.startswith('--workdir='))
    self.assertStartsWith(workdir.split('=')[1], mounts['shared'] + '/')
    limits = self.container['resources']['limits']
    self.assertGreater(limits['nvidia.com/gpu'], 0)


if __name__ == '__main__':
  absltest.main()
