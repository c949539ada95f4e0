"""int8: maps that are dead over the calibration set, and a process of its own.

A ReLU that is dead over the calibration images leaves a range without width.
The runtime's XNNPACK refuses such a model and, for some shapes, frees memory
twice while doing so: the process ends without a word.
"""

import errno
import json
import pathlib
import sys
import warnings

import fake_device
import numpy as np
import pytest
import tiny
from fake_device import FakeDevice
from tiny_network import SIZE, images, jax_logits, network

from spnas_jax.config.workdir import Workdir
from spnas_jax.export import int8_process, int8_ranges, tflite
from spnas_jax.export.int8_ranges import NarrowRange, widen
from spnas_jax.stages import export, profile, report

SQUEEZED = 'stem_k3_s2_i3_c8 ir_r1_k3_s2_e3_c8_se0.25 ir_r1_k3_s1_e2_c8 fc_c6'
# Far below anything that a ReLU's input reaches here.
DEAD = -100.0


def dead_network(part: str, excite_bias: float | None = None):
  """A network one of whose ReLUs never opens: 'squeeze' or 'depthwise_bn'."""
  arch, variables = network(SQUEEZED)
  block = variables['params']['block00']
  if part == 'squeeze':
    bias = block['squeeze']['squeeze_bias']
    block['squeeze']['squeeze_bias'] = np.full_like(bias, DEAD)
  else:
    block[part]['bias'] = np.full_like(block[part]['bias'], DEAD)
  if excite_bias is not None:
    bias = block['squeeze']['excite_bias']
    block['squeeze']['excite_bias'] = np.full_like(bias, excite_bias)
  return arch, variables


def raw_int8(arch, variables) -> bytes:
  """As the converter leaves it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(int8_ranges, 'widen', lambda model: model)
    return export.to_tflite(
      arch, variables, SIZE, precision='int8', calibration=images(16)
    )


def run_builtin(model: bytes, x: np.ndarray) -> np.ndarray:
  """Integers of the logits by TFLite's own kernels: XNNPACK has no part."""
  with tflite.quiet():
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runner = Interpreter(
      model_content=model, experimental_op_resolver_type=plain
    )
    runner.allocate_tensors()
  (source,) = runner.get_input_details()
  (target,) = runner.get_output_details()
  scale, zero = source['quantization']
  rows = []
  for image in np.rint(x / scale + zero).clip(0, 255).astype(np.uint8):
    runner.set_tensor(source['index'], image[None])
    runner.invoke()
    rows.append(runner.get_tensor(target['index'])[0])
  return np.array(rows, np.int32)


@pytest.mark.parametrize('part', ['squeeze', 'depthwise_bn'])
def test_widened_ranges_change_no_integer(part):
  """What was dead stays 0, and biases in its unit add what they added."""
  arch, variables = dead_network(part, excite_bias=0.0)
  raw = raw_int8(arch, variables)
  with pytest.warns(NarrowRange, match='block00'):
    model = widen(raw)
  x = images(12)
  np.testing.assert_array_equal(run_builtin(model, x), run_builtin(raw, x))


@pytest.mark.parametrize('part', ['squeeze', 'depthwise_bn'])
def test_a_dead_map_no_longer_keeps_a_model_from_running(part):
  """On the default delegate, which refuses it as the converter leaves it."""
  arch, variables = dead_network(part)
  x = images(16)
  with pytest.warns(NarrowRange):
    model = export.to_tflite(
      arch, variables, SIZE, precision='int8', calibration=x
    )
  want = jax_logits(arch, variables, x)
  got = tflite.run(model, x)
  # As for a network without dead parts (test_export).
  assert np.abs(got - want).max() < 0.1 * np.ptp(want)


def test_biases_are_written_in_the_new_unit():
  """The excite convolution's bias, 0.8 everywhere, reads 0.8 before and after.

  Within half a unit of the bias, which is as close as any int8 model has it.
  """
  arch, variables = dead_network('squeeze', excite_bias=0.8)
  raw = raw_int8(arch, variables)
  with pytest.warns(NarrowRange):
    model = widen(raw)
  for each in (raw, model):
    root, codes = tflite.unpack(each)
    graph = root.subgraphs[0]
    (logistic,) = (
      o for o in graph.operators if codes[o.opcodeIndex] == 'LOGISTIC'
    )
    (excite,) = (
      o for o in graph.operators if o.outputs[0] == logistic.inputs[0]
    )
    source, weights, bias = (graph.tensors[i] for i in excite.inputs)
    unit = source.quantization.scale[0] * weights.quantization.scale
    np.testing.assert_allclose(bias.quantization.scale, unit, rtol=1e-6)
    values = np.frombuffer(bytes(root.buffers[bias.buffer].data), np.int32)
    np.testing.assert_allclose(values * unit, 0.8, atol=unit.max() / 2)


@pytest.mark.parametrize(
  ('output', 'weights', 'widened'),
  [
    # A step of the sum is 257 or 255 steps of the output: XNNPACK's limit.
    (0.01 * 0.02 / 257, 0.02, True),
    (0.01 * 0.02 / 255, 0.02, False),
    # No width at all, under weights so small that XNNPACK would take it.
    (2e-6 / 255, 1e-6, True),
  ],
)
def test_which_ranges_are_too_narrow(output, weights, widened):
  """A convolution and what only moves its numbers (PAD), by hand."""
  arch, variables = network(SQUEEZED, padding='symmetric')
  root, codes = tflite.unpack(raw_int8(arch, variables))
  graph = root.subgraphs[0]
  pad = next(o for o in graph.operators[4:] if codes[o.opcodeIndex] == 'PAD')
  (conv,) = (o for o in graph.operators if o.outputs[0] == pad.inputs[0])
  for index, scale in (
    (conv.inputs[0], 0.01),
    (conv.inputs[1], weights),
    (conv.outputs[0], output),
    (pad.outputs[0], output),
  ):
    quantization = graph.tensors[index].quantization
    quantization.scale = np.full_like(quantization.scale, scale)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    root, _ = tflite.unpack(widen(tflite.pack(root)))
  assert bool(caught) is widened
  for index in (conv.outputs[0], pad.outputs[0]):
    (scale,) = root.subgraphs[0].tensors[index].quantization.scale
    assert scale == np.float32(0.01 if widened else output)


def test_an_ordinary_model_is_left_alone():
  arch, variables = network(SQUEEZED)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    raw = raw_int8(arch, variables)
    assert widen(raw) is raw


def test_the_warning_names_layers_and_advice():
  text = str(NarrowRange(('block01/squeeze', 'block02')))
  assert 'block01/squeeze, block02' in text
  assert 'export.calibration_images' in text
  name = 'jit(<lambda>)/ConvNet/block01/squeeze/max;jit(<lambda>)/ConvNet/x/y'
  assert int8_ranges.layer_name(name) == 'block01/squeeze'
  assert int8_ranges.layer_name('tfl.quantize') == 'tfl.quantize'


# --- units of the input ---


def pixel_and_normalised_models():
  """int8 models of one network: with the normalisation inside, and without."""
  arch, variables = network(SQUEEZED)
  scale, offset = np.full(3, 1 / 60, np.float32), np.full(3, -2.0, np.float32)
  pixels = np.rint(images(16) * 255)
  pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255

  def make(calibration, **inside):
    return export.to_tflite(
      arch, variables, SIZE, precision='int8', calibration=calibration, **inside
    )

  normalised = pixels * scale + offset
  inside = make(pixels, scale_and_offset=(scale, offset))
  return inside, pixels, make(normalised), normalised


def test_an_integer_input_refuses_the_other_unit():
  """Pixels are not normalised numbers, whatever their type; and back."""
  inside, pixels, outside, normalised = pixel_and_normalised_models()
  same = tflite.run(inside, pixels)
  np.testing.assert_array_equal(
    same, tflite.run(inside, pixels.astype(np.uint8))
  )
  # Within some steps of eight bits: the two models are rounded differently.
  np.testing.assert_allclose(
    tflite.run(outside, normalised), same, atol=0.1 * np.ptp(same)
  )
  for wrong in (pixels, pixels.astype(np.uint8)):
    with pytest.raises(ValueError, match=r'normalised images -2 to 2\.25'):
      tflite.run(outside, wrong)
  for wrong in (normalised, pixels / 255, pixels - 128):
    with pytest.raises(ValueError, match='whole numbers, the pixels 0 to 255'):
      tflite.run(inside, wrong)


def test_logits_of_another_input_are_a_warning():
  result = {
    'bytes': 1, 'bytes_fp16': 1, 'bytes_int8': 1, 'agreement_int8': 1.0,
    'int8_error': None, 'int8_guessed_ranges': [], 'max_abs_diff': 1e-6,
    'num_images': 1,
  }  # fmt: skip
  assert len(export.spell_result({**result, 'max_rel_diff': 1e-5}, 'x')) == 1
  lines = export.spell_result({**result, 'max_rel_diff': 0.5}, 'x')
  assert 'WARNING: the float32 scores are off by 50%' in lines[1]


# --- the process --------------------------------------------------------------


def attempt(arch, variables):
  return int8_process.attempt(
    arch,
    variables,
    SIZE,
    scale_and_offset=None,
    calibration=images(16),
    batch_size=1,
    images=images(3),
  )


def test_the_other_process_gives_the_model_that_this_one_would():
  arch, variables = dead_network('squeeze')
  made = attempt(arch, variables)
  assert made.error == ''
  assert made.guessed == ('block00/squeeze',)
  with pytest.warns(NarrowRange):
    own = export.to_tflite(
      arch, variables, SIZE, precision='int8', calibration=images(16)
    )
  np.testing.assert_array_equal(made.logits, tflite.run(own, images(3)))
  np.testing.assert_array_equal(
    tflite.run(made.model, images(3)), tflite.run(own, images(3))
  )


@pytest.mark.slow
def test_a_model_that_ends_its_process_is_an_error_in_words(monkeypatch):
  """The converter's own model of a dead squeeze, where it may end ours."""
  code = (
    'import pathlib, sys\n'
    'from spnas_jax.export import int8_process, int8_ranges\n'
    'widen = int8_ranges.widen\n'
    'int8_ranges.widen = lambda model: (widen(model), model)[1]\n'
    'int8_process.main(pathlib.Path(sys.argv[1]))\n'
  )
  monkeypatch.setattr(int8_process, '_COMMAND', ('-c', code))
  made = attempt(*dead_network('squeeze'))
  assert made.model is made.logits is None
  assert 'XNNPACK' in made.error or 'SIGABRT' in made.error
  assert made.guessed == ('block00/squeeze',)


@pytest.mark.parametrize(
  ('code', 'said'),
  [
    ('import os; os.abort()', 'native code ended its process with SIGABRT'),
    ('import os; os.kill(os.getpid(), 9)', 'SIGKILL'),
    ('raise MemoryError("too much")', 'MemoryError: too much'),
    ('import sys; sys.exit(3)', 'it printed nothing'),
    ('import time; time.sleep(60)', 'no answer in 1 s'),
    ('pass', 'left no result'),
  ],
)
def test_whatever_it_does_ends_only_itself(monkeypatch, code, said):
  if 'sleep' in code:
    monkeypatch.setattr(int8_process, '_SECONDS', 1.0)
    monkeypatch.setattr(int8_process, '_SECONDS_PER_IMAGE', 0.0)
  monkeypatch.setattr(int8_process, '_COMMAND', ('-c', code))
  made = attempt(*network())
  assert made.model is None
  assert said in made.error
  assert '\n' not in made.error


def test_a_python_that_is_not_there_is_an_error_in_words(monkeypatch):
  monkeypatch.setattr(sys, 'executable', '/no/python')
  assert 'cannot be started' in attempt(*network()).error


def test_a_full_disk_is_an_error_in_words(monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(np, 'save', full)
  assert 'No space left on device' in attempt(*network()).error


# --- the stages ---------------------------------------------------------------


@pytest.fixture(scope='module')
def exported_without_int8(tmp_path_factory):
  """(config, workdir, result of export) where int8 was not to be had."""
  c = tiny.config()
  c.dataset.image_size = SIZE
  c.export.update(calibration_images=4, check_images=8)
  c.profile.update(rounds=1, runs_per_round=1, warmup_runs=0)
  arch, variables = network('stem_k3_s2_i1_c8 ir_r1_k3_s2_e3_c8 fc_c10')
  workdir = Workdir(tmp_path_factory.mktemp('exported'))
  workdir.write('model_int8.tflite', 'of another network')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export, 'trained_hash', lambda workdir: 'abc')
    patch.setattr(
      export, 'load_trained', lambda config, workdir: (arch, variables)
    )
    crash = ('-c', 'import os; os.abort()')
    patch.setattr(int8_process, '_COMMAND', crash)
    return c, workdir, export.run(c, workdir)


def test_export_ends_well_without_int8(exported_without_int8):
  _, workdir, result = exported_without_int8
  assert 'SIGABRT' in result['int8_error']
  for key in ('bytes_int8', 'agreement_int8', 'top1_int8'):
    assert result[key] is None
  assert result['max_abs_diff'] < 1e-4
  assert result['agreement_fp16'] > 0.9
  folder = pathlib.Path(workdir.path)
  assert not (folder / 'model_int8.tflite').exists()
  sidecar = json.loads((folder / 'model.json').read_text())
  assert list(sidecar['files']) == ['model.tflite', 'model_fp16.tflite']
  for name, facts in sidecar['files'].items():
    assert (folder / name).stat().st_size == facts['bytes']
  # JSON's null, and nothing that JSON does not have.
  assert workdir.results()['export'] == json.loads(json.dumps(result))


def test_later_stages_do_without_int8(exported_without_int8, monkeypatch):
  c, workdir, _ = exported_without_int8
  device = FakeDevice()
  fake_device.install(monkeypatch, device)
  result = profile.run(c, workdir)
  assert result['median_ms'] > 0
  assert result['median_ms_int8'] is result['spread_ms_int8'] is None
  assert 'model_int8.tflite' not in device.taken
  report.run(c, workdir)
  page = (workdir / 'report/index.html').read_text()
  assert 'There is no int8 model: native code ended' in page
