"""What benchmark_model writes, and a program that stands in for adb."""

from spnas_jax.latency import benchmark_output

# `push` and `pull` copy files into a folder, `shell` answers as Android would.
STAND_IN = """\
#!{python}
import os, pathlib, re, shutil, sys, time
phone = pathlib.Path({phone!r})
what = sys.argv[1:]
with open(phone / 'log', 'a') as log:
  log.write(' '.join(what) + '\\n')
if what[0] == 'devices':
  print('List of devices attached\\nP1\\tdevice\\n')
  sys.exit()
assert what[:2] == ['-s', 'P1']
what = what[2:]
local = lambda path: phone / path.strip('/').replace('/', '|')
broken = (phone / 'broken').read_text() if (phone / 'broken').exists() else ''
if what[0] == 'push':
  if broken == 'push':
    sys.exit('adb: error: failed to copy: No space left on device')
  shutil.copy(what[1], local(what[2]))
elif what[0] == 'pull':
  if not local(what[1]).exists():
    sys.exit('adb: error: failed to stat remote object')
  shutil.copy(local(what[1]), what[2])
elif what[1] == 'getprop':
  print('[ro.product.model]: [Pixel 8]\\r\\n[ro.product.cpu.abi]: [arm64-v8a]')
  print('[ro.build.version.release]: [15]\\n[empty]: []')
elif what[1].startswith('rm -rf'):
  for file in phone.glob(what[1].split()[2].strip('/').replace('/', '|') + '*'):
    file.unlink()
elif what[1].startswith('test -s'):
  print('there' if local(what[1].split()[2]).exists() else 'none')
elif broken == 'conditions' and what[1].startswith(('dumpsys', 'cat')):
  sys.exit(1)  # As `cat` does where governors may not be read.
elif what[1].startswith('dumpsys'):
  print('  level: 80\\n  temperature: 285')
elif what[1].startswith('cat'):
  print('schedutil\\nschedutil')
elif '/benchmark_model' in what[1] and not what[1].startswith('chmod'):
  if broken == 'hang':
    time.sleep(60)
  if broken == 'garbage':
    sys.exit(print('CANNOT LINK EXECUTABLE') or 0)
  if broken == 'gone':
    sys.exit("error: device 'P1' not found")
  flags = dict(re.findall(r'--(\\w+)=(\\S+)', what[1]))
  size = local(flags['graph']).stat().st_size
  if broken == 'strict' and 'op_profiling_output_mode' in flags:
    sys.exit('unknown flag')
  # It knows the flags for which the phone's folder has a file to give.
  for flag, mode in (
    ('op_profiling_output_file', flags.get('op_profiling_output_mode')),
    ('profiling_output_csv_file', 'old'),
  ):
    if flag in flags and (phone / f'profile.{{mode}}').exists():
      shutil.copy(phone / f'profile.{{mode}}', local(flags[flag]))
    elif flag in flags:
      print(f'WARN: Unconsumed cmdline flags: --{{flag}}')
  print('Inference timings in us: Init: 1, First inference: 2, Warmup (avg): '
        f'3, Inference (avg): {{size}}.5')
"""


def profile_proto(graph, delegate=()) -> bytes:
  """A file as the program writes it; (name, [microseconds]) per operation."""
  data = benchmark_output.profile_message()(model_name='model.tflite')
  init = data.init_profile.subgraph_profiles.add()
  init.per_op_profiles.add(node_type='AllocateTensors')

  def fill(profiles, operations):
    # Written in another order than they ran in.
    for order, (name, times) in reversed(list(enumerate(operations))):
      entry = profiles.add(node_type=name, run_order=order, times_called=1)
      stat_ = entry.inference_microseconds
      stat_.sum, stat_.count = sum(times), len(times)
      stat_.avg = sum(times) // len(times)

  target = data.runtime_profile.subgraph_profiles.add(subgraph_index=0)
  fill(target.per_op_profiles, graph)
  if delegate:
    inner = data.runtime_profile.delegate_profiles.add(delegate_name='XNNPACK')
    fill(inner.per_op_profiles, delegate)
  return data.SerializeToString()


def csv_table(title, rows, start=True) -> str:
  """A table as TensorFlow's statistics print it, with or without `start`."""
  column = ' start,' if start else ''
  lines = [
    f'============================== {title} ==============================',
    f'node type,{column} first, avg_ms, %, cdf%, mem KB, times called, name',
  ]
  for kind, average, name in rows:
    first = ' 0,' if start else ''
    lines.append(
      f'{kind},{first} {average}, {average}, 9.4%, 1e+02%, 0, 1, {name}'
    )
  return '\n'.join([*lines, '', ''])
