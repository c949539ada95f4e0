"""What TensorBoard's own reader finds in the event files of a run."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_run
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)
from tensorboard.plugins.hparams import plugin_data_pb2

from spnas_jax.config.spaces import make_space
from spnas_jax.networks.space import Stage
from spnas_jax.search.search_events import (
  by_kind,
  kernel_image,
  paths_drawn,
  worths_drawn,
)


def read(folder) -> EventAccumulator:
  found = EventAccumulator(str(folder), {'tensors': 0})
  found.Reload()
  return found


@pytest.fixture(scope='module')
def searched():
  return read(tiny_run.finished() / 'search/events')


def tags(found, plugin) -> set[str]:
  return set(found.PluginTagToContent(plugin))


def last(found, tag):
  return tf.make_ndarray(found.Tensors(tag)[-1].tensor_proto)


def test_curves_are_of_every_logged_step(searched):
  assert {'cross_entropy', 'lambda', 'images_per_second'} <= tags(
    searched, 'scalars'
  )
  steps = [event.step for event in searched.Tensors('cross_entropy')]
  assert steps == [4, 8, 12, 16]


def test_gates_are_histograms_by_kind(searched):
  """From the end of the warm-up on, 4 steps. Every gate is in one of them. What
  decisions were worth is known at the end."""
  names = {
    f'{what}/{kind}'
    for what in ('threshold', 'probability')
    for kind in ('kernel', 'expansion', 'skip')
  }
  worths = {name for name in tags(searched, 'histograms') if 'worth/' in name}
  assert worths == {f'worth/{kind}' for kind in ('kernel', 'expansion', 'skip')}
  assert tags(searched, 'histograms') - worths == names
  gates = make_space(tiny_run.config()).gates
  counts = {}
  for name in names:
    assert [event.step for event in searched.Tensors(name)] == [8, 12, 16]
    buckets = last(searched, name)  # [n, 3]: left, right, count.
    counts[name] = buckets[:, 2].sum()
    if name.startswith('probability'):
      assert buckets[0, 0] >= 0 and buckets[-1, 1] <= 1
  total = sum(n for name, n in counts.items() if name.startswith('threshold'))
  assert total == len(gates)
  skips = sum(gate.kind == 'keep' for gate in gates)
  assert counts['probability/skip'] == skips > 0


def test_every_layer_has_a_picture(searched):
  names = {f'superkernel/layer{i:02d}' for i in range(4)}
  assert tags(searched, 'images') == names
  arrays = np.load(tiny_run.finished() / 'search/supernet.npz')
  for i, name in enumerate(sorted(names)):
    width, height, png = last(searched, name)
    assert (width, height) == (b'120', b'120')
    pixels = tf.io.decode_png(png).numpy()
    assert pixels.shape == (120, 120, 1)
    kernel = arrays[f'layer{i:02d}/kernel']
    strength = np.abs(kernel).mean(axis=(2, 3))
    # The middle of each enlarged weight; a shade is one part in 255.
    np.testing.assert_allclose(
      pixels[12::24, 12::24, 0], 255 * strength / strength.max(), atol=0.51
    )


def session(found) -> dict:
  """Settings of a run as the plugin hparams keeps them."""
  content = found.SummaryMetadata('_hparams_/session_start_info')
  data = plugin_data_pb2.HParamsPluginData.FromString(
    content.plugin_data.content
  )
  return {
    key: getattr(value, value.WhichOneof('kind'))
    for key, value in data.session_start_info.hparams.items()
  }


def test_a_search_is_a_row_of_the_table_of_runs(searched):
  row, config = session(searched), tiny_run.config()
  assert row['search.epochs'] == config.search.epochs
  assert row['search.method'] == 'gradient'
  assert row['search.target_fraction'] == 0.5
  assert 'search.target_ms' not in row  # It was not set.
  result = tiny_run.results(tiny_run.finished())['search']
  for key in ('target_ms', 'predicted_ms', 'supernet_top1'):
    assert last(searched, f'final/{key}') == np.float32(result[key])


def test_a_training_ends_with_target_prediction_and_accuracy():
  """The last two are of other stages, and in the same row."""
  found = read(tiny_run.finished() / 'train/events')
  assert session(found)['train.optimizer'] == 'rmsprop'
  results = tiny_run.results(tiny_run.finished())
  for stage, key in (
    ('search', 'target_ms'),
    ('search', 'predicted_ms'),
    ('evaluate', 'top1'),
  ):
    assert last(found, f'final/{key}') == np.float32(results[stage][key])
  with pytest.raises(KeyError):  # A training has no gates to draw.
    tags(found, 'images')


def test_every_compared_key_exists():
  """A misspelt one would cost the row, silently but for a line."""
  from spnas_jax.training.outcome import COMPARED, _compared

  for stage in COMPARED:
    assert _compared(tiny_run.config(), stage)['seed'] == 0


# --- what is drawn ------------------------------------------------------------


def test_gates_are_sorted_by_kind():
  space = tiny.space(squeeze_ratios=(0.0, 0.25))
  values = np.arange(len(space.gates), dtype=float)
  found = by_kind('worth', space.gates, values)
  assert set(found) == {
    f'worth/{kind}' for kind in ('kernel', 'expansion', 'squeeze', 'skip')
  }
  assert sorted(np.concatenate(list(found.values()))) == list(values)
  for position, gate in enumerate(space.gates):
    kind = 'skip' if gate.kind == 'keep' else gate.kind
    assert position in found[f'worth/{kind}']


@pytest.mark.parametrize('size', [1, 3, 5, 7])
def test_a_kernel_is_drawn_from_black_to_white(size):
  kernel = np.zeros((size, size, 1, 2), np.float32)
  assert not kernel_image(kernel).any()  # A kernel of zeros divides by none.
  kernel[0, -1] = [[1.0, -3.0]]
  image = kernel_image(kernel)
  assert image.dtype == np.uint8 and image.shape[2] == 1
  assert 114 < len(image) == image.shape[1] <= 120
  assert image[0, -1] == 255
  assert (image == 255).mean() == pytest.approx(1 / size**2)


class State:
  """Of a multi-path search, as far as it is looked at."""

  def __init__(self, path_logits):
    self.path_logits = path_logits


def test_paths_of_a_layer_are_probabilities():
  space = tiny.space(stages=(Stage(8, 2, 2, (3, 5), (2, 4)),))
  count = sum(len(layer.choices) + layer.skippable for layer in space.layers)
  drawn = paths_drawn(space, State(np.zeros(count, np.float32)))
  # Alike in each layer; only the second may be skipped.
  np.testing.assert_allclose(drawn.histograms['probability/skip'], [1 / 5])
  np.testing.assert_allclose(
    drawn.histograms['probability/path'], [1 / 4] * 4 + [1 / 5] * 4
  )


def test_worths_are_drawn_by_kind():
  space = tiny.space()
  rows = [{'worth': 0.5}] * len(space.gates)
  drawn = worths_drawn(space, {'decisions': rows})
  assert sum(len(v) for v in drawn.histograms.values()) == len(rows)
