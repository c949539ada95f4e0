"""Export: what is in a file, how close it is to JAX, what the stage leaves."""

import json

import numpy as np
import pytest
import scipy.special
import tiny
from tiny_network import SIZE, TEXT, images, jax_logits, network

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets, pixel_statistics
from spnas_jax.export import tflite
from spnas_jax.export.metadata_reader import read_metadata
from spnas_jax.export.network import to_tflite
from spnas_jax.networks.architecture import Architecture
from spnas_jax.stages import export


def expected_operations(arch: Architecture) -> list[str]:
  """Convolutions, additions, pooling, classifier; nothing else."""
  names = ['CONV_2D']
  for block in arch.blocks:
    if block.op == 'ir':
      names.append('CONV_2D')
    names += ['DEPTHWISE_CONV_2D', 'CONV_2D']
    if block.residual:
      names.append('ADD')
  if arch.head_channels:
    names.append('CONV_2D')
  return [*names, 'SUM', 'FULLY_CONNECTED']


@pytest.fixture(scope='module')
def bare():
  """(architecture, variables, model)."""
  arch, variables = network()
  return arch, variables, to_tflite(arch, variables, image_size=SIZE)


@pytest.mark.parametrize(
  ('text', 'style'),
  [
    (TEXT, {'activation': 'relu6'}),
    (TEXT, {'padding': 'symmetric'}),
    ('stem_k3_s2_i3_c8 dsa_r2_k3_s2_c12 fc_c6', {'activation': 'relu6'}),
  ],
  ids=['relu6', 'symmetric', 'no head'],
)
def test_operations_and_logits_by_style(text, style):
  arch, variables = network(text, **style)
  model = to_tflite(arch, variables, image_size=SIZE)
  # Symmetric padding at stride 2 is nothing TFLite has: it pads first.
  names = [n for n in tflite.operations(model) if n != 'PAD']
  assert names == expected_operations(arch)
  x = images(4)
  np.testing.assert_allclose(
    tflite.run(model, x), jax_logits(arch, variables, x), rtol=1e-4, atol=1e-5
  )


def test_bare_network_is_what_the_architecture_says(bare):
  arch, variables, model = bare
  assert tflite.operations(model) == expected_operations(arch)
  facts = tflite.interface(model)
  assert facts['input'] == {
    'name': 'image',
    'tensor': facts['input']['tensor'],
    'shape': [1, SIZE, SIZE, 3],
    'dtype': 'float32',
    'scale': None,
    'zero_point': None,
  }
  assert facts['output']['shape'] == [1, 6]
  x = images(5)
  np.testing.assert_allclose(
    tflite.run(model, x), jax_logits(arch, variables, x), rtol=1e-4, atol=1e-5
  )


def test_squeeze_and_groups_are_builtin_operations():
  arch, variables = network(
    'stem_k3_s2_i3_c8 ir_r2_k3_s1_e2_c8_se0.25 ir_r1_k3_s1_e2_c8_g2 fc_c6'
  )
  model = to_tflite(arch, variables, image_size=SIZE, batch_size=0)
  assert not any('CUSTOM' in name for name in tflite.operations(model))
  x = images(3)
  np.testing.assert_allclose(
    tflite.run(model, x), jax_logits(arch, variables, x), rtol=1e-4, atol=1e-5
  )


def test_any_batch_size_keeps_the_operations(bare):
  arch, variables, model = bare
  any_batch = tflite.with_any_batch(model)
  assert tflite.operations(any_batch) == tflite.operations(model)
  assert tflite.interface(any_batch)['input']['shape'] == [-1, SIZE, SIZE, 3]
  runner = tflite.interpreter(any_batch)
  (source,) = runner.get_input_details()
  (target,) = runner.get_output_details()
  for count in (3, 1):
    x = images(count)
    runner.resize_tensor_input(source['index'], x.shape)
    runner.allocate_tensors()
    runner.set_tensor(source['index'], x)
    runner.invoke()
    np.testing.assert_allclose(
      runner.get_tensor(target['index']),
      jax_logits(arch, variables, x),
      rtol=1e-4,
      atol=1e-5,
    )


def test_fixed_batches_take_a_rest(bare):
  arch, variables, _ = bare
  model = to_tflite(arch, variables, image_size=SIZE, batch_size=4)
  x = images(6)
  np.testing.assert_allclose(
    tflite.run(model, x), jax_logits(arch, variables, x), rtol=1e-4, atol=1e-5
  )


def test_normalisation_is_two_more_operations(bare):
  arch, variables, model = bare
  scale = np.array([0.01, 0.02, 0.03], np.float32)
  offset = np.array([-1.0, 0.5, 0.0], np.float32)
  inside = to_tflite(arch, variables, SIZE, scale_and_offset=(scale, offset))
  names = tflite.operations(inside)
  assert names == ['MUL', 'ADD', *tflite.operations(model)]
  pixels = np.rint(images(4) * 255)
  np.testing.assert_allclose(
    tflite.run(inside, pixels),
    jax_logits(arch, variables, pixels * scale + offset),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize('integers', ['uint8', 'int8'])
def test_int8_is_integer_throughout_and_per_channel(bare, integers):
  arch, variables, _ = bare
  x = images(16)
  model = to_tflite(
    arch,
    variables,
    SIZE,
    precision='int8',
    calibration=x,
    integers=integers,
  )
  runner = tflite.interpreter(model)
  types = {np.dtype(t['dtype']).name for t in runner.get_tensor_details()}
  assert types <= {'int8', 'uint8', 'int32'}
  scales = [
    len(t['quantization_parameters']['scales'])
    for t in runner.get_tensor_details()
    if len(t['shape']) == 4
  ]
  # One scale for every output channel of every kind of convolution.
  assert {8, 12, 16, 24, 36} <= set(scales)
  for side in tflite.interface(model).values():
    assert side['dtype'] == integers
  want = jax_logits(arch, variables, x)
  got = tflite.run(model, x)
  assert np.abs(got - want).max() < 0.1 * np.ptp(want)


def test_probabilities_are_the_softmax_of_the_logits(bare):
  arch, variables, model = bare
  soft = to_tflite(arch, variables, SIZE, output='probabilities')
  assert tflite.operations(soft) == [*tflite.operations(model), 'SOFTMAX']
  want = scipy.special.softmax(tflite.run(model, images(4)), -1)
  # A float32 softmax of some thousand possible roundings.
  np.testing.assert_allclose(tflite.run(soft, images(4)), want, atol=1e-6)


def test_float16_halves_the_weights(bare):
  arch, variables, model = bare
  half = to_tflite(arch, variables, SIZE, precision='float16')
  assert len(half) < len(model)
  names = [n for n in tflite.operations(half) if n != 'DEQUANTIZE']
  assert names == tflite.operations(model)


def test_it_is_lowered_for_the_cpu_wherever_it_runs(monkeypatch):
  from jax.experimental import jax2tf

  asked = {}

  def refuse(function, **options):
    asked.update(options)
    raise RuntimeError

  monkeypatch.setattr(jax2tf, 'convert', refuse)
  with pytest.raises(RuntimeError):
    tflite.convert(lambda x: x, (1, 2))
  assert asked['native_serialization_platforms'] == ('cpu',)
  assert asked['with_gradient'] is False


def test_wrong_precision_is_refused():
  with pytest.raises(ValueError, match='float32, float16, int8'):
    tflite.convert(lambda x: x, (1, 2), precision='int4')
  with pytest.raises(ValueError, match='calibration'):
    tflite.convert(lambda x: x, (1, 2), precision='int8')


def test_converting_and_loading_are_silent(capfd):
  model = tflite.convert(lambda x: x + 1, (1, 2))
  tflite.interpreter(model)
  assert capfd.readouterr() == ('', '')
  with pytest.raises(KeyError), tflite.quiet():
    raise KeyError
  print('heard')
  assert capfd.readouterr().out == 'heard\n'


# --- the stage ----------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch):
  """A config and a network that count as trained."""
  config = tiny.config()
  config.dataset.image_size = SIZE
  config.export.update(calibration_images=32, check_images=40)
  arch, variables = network(
    'stem_k3_s2_i1_c8 ir_r2_k3_s2_e3_c8 head_c16 fc_c10'
  )
  monkeypatch.setattr(export, 'trained_hash', lambda workdir: 'abc')
  monkeypatch.setattr(
    export, 'load_trained', lambda config, workdir: (arch, variables)
  )
  return config, arch


def test_stage_writes_models_and_sidecar(trained, tmp_path, monkeypatch):
  config, arch = trained
  workdir = Workdir(tmp_path)
  result = export.run(config, workdir)
  assert result['num_images'] == 40
  assert result['max_abs_diff'] < 1e-4
  assert result['max_rel_diff'] < 1e-5
  assert result['agreement_fp16'] > 0.9
  assert result['agreement_int8'] > 0.7
  sidecar = json.loads((tmp_path / 'model.json').read_text())
  assert Architecture.from_json(json.dumps(sidecar['network'])) == arch
  assert sidecar['labels'] == list(datasets.info(config.dataset).label_names)
  assert sidecar['normalisation']['inside'] is True
  for (name, ending), dtype in zip(
    export.FILES.values(), ('float32', 'float32', 'uint8'), strict=True
  ):
    model = (tmp_path / name).read_bytes()
    assert result[f'bytes{ending}'] == len(model)
    entry = sidecar['files'][name]
    assert entry['input']['dtype'] == dtype
    assert entry['input']['name'] == 'image'
    assert entry['output']['name'] == 'logits'
    described = read_metadata(model)
    assert described['labels'] == sidecar['labels']
    assert (described['mean'], described['std']) == ([0.0], [1.0])
    assert described['facts']['architecture'] == arch.to_string()
  # Integer inputs are the pixels themselves.
  entry = sidecar['files']['model_int8.tflite']
  assert (entry['input']['scale'], entry['input']['zero_point']) == (1.0, 0)
  assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]

  monkeypatch.setattr(export, 'make_models', None)  # Nothing is made twice.
  assert export.run(config, workdir) == result
  config.export.check_images = 41
  with pytest.raises(UserError, match=r'export\.check_images'):
    export.run(config, workdir)


def test_stage_without_normalisation_takes_normalised_images(trained, tmp_path):
  config, _ = trained
  config.export.normalise_inside = False
  result = export.run(config, Workdir(tmp_path))
  assert result['max_abs_diff'] < 1e-4
  assert result['agreement_int8'] > 0.7
  model = (tmp_path / 'model.tflite').read_bytes()
  assert 'MUL' not in tflite.operations(model)
  described = read_metadata(model)
  mean, std = pixel_statistics.statistics(config.dataset)
  np.testing.assert_allclose(described['mean'], 255 * np.array(mean), rtol=1e-6)
  np.testing.assert_allclose(described['std'], 255 * np.array(std), rtol=1e-6)


def test_description_tells_crop_and_score_of_this_network(trained, tmp_path):
  config, arch = trained
  config.dataset.update(augment='inception', cache=False)
  workdir = Workdir(tmp_path)
  score = {'top1': 0.9876, 'num_examples': 360, 'split': 'test'}
  workdir.record('evaluate', {**score, 'inputs': {'trained': 'abc'}})
  described = export.describe(config, arch, workdir, 'abc')
  assert described.eval_crop == 0.875
  assert '98.76% of 360 test images' in described.description
  another = export.describe(config, arch, workdir, 'another')
  assert 'Top-1' not in another.description


def test_stage_needs_a_trained_network(tmp_path):
  with pytest.raises(UserError, match='--stage=train'):
    export.run(tiny.config(), Workdir(tmp_path))


def test_reference_logits_are_put_together_from_chunks(bare):
  arch, variables, model = bare
  x = images(37)
  np.testing.assert_allclose(
    export._jax_logits(arch, variables, x),
    tflite.run(model, x),
    rtol=1e-4,
    atol=1e-5,
  )
