"""A workdir in which every stage has run, for the tests of the report."""

import hashlib
import io

import numpy as np

from spnas_jax.config.defaults import default_config
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.latency.table import LatencyTable, block_key, head_key, stem_key
from spnas_jax.networks.architecture import block_input_sizes
from spnas_jax.report import findings as report_data

STEPS = np.arange(10, 110, 10)


def small_config():
  """Two stages of two layers."""
  config = default_config()
  space = config.space
  space.channels, space.layers, space.strides = (8, 16), (2, 2), (2, 1)
  return config


def make_table(config, space):
  """Every operation of the space with a time of its own."""
  largest, size = space.largest, config.dataset.image_size
  keys = [stem_key(largest, size)]
  sizes = block_input_sizes(largest, size)
  for layer, side in zip(space.layers, sizes, strict=False):
    for choice in layer.choices:
      keys.append(block_key(layer.block(choice), side, largest))
  keys.append(head_key(largest, sizes[-1]))
  return LatencyTable(
    name='bench',
    device={'kind': 'host', 'processor': 'test'},
    software={},
    threads=1,
    protocol={},
    date='2025-01-01',
    image_size=size,
    entries={
      key: {'ms': 0.01 + 0.001 * i, 'spread_ms': 0.0, 'count': 9}
      for i, key in enumerate(dict.fromkeys(keys))
    },
    calibration={'factor': 1.1},
  )


def save(workdir, name, saver, *args, **kwargs):
  buffer = io.BytesIO()
  saver(buffer, *args, **kwargs)
  workdir.write(name, buffer.getvalue())


def evaluation():
  """97% right: of 300 images of cats 8 are taken for dogs, of 60 dogs 3."""
  return {
    'top1': 349 / 360,
    'top5': 1.0,
    'num_examples': 360,
    'macro_accuracy': (292 / 300 + 57 / 60) / 2,
    'per_class': [
      {'class': 'cat', 'images': 300, 'recall': 292 / 300},
      {'class': 'dog', 'images': 60, 'recall': 57 / 60},
      {'class': 'eel', 'images': 0, 'recall': None},
    ],
    'confusion_matrix': [[292, 8, 0], [3, 57, 0], [0, 0, 0]],
    'worst_mistakes': [
      {'index': 7, 'true': 'cat', 'predicted': 'dog', 'confidence': 0.99},
      {'index': 3, 'true': 'dog', 'predicted': 'cat', 'confidence': 0.6},
    ],
  }


def fill(config, path):
  """A workdir in which every stage has run."""
  workdir, rng = Workdir(path), np.random.default_rng(0)
  space = make_space(config)
  table = make_table(config, space)
  workdir.write('latency_table.json', table.to_json())
  gates = np.ones(len(space.gates), np.float32)
  gates[space.gate_index[1, 'keep'][0]] = 0
  gates[space.gate_index[2, 'kernel'][0]] = 0
  gates = space.gates_of(space.choices_of(gates))
  arch = space.decode(gates)
  ms = table.predict(arch)
  arch = arch.replace(provenance={'dataset': 'digits'})
  workdir.write('architecture.json', arch.to_json())
  save(workdir, 'search/found.npy', np.save, gates)
  save(
    workdir,
    'search/supernet.npz',
    np.savez,
    gate_logits=rng.normal(size=len(gates)),
    gate_history_steps=STEPS,
    gate_history_logits=rng.normal(size=(len(STEPS), len(gates))),
    **{
      f'layer{i:02d}/kernel': rng.normal(size=(5, 5, 1, 6 * x.in_channels))
      for i, x in enumerate(space.layers)
    },
  )
  for stage, tags in (
    ('search', ('cross_entropy', 'accuracy', 'runtime_ms', 'undropped_ms')),
    ('train', ('cross_entropy', 'accuracy')),
  ):
    arrays = {tag: 1 / STEPS for tag in tags}
    save(workdir, f'{stage}/history.npz', np.savez, step=STEPS, **arrays)
  save(
    workdir,
    'evaluate/worst_mistakes.npz',
    np.savez,
    images=np.arange(2 * 8 * 8).reshape(2, 8, 8, 1).astype(np.uint8),
    index=[7, 3],
  )
  for name in report_data.MODELS.values():
    workdir.write(name, bytes(1500))
  stages = {
    'search': {
      'target_ms': ms / 0.979,
      'predicted_ms': ms,
      'raw_decode_ms': ms * 1.1,
      'expected_ms': ms,
      'projected_layers': 1,
      'undecided_gates': 2,
      'num_gates': len(gates),
      'architecture': arch.to_string(),
      'steps': 100,
      'warmup_steps': 40,
      'seconds': 83.0,
      'cost_epochs': 30.0,
      'warnings': ['Raise search.epochs.'],
      'decisions': [
        {
          'layer': gate.layer,
          'decision': f'{gate.kind} {gate.rank}',
          'worth': 0.01 - 0.001 * i,
          'error': 0.002,
          'ms': 0.001 * i,
          'taken': i < 4,
        }
        for i, gate in enumerate(space.gates)
      ],
      'supernet_top1': 0.8,
      'worth': {
        'scored': [
          {'predicted_ms': share * ms, 'top1': 0.4, 'cross_entropy': 1.0}
          for share in (0.4, 0.6)
        ]
      },
      'curve': [
        {
          'name': f'{share * ms:.4g}ms',
          'target_ms': share * ms,
          'predicted_ms': 0.99 * share * ms,
          'architecture': arch.to_string(),
          'supernet_top1': 0.5 + 0.3 * share,
        }
        for share in (0.5, 1.0)
      ],
      'evolution': {
        'best': {'predicted_ms': ms, 'supernet_top1': 0.9},
        'front': [{'predicted_ms': ms, 'supernet_top1': 0.9}],
      },
    },
    'train': {'steps': 100, 'architecture': arch.to_string()},
    'evaluate': evaluation(),
    'export': {'max_abs_diff': 2e-6, 'agreement_int8': 0.99},
    'profile': {
      'median_ms': ms * 1.2,
      'spread_ms': 0.001,
      'bare_median_ms': ms * 1.1,
      'bare_ms': ms * 1.034,
      'predicted_ms': ms,
      'layers': [
        {'key': key, 'measured_ms': 0.02} for key in table.keys_of(arch)
      ],
    },
    'build_table': {'num_entries': len(table.entries)},
    'validate_table': {
      'mean_abs_pct': 1.5,
      'rmse_ms': 0.001,
      'num_networks': 2,
      'networks': [
        {'predicted_ms': 1.0, 'measured_ms': 1.1},
        {'predicted_ms': 2.0, 'measured_ms': 2.1},
      ],
    },
    'random_search': {
      'networks': [
        {'kind': 'found', 'architecture': 'f', 'predicted_ms': 1, 'top1': 0.9},
        {'kind': 'random', 'architecture': 'a', 'predicted_ms': 1, 'top1': 0.7},
        {'kind': 'random', 'architecture': 'a', 'predicted_ms': 1, 'top1': 0.9},
        {'kind': 'random', 'architecture': 'b', 'predicted_ms': 2, 'top1': 0.6},
      ],
      'difference': 0.2,
      'standard_error': 0.01,
      'curve': [
        {
          'name': '3ms',
          'networks': [
            {
              'kind': kind,
              'architecture': kind,
              'predicted_ms': 3,
              'top1': top1,
            }
            for kind, top1 in (('found', 0.95), ('random', 0.8))
          ],
        }
      ],
    },
    'compare_zoo': {
      'rows': [
        {'name': 'a', 'ms': 2.0, 'ms_kind': 'measured', 'top1': 0.5},
        {'name': 'a', 'ms': 3.0, 'ms_kind': 'measured', 'top1': 0.6},
        {'name': 'found', 'ms': 2.5, 'ms_kind': 'measured', 'top1': 0.7},
        {'name': 'b', 'ms': 9.0, 'ms_kind': 'predicted', 'top1': 0.4},
        {'name': 'c', 'ms': None, 'ms_kind': None, 'top1': None},
      ],
      'random': [
        {'ms': 2.6, 'ms_kind': 'measured', 'top1': 0.6},
        {'ms': 2.7, 'ms_kind': 'predicted', 'top1': 0.6},
      ],
    },
    'compare': {'single_path': {'params': 1000, 'temp_bytes': 2_000_000}},
    'ablate': {'kernels': {'individual_3x3': {'top1': 0.5}}},
    'compile': {'topology': 'v2:2x2', 'fits': True},
  }
  inputs = stage_inputs(
    config,
    'space',
    'dataset',
    table=hashlib.sha256(table.to_json().encode()).hexdigest()[:16],
  )
  for stage, result in stages.items():
    workdir.finish(stage, inputs if stage == 'search' else {}, result, 1.5)
  workdir.record('zoo', [{'name': 'fbnet_a', 'params': 1, 'pixel1_ms': None}])
  return workdir
