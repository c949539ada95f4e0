"""Zoo: every published count to the unit, and what the variants must keep."""

import pytest

from spnas_jax.core.errors import UserError
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import (
  Architecture,
  block_input_sizes,
  num_macs,
  num_params,
)

# Parameters and multiply-adds at 224 px with 1000 classes. Parameters are what
# torchvision states (MobileNetV2, MnasNet-B1) or pytorchcv's tests assert
# (MobileNetV1, MnasNet-A1, ProxylessNAS, FBNet-C, Single-Path NAS); FBNet-A and
# -B are the same form of the published structure.
TOTALS = {
  'mobilenet_v1': (4_231_976, 568_740_352),
  'mobilenet_v2': (3_504_872, 300_774_272),
  'mnasnet_a1': (3_887_038, 311_579_072),
  'mnasnet_b1': (4_383_312, 314_415_872),
  'proxylessnas_r_mobile': (4_080_512, 320_427_584),
  'fbnet_a': (4_321_464, 249_921_848),
  'fbnet_b': (4_863_288, 306_210_888),
  'fbnet_c': (5_572_200, 384_960_160),
  'single_path_nas': (4_421_616, 333_467_072),
}

# op kernel stride expansion in out squeeze residual output_side params macs
LAYERS = {
  'mobilenet_v1': """
    dsa 3 1 1 32 64 0 0 112 2528 29302784
    dsa 3 2 1 64 128 0 0 56 9152 27496448
    dsa 3 1 1 128 128 0 0 56 18048 54992896
    dsa 3 2 1 128 256 0 0 28 34688 26593280
    dsa 3 1 1 256 256 0 0 28 68864 53186560
    dsa 3 2 1 256 512 0 0 14 134912 26141696
    dsa 3 1 1 512 512 0 0 14 268800 52283392
    dsa 3 1 1 512 512 0 0 14 268800 52283392
    dsa 3 1 1 512 512 0 0 14 268800 52283392
    dsa 3 1 1 512 512 0 0 14 268800 52283392
    dsa 3 1 1 512 512 0 0 14 268800 52283392
    dsa 3 2 1 512 1024 0 0 7 531968 25915904
    dsa 3 1 1 1024 1024 0 0 7 1061888 51831808
  """,
  'mnasnet_a1': """
    ds 3 1 1 32 16 0 0 112 896 10035200
    ir 3 2 6 16 24 0 0 56 5136 29202432
    ir 3 1 6 24 24 0 1 56 8832 25740288
    ir 5 2 3 24 40 6 0 28 7718 9088992
    ir 5 1 3 40 40 10 1 28 15690 9880800
    ir 5 1 3 40 40 10 1 28 15690 9880800
    ir 3 2 6 40 80 0 0 14 32080 11712960
    ir 3 1 6 80 80 0 1 14 83200 15899520
    ir 3 1 6 80 80 0 1 14 83200 15899520
    ir 3 1 6 80 80 0 1 14 83200 15899520
    ir 3 1 6 80 112 20 0 14 118324 18929280
    ir 3 1 6 112 112 28 1 14 197820 30726528
    ir 5 2 6 112 160 28 0 7 240924 20881056
    ir 5 1 6 160 160 40 1 7 413160 16305600
    ir 5 1 6 160 160 40 1 7 413160 16305600
    ir 3 1 6 160 320 0 0 7 473920 23002560
  """,
  'fbnet_a': """
    ir 3 2 3 16 24 0 0 56 2592 14601216
    ir 3 1 1 24 24 0 1 56 1512 4290048
    ir 5 2 6 24 32 0 0 28 12304 17273088
    ir 3 1 3 32 32 0 1 28 7456 5494272
    ir 5 1 1 32 32 0 1 28 3040 2232832
    ir 3 1 3 32 32 0 1 28 7456 5494272
    ir 5 2 6 32 64 0 0 14 24128 8166144
    ir 5 1 3 64 64 0 1 14 30272 5757696
    ir 5 1 1 64 64 0 1 14 6080 1116416
    ir 5 1 6 64 64 0 1 14 60416 11515392
    ir 3 1 6 64 112 0 0 14 72800 13923840
    ir 5 1 1 112 112 0 1 14 16016 3007424
    ir 5 1 3 112 112 0 1 14 85232 16398144
    ir 3 1 1 112 112 0 1 14 14224 2656192
    ir 5 2 6 112 184 0 0 7 218768 21633696
    ir 5 1 6 184 184 0 1 7 438656 21259728
    ir 5 1 3 184 184 0 1 7 219512 10629864
    ir 5 1 6 184 184 0 1 7 438656 21259728
    ir 5 1 6 184 352 0 0 7 624464 30347856
  """,
  'single_path_nas': """
    ds 3 1 1 32 16 0 0 112 896 10035200
    ir 3 2 3 16 24 0 0 56 2592 14601216
    ir 3 1 3 24 24 0 1 56 4440 12870144
    ir 3 1 3 24 24 0 1 56 4440 12870144
    ir 5 2 6 24 40 0 0 28 13472 18176256
    ir 3 1 3 40 40 0 1 28 11240 8373120
    ir 3 1 3 40 40 0 1 28 11240 8373120
    ir 3 1 3 40 40 0 1 28 11240 8373120
    ir 5 2 6 40 80 0 0 14 35920 12465600
    ir 3 1 3 80 80 0 1 14 41680 7949760
    ir 3 1 3 80 80 0 1 14 41680 7949760
    ir 3 1 3 80 80 0 1 14 41680 7949760
    ir 5 1 6 80 96 0 0 14 98592 18910080
    ir 5 1 3 96 96 0 1 14 63840 12249216
    ir 5 1 3 96 96 0 1 14 63840 12249216
    ir 5 1 3 96 96 0 1 14 63840 12249216
    ir 5 2 6 96 192 0 0 7 182976 16962624
    ir 5 1 6 192 192 0 1 7 476160 23087232
    ir 5 1 6 192 192 0 1 7 476160 23087232
    ir 5 1 6 192 192 0 1 7 476160 23087232
    ir 3 1 6 192 320 0 0 7 605440 29409408
  """,
}

# Stem, head and classifier: (parameters, multiply-adds).
ENDS = {
  'mobilenet_v1': ((928, 10_838_016), (0, 0), (1_025_000, 1_024_000)),
  'mnasnet_a1': (
    (928, 10_838_016),
    (412_160, 20_070_400),
    (1_281_000, 1_280_000),
  ),
  'fbnet_a': (
    (464, 5_419_008),
    (532_416, 25_940_992),
    (1_505_000, 1_504_000),
  ),
  'single_path_nas': (
    (928, 10_838_016),
    (412_160, 20_070_400),
    (1_281_000, 1_280_000),
  ),
}


def test_every_network_has_golden_totals():
  assert set(zoo.names()) == set(TOTALS)


@pytest.mark.parametrize('style', zoo.STYLES)
@pytest.mark.parametrize('name', zoo.names())
def test_totals(name, style):
  arch = zoo.get(name, style)
  assert (num_params(arch), num_macs(arch, 224)) == TOTALS[name]


def trunk_counts(arch, num_blocks):
  """Parameters and MACs of stem and first blocks, without any classifier."""
  arch = arch.replace(
    blocks=arch.blocks[:num_blocks], head_channels=0, num_classes=1
  )
  features = arch.feature_channels
  return num_params(arch) - features - 1, num_macs(arch, 224) - features


@pytest.mark.parametrize('name', LAYERS)
def test_layer_by_layer(name):
  arch = zoo.get(name)
  rows = [line.split() for line in LAYERS[name].strip().splitlines()]
  assert len(arch.blocks) == len(rows)
  sizes = block_input_sizes(arch, 224)
  stem, head, classifier = ENDS[name]
  params, macs = stem
  for i, (block, row) in enumerate(zip(arch.blocks, rows, strict=True)):
    op, *numbers = row
    *structure, side, block_params, block_macs = map(int, numbers)
    assert block.op == op
    assert structure == [
      block.kernel,
      block.stride,
      block.expansion,
      block.in_channels,
      block.out_channels,
      block.squeeze_channels,
      block.residual,
    ]
    assert sizes[i + 1] == side
    params, macs = params + block_params, macs + block_macs
    assert trunk_counts(arch, i + 1) == (params, macs)
  assert TOTALS[name] == (
    params + head[0] + classifier[0],
    macs + head[1] + classifier[1],
  )


@pytest.mark.parametrize('name', zoo.names())
def test_round_trips(name):
  arch = zoo.get(name)
  assert Architecture.from_json(arch.to_json()) == arch
  line = arch.to_string()
  assert Architecture.from_string(line, activation=arch.activation) == arch
  assert arch.provenance == {'source': 'zoo', 'name': name, 'style': 'tf'}


def test_styles_set_padding_and_batch_norm():
  for name in zoo.names():
    arch = zoo.get(name)
    assert arch.padding == 'same'
    assert (arch.batch_norm_momentum, arch.batch_norm_epsilon) == (0.99, 1e-3)
    assert zoo.get(name, 'torch').padding == 'symmetric'
  torch = {
    name: (arch.batch_norm_momentum, arch.batch_norm_epsilon)
    for name in zoo.names()
    for arch in [zoo.get(name, 'torch')]
  }
  assert torch.pop('proxylessnas_r_mobile') == (0.9, 1e-3)
  assert torch.pop('mnasnet_b1') == (0.9997, 1e-5)
  assert set(torch.values()) == {(0.9, 1e-5)}


def test_activations():
  relu6 = {n for n in zoo.names() if zoo.get(n).activation == 'relu6'}
  assert relu6 == {'mobilenet_v1', 'mobilenet_v2', 'proxylessnas_r_mobile'}


@pytest.mark.parametrize('call', [zoo.get, zoo.published])
def test_an_unknown_name_is_refused_with_the_known_ones(call):
  with pytest.raises(UserError) as error:
    call('mobilenet_v9')
  for word in ('mobilenet_v9', *zoo.names()):
    assert word in str(error.value)


def test_chamnet_has_figures_but_no_network():
  (facts,) = zoo.published('chamnet_b')
  assert facts.top1 == 0.738
  assert 'never published' in facts.note
  with pytest.raises(UserError, match=r'chamnet_b.*never published.*allowed'):
    zoo.get('chamnet_b')


def test_an_unknown_style_is_refused_with_the_known_ones():
  with pytest.raises(UserError, match="style is 'keras', allowed: tf, torch"):
    zoo.get('mobilenet_v2', 'keras')


def test_published_figures_are_fractions_with_sources():
  for name in (*zoo.names(), 'chamnet_b'):
    for facts in zoo.published(name):
      assert 0.7 < facts.top1 < 0.77
      assert facts.top5 is None or 0.89 < facts.top5 < 0.93
      assert facts.pixel1_ms is None or 70 < facts.pixel1_ms < 120
      assert facts.source
  paper = zoo.published('single_path_nas')[0]
  assert (paper.top1, paper.top5, paper.pixel1_ms) == (0.7496, 0.9221, 79.48)


@pytest.mark.parametrize(
  ('name', 'multiplier', 'params'),
  [
    # torchvision's num_params of mnasnet0_5, 0_75 and 1_3.
    ('mnasnet_b1', 0.5, 2_218_512),
    ('mnasnet_b1', 0.75, 3_170_208),
    ('mnasnet_b1', 1.3, 6_282_256),
    # Counted on timm 1.0.31: mobilenetv1_125, mobilenetv2_035 and _050,
    # semnasnet_050 and _140.
    ('mobilenet_v1', 1.25, 6_270_840),
    ('mobilenet_v2', 0.35, 1_677_128),
    ('mobilenet_v2', 0.5, 1_968_680),
    ('mnasnet_a1', 0.5, 2_082_006),
    ('mnasnet_a1', 1.4, 6_105_992),
  ],
)
def test_scaled_widths_have_the_published_counts(name, multiplier, params):
  assert num_params(zoo.scale_width(zoo.get(name), multiplier)) == params


def test_widened_head_has_the_published_count():
  arch = zoo.scale_width(zoo.get('mobilenet_v2'), 1.4, widen_head=True)
  assert arch.head_channels == 1792
  assert num_params(arch) == 6_108_776  # timm's mobilenetv2_140
  narrow = zoo.scale_width(zoo.get('mobilenet_v2'), 0.5, widen_head=True)
  assert narrow.head_channels == 1280


@pytest.mark.parametrize('multiplier', [0.1, 0.25, 0.35, 0.6, 1.0, 1.2, 2.0])
@pytest.mark.parametrize('name', zoo.names())
def test_scaled_networks_keep_their_structure(name, multiplier):
  arch = zoo.get(name)
  scaled = zoo.scale_width(arch, multiplier)
  assert scaled.head_channels == arch.head_channels
  for old, new in zip(arch.blocks, scaled.blocks, strict=True):
    assert new.residual == old.residual
    assert new.squeeze_ratio == old.squeeze_ratio
    assert new.out_channels % 8 == 0
    assert new.out_channels >= 0.9 * multiplier * old.out_channels
  if multiplier == 1:
    assert scaled == arch


def test_scaled_squeeze_follows_the_input_width():
  scaled = zoo.scale_width(zoo.get('mnasnet_a1'), 0.5)
  squeeze = [b.squeeze_channels for b in scaled.blocks if b.squeeze_ratio]
  assert squeeze == [4, 6, 6, 10, 14, 14, 20, 20]


def test_a_network_without_a_head_scales_its_features():
  scaled = zoo.scale_width(zoo.get('mobilenet_v1'), 0.5, widen_head=True)
  assert (scaled.head_channels, scaled.feature_channels) == (0, 512)


@pytest.mark.parametrize('multiplier', [0, -1.0, float('nan')])
def test_a_wrong_multiplier_is_refused(multiplier):
  with pytest.raises(UserError, match=r'multiplier is .*, allowed: > 0'):
    zoo.scale_width(zoo.get('mnasnet_a1'), multiplier)


@pytest.mark.parametrize('name', zoo.names())
@pytest.mark.parametrize(
  ('image_size', 'last'),
  [(1, 1), (3, 3), (8, 4), (28, 4), (32, 4), (64, 4), (96, 6), (97, 4)],
)
def test_adapted_networks_end_at_four_pixels_or_more(name, image_size, last):
  arch = zoo.get(name)
  small = zoo.adapt(
    arch, num_classes=10, input_channels=1, image_size=image_size
  )
  assert block_input_sizes(small, image_size)[-1] == last
  assert (small.num_classes, small.input_channels) == (10, 1)
  strides = [small.stem_stride, *(b.stride for b in small.blocks)]
  before = [arch.stem_stride, *(b.stride for b in arch.blocks)]
  changed = [old != new for old, new in zip(before, strides, strict=True)]
  # From the front: behind the first stride that is left, nothing changed.
  first_left = strides.index(2) if 2 in strides else len(strides)
  assert not any(changed[first_left:])


def test_adapting_for_32_pixels_removes_the_first_two_strides():
  arch = zoo.adapt(
    zoo.get('mobilenet_v2'), num_classes=10, input_channels=3, image_size=32
  )
  assert arch.stem_stride == 1
  assert [b.out_channels for b in arch.blocks if b.stride == 2] == [32, 64, 160]
  # Only the classifier is smaller.
  assert num_params(arch) == 3_504_872 - 990 * 1281


def test_adapting_at_full_size_changes_only_the_classifier():
  arch = zoo.get('single_path_nas')
  assert zoo.adapt(
    arch, num_classes=100, input_channels=3, image_size=224
  ) == arch.replace(num_classes=100)


@pytest.mark.parametrize(
  ('field', 'value'),
  [('num_classes', 0), ('input_channels', 0), ('image_size', 0)],
)
def test_adapting_refuses_what_is_not_positive(field, value):
  sizes = {'num_classes': 10, 'input_channels': 3, 'image_size': 32}
  with pytest.raises(UserError, match=f'{field} is 0, allowed: '):
    zoo.adapt(zoo.get('fbnet_c'), **{**sizes, field: value})


def test_listing_has_a_row_for_every_known_name():
  rows = {row['name']: row for row in zoo.listing()}
  assert set(rows) == {*zoo.names(), 'chamnet_b'}
  for name, (params, macs) in TOTALS.items():
    assert (rows[name]['params'], rows[name]['macs']) == (params, macs)
    assert rows[name]['top1'] == zoo.published(name)[0].top1
    assert rows[name]['source']
  chamnet = rows['chamnet_b']
  assert chamnet['params'] is chamnet['macs'] is None
  assert 'never published' in chamnet['note']
