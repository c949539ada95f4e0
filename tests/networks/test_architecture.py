"""Architecture: round trips, counts against a second derivation, refusals."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.core.errors import UserError
from spnas_jax.networks.architecture import (
  Architecture,
  Block,
  block_input_sizes,
  num_macs,
  num_params,
)

TINY = 'stem_k3_s2_i3_c8 ds_r1_k3_s1_c8 ir_r2_k5_s2_e3_c16 head_c32 fc_c10'


@st.composite
def architectures(draw):
  """Valid networks with every operation, squeeze, groups and lost shortcuts."""
  channels = stem = draw(st.integers(1, 6)) * 4
  blocks = []
  for _ in range(draw(st.integers(1, 7))):
    op = draw(st.sampled_from(('ir', 'ds', 'dsa')))
    stride = draw(st.sampled_from((1, 2)))
    # Equal widths often, so that shortcuts and repeats occur.
    out = draw(st.sampled_from((channels, channels, 4, 12, 20)))
    can_skip = stride == 1 and channels == out
    block = Block(
      op=op,
      kernel=draw(st.sampled_from((1, 3, 5, 7))),
      stride=stride,
      in_channels=channels,
      out_channels=out,
      expansion=draw(st.integers(1, 6)) if op == 'ir' else 1,
      squeeze_ratio=draw(st.sampled_from((0.0, 0.25, 1 / 3, 1e-5, 1.0))),
      residual=can_skip and draw(st.booleans()),
      groups=draw(st.sampled_from((1, 2, 4))),
    )
    blocks += [block] * (draw(st.integers(1, 3)) if can_skip else 1)
    channels = out
  return Architecture(
    blocks=tuple(blocks),
    stem_channels=stem,
    head_channels=draw(st.sampled_from((0, 16))),
    num_classes=draw(st.integers(1, 20)),
    input_channels=draw(st.integers(1, 4)),
    stem_kernel=draw(st.sampled_from((1, 3, 5))),
    stem_stride=draw(st.sampled_from((1, 2))),
    activation=draw(st.sampled_from(('relu', 'relu6'))),
    batch_norm_momentum=draw(st.floats(0, 1, exclude_max=True)),
    batch_norm_epsilon=draw(st.floats(1e-9, 1)),
    padding=draw(st.sampled_from(('same', 'symmetric'))),
    provenance=draw(st.dictionaries(st.text(), st.integers() | st.text())),
  )


def style_of(arch):
  """What the one-line form leaves out."""
  return {
    'activation': arch.activation,
    'batch_norm_momentum': arch.batch_norm_momentum,
    'batch_norm_epsilon': arch.batch_norm_epsilon,
    'padding': arch.padding,
  }


@settings(max_examples=150, deadline=None, derandomize=True)
@given(architectures())
def test_round_trips_are_exact(arch):
  again = Architecture.from_json(arch.to_json())
  assert again == arch
  assert again.provenance == arch.provenance
  line = arch.to_string()
  assert '\n' not in line
  parsed = Architecture.from_string(line, **style_of(arch))
  assert parsed == arch
  assert parsed.to_string() == line


@settings(max_examples=100, deadline=None, derandomize=True)
@given(architectures(), st.integers(1, 70))
def test_counts_equal_a_layer_by_layer_derivation(arch, image_size):
  """Every convolution as (kernel, in, out, groups, side), counted naively."""
  side = (image_size + arch.stem_stride - 1) // arch.stem_stride
  width = arch.stem_channels
  convolutions = [(arch.stem_kernel, arch.input_channels, width, 1, side)]
  norms, biases, sides = [width], [], [side]
  for block in arch.blocks:
    middle = block.in_channels * block.expansion
    if block.op == 'ir':
      convolutions.append((1, block.in_channels, middle, block.groups, side))
      norms.append(middle)
    side = (side + block.stride - 1) // block.stride
    sides.append(side)
    convolutions.append((block.kernel, middle, middle, middle, side))
    norms.append(middle)
    if block.squeeze_ratio > 0:
      squeeze = max(int(block.squeeze_ratio * block.in_channels), 1)
      convolutions += [(1, middle, squeeze, 1, 1), (1, squeeze, middle, 1, 1)]
      biases += [squeeze, middle]
    convolutions.append((1, middle, block.out_channels, block.groups, side))
    norms.append(block.out_channels)
    width = block.out_channels
  if arch.head_channels:
    convolutions.append((1, width, arch.head_channels, 1, side))
    norms.append(arch.head_channels)
    width = arch.head_channels
  weights = [k * k * (i // g) * o for k, i, o, g, _ in convolutions]
  classifier = width * arch.num_classes
  assert arch.feature_channels == width
  assert block_input_sizes(arch, image_size) == tuple(sides)
  assert num_params(arch) == (
    sum(weights) + 2 * sum(norms) + sum(biases) + classifier + arch.num_classes
  )
  assert num_macs(arch, image_size) == classifier + sum(
    weight * convolution[-1] ** 2
    for weight, convolution in zip(weights, convolutions, strict=True)
  )


def test_string_folds_repeats_and_reads_separators():
  arch = Architecture.from_string(TINY)
  assert arch.to_string() == TINY
  assert [b.stride for b in arch.blocks] == [1, 2, 1]
  assert [b.residual for b in arch.blocks] == [True, False, True]
  assert Architecture.from_string(TINY.replace(' ', ', ')) == arch
  assert Architecture.from_string(TINY.replace(' ', ' | ')) == arch


def test_string_defaults_are_the_usual_ones():
  short = Architecture.from_string('stem_c8 ir_k3_c8 fc_c10')
  long = 'stem_k3_s2_i3_c8 ir_r1_k3_s1_e1_c8 fc_c10'
  assert short == Architecture.from_string(long)


def test_noskip_removes_a_shortcut_and_skip_gives_dsa_one():
  base = 'stem_k3_s2_i3_c8 {} fc_c10'
  for block, residual in (
    ('ir_r1_k3_s1_e3_c8', True),
    ('ir_r1_k3_s1_e3_c8_noskip', False),
    ('dsa_r1_k3_s1_c8', False),
    ('dsa_r1_k3_s1_c8_skip', True),
  ):
    arch = Architecture.from_string(base.format(block))
    assert arch.blocks[0].residual is residual
    assert arch.to_string() == base.format(block)


def test_squeeze_width_is_of_the_block_input():
  block = Block('ir', 3, 1, 24, 40, expansion=3, squeeze_ratio=0.25)
  assert (block.mid_channels, block.squeeze_channels) == (72, 6)
  assert Block('ir', 3, 1, 2, 4, squeeze_ratio=0.25).squeeze_channels == 1
  assert Block('ir', 3, 1, 24, 40).squeeze_channels == 0


def test_provenance_is_kept_but_not_compared():
  arch = Architecture.from_string(TINY)
  other = arch.replace(provenance={'config': 'abc', 'predicted_ms': 1.5})
  assert arch == other
  assert hash(arch) == hash(other)
  again = Architecture.from_json(other.to_json())
  assert again.provenance == {'config': 'abc', 'predicted_ms': 1.5}


@pytest.mark.parametrize(
  ('field', 'value', 'allowed'),
  [
    ('input_channels', 0, 'a whole number from 1'),
    ('stem_channels', -8, 'a whole number from 1'),
    ('num_classes', 0, 'a whole number from 1'),
    ('stem_kernel', 2, '1, 3, 5, 7'),
    ('stem_kernel', -1, '1, 3, 5, 7'),
    ('stem_stride', 3, '1, 2'),
    ('head_channels', -1, 'a whole number from 0'),
    ('activation', 'swish', 'relu, relu6'),
    ('padding', 'valid', 'same, symmetric'),
    ('batch_norm_momentum', 1.0, '0 to below 1'),
    ('batch_norm_momentum', float('nan'), '0 to below 1'),
    ('batch_norm_epsilon', 0.0, '1e-12 to 1'),
    ('batch_norm_epsilon', float('inf'), '1e-12 to 1'),
    ('provenance', None, 'an object'),
    ('blocks', (), 'at least one block'),
  ],
)
def test_a_wrong_field_is_named_with_value_and_allowed(field, value, allowed):
  arch = Architecture.from_string(TINY)
  with pytest.raises(UserError) as error:
    arch.replace(**{field: value})
  assert_names(error, field, repr(value), allowed)


@pytest.mark.parametrize(
  ('index', 'field', 'value', 'allowed'),
  [
    (0, 'op', 'conv', 'ir, ds, dsa'),
    (1, 'kernel', 4, '1, 3, 5, 7'),
    (1, 'kernel', -3, '1, 3, 5, 7'),
    (1, 'stride', 0, '1, 2'),
    (1, 'in_channels', 12, '8, the output of the layer before'),
    (2, 'out_channels', 0, 'a whole number from 1'),
    (2, 'expansion', 0, 'a whole number from 1'),
    (0, 'expansion', 6, '1 for ds and dsa blocks'),
    (2, 'squeeze_ratio', 1.5, '0 to 1'),
    (2, 'squeeze_ratio', float('nan'), '0 to 1'),
    (2, 'groups', 0, 'a whole number from 1'),
    (2, 'groups', 3, 'a divisor of both channel counts'),
    (1, 'residual', True, 'only at stride 1 with equal channels'),
  ],
)
def test_a_wrong_block_field_is_named_with_its_place(
  index, field, value, allowed
):
  arch = Architecture.from_string(TINY)
  blocks = list(arch.blocks)
  blocks[index] = dataclasses.replace(blocks[index], **{field: value})
  with pytest.raises(UserError) as error:
    arch.replace(blocks=tuple(blocks))
  assert_names(error, f'blocks[{index}].{field}', repr(value), allowed)


def _set(**changes):
  return lambda fields: fields.update(changes)


def _set_block(**changes):
  return lambda fields: fields['blocks'][1].update(changes)


@pytest.mark.parametrize(
  ('edit', 'words'),
  [
    (_set(schema=2), ('schema', '2', '1')),
    (lambda f: f.pop('schema'), ('schema', 'None', '1')),
    (_set(width=1.0), ("'width'", 'allowed', 'stem_channels')),
    (lambda f: f.pop('stem_channels'), ('missing', 'stem_channels')),
    (_set(stem_channels='8'), ('stem_channels', "'8'", 'int')),
    (_set(stem_channels=8.0), ('stem_channels', '8.0', 'int')),
    (_set(stem_channels=True), ('stem_channels', 'True', 'int')),
    (_set(activation='gelu'), ('activation', "'gelu'", 'relu, relu6')),
    (_set(provenance=[]), ('provenance', '[]', 'object')),
    (_set(blocks={}), ('blocks', 'list')),
    (_set(blocks=[3]), ('blocks[0]', '3', 'object')),
    (_set_block(dilation=2), ('blocks[1]', "'dilation'", 'kernel')),
    (_set_block(residual=1), ('blocks[1]', 'residual', '1', 'bool')),
    (_set_block(kernel=4), ('blocks[1].kernel', '4', '1, 3, 5, 7')),
    (
      lambda f: f['blocks'][1].pop('kernel'),
      ('blocks[1]', 'missing', 'kernel'),
    ),
  ],
)
def test_wrong_json_is_refused_by_field(edit, words):
  fields = json.loads(Architecture.from_string(TINY).to_json())
  edit(fields)
  with pytest.raises(UserError) as error:
    Architecture.from_json(json.dumps(fields))
  assert_names(error, *words)


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '"ir"'])
def test_what_is_not_a_json_object_is_refused(text):
  with pytest.raises(UserError, match='JSON'):
    Architecture.from_json(text)


def test_whole_numbers_are_read_as_floats_where_floats_belong():
  fields = json.loads(Architecture.from_string(TINY).to_json())
  fields['batch_norm_momentum'] = 0
  arch = Architecture.from_json(json.dumps(fields))
  assert isinstance(arch.batch_norm_momentum, float)


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('', ('stem_k3_s2_i3_c32', 'absent')),
    ('ir_k3_c8 fc_c10', ('stem_k3_s2_i3_c32', 'absent')),
    ('stem_c8 ir_k3_c8', ('num_classes', '0', 'from 1')),
    ('stem_c8 fc_c10', ('blocks', 'at least one')),
    ('stem_c8 conv_k3_c8 fc_c10', ("'conv'", 'conv_k3_c8', 'ir, ds, dsa')),
    ('stem_c8 ir_k3_x8 fc_c10', ("'x8'", 'ir_k3_x8', 'se')),
    ('stem_c8 ir_k3_k5_c8 fc_c10', ("'k5'", 'once')),
    ('stem_c8 ir_k3 fc_c10', ("'ir_k3'", 'c', 'whole number')),
    ('stem_c8 ir_k3_c1.5 fc_c10', ('ir_k3_c1.5', 'c', 'whole number')),
    ('stem_c8 ir_r0_k3_c8 fc_c10', ('ir_r0_k3_c8', 'r is 0', 'from 1 to 500')),
    ('stem_c8 ir_k3_c8_se1.2.3 fc_c10', ('se1.2.3', 'se needs a number')),
    ('stem_c8 ir_k4_c8 fc_c10', ('blocks[0].kernel', '4', '1, 3, 5, 7')),
    ('stem_c8 ir_k3_c16_skip fc_c10', ('residual', 'equal channels')),
    ('stem_c8 ds_k3_e6_c8 fc_c10', ('expansion', '6', 'ds and dsa')),
    ('stem_c8 ir_k3_c8 head_k3_c8 fc_c10', ("'k3'", 'head_k3_c8', 'c')),
    ('stem_c8 ir_k3_c8 fc_c10 ir_k3_c8', ('out of place', 'one stem')),
    ('stem_c8 stem_c8 ir_k3_c8 fc_c10', ('out of place', 'one stem')),
    ('stem_c8 ir_k3_c8 fc_c10 head_c8', ("'head_c8'", 'out of place')),
  ],
)
def test_wrong_strings_are_refused_by_word(text, words):
  with pytest.raises(UserError) as error:
    Architecture.from_string(text)
  assert_names(error, *words)


def assert_names(error, *words):
  """The message is one line and holds every word."""
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message
