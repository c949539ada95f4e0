"""Weights of PyTorch libraries on our networks; tensors made up, no PyTorch.

That the logits agree is measured by tests/benchmarks/parity_torch.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.torch_weights import from_torch
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture, num_params
from spnas_jax.stages import evaluate, train
from spnas_jax.training.trained import load_trained

TINY = (
  'stem_k3_s2_i3_c8 ds_r1_k3_s1_c8 ir_r2_k5_s2_e3_c16_se0.25 '
  'ir_r1_k3_s1_e2_c16 head_c24 fc_c5'
)
PLAIN = TINY.replace('_se0.25', '')  # torchvision has no squeeze.
HEADLESS = 'stem_k3_s2_i1_c8 dsa_r1_k3_s1_c16 dsa_r2_k3_s2_c32 fc_c5'
GROUPED = 'stem_k3_s2_i3_c8 ir_r2_k5_s2_e1_c16_g2 head_c24 fc_c5'


class Maker:
  """A state dict in which no number occurs twice."""

  def __init__(self):
    self.tensors = {}
    self.count = 0

  def put(self, name, *shape):
    size = int(np.prod(shape))
    values = np.arange(self.count, self.count + size, dtype=np.float32)
    self.count += size
    self.tensors[name] = values.reshape(shape)

  def conv(self, conv, norm, *shape):
    self.put(f'{conv}.weight', *shape)
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      self.put(f'{norm}.{leaf}', shape[0])
    self.tensors[f'{norm}.num_batches_tracked'] = np.int64(7)

  def dense(self, name, outputs, inputs):
    self.put(f'{name}.weight', outputs, inputs)
    self.put(f'{name}.bias', outputs)


def timm(arch):
  """timm's names: blocks.STAGE.BLOCK, a new stage where a block differs."""
  made = Maker()
  made.conv('conv_stem', 'bn1', arch.stem_channels, arch.input_channels, 3, 3)
  stage, place, width = 0, 0, None
  for b in arch.blocks:
    if width is not None:
      same = b.stride == 1 and b.in_channels == b.out_channels
      stage, place = (stage, place + 1) if same else (stage + 1, 0)
    width = b.out_channels
    at = f'blocks.{stage}.{place}'
    mid, k, g = b.mid_channels, b.kernel, b.groups
    if b.op == 'ir':
      made.conv(f'{at}.conv_pw', f'{at}.bn1', mid, b.in_channels // g, 1, 1)
      made.conv(f'{at}.conv_dw', f'{at}.bn2', mid, 1, k, k)
      if b.squeeze_channels:
        made.put(f'{at}.se.conv_reduce.weight', b.squeeze_channels, mid, 1, 1)
        made.put(f'{at}.se.conv_reduce.bias', b.squeeze_channels)
        made.put(f'{at}.se.conv_expand.weight', mid, b.squeeze_channels, 1, 1)
        made.put(f'{at}.se.conv_expand.bias', mid)
      made.conv(f'{at}.conv_pwl', f'{at}.bn3', width, mid // g, 1, 1)
    else:
      made.conv(f'{at}.conv_dw', f'{at}.bn1', mid, 1, k, k)
      made.conv(f'{at}.conv_pw', f'{at}.bn2', width, mid, 1, 1)
  if arch.head_channels:
    made.conv('conv_head', 'bn2', arch.head_channels, width, 1, 1)
  made.dense('classifier', arch.num_classes, arch.feature_channels)
  return made.tensors


def torchvision_mobilenet_v2(arch):
  """features.0 is the stem, the last one the head."""
  made = Maker()
  at = 'features.0'
  made.conv(f'{at}.0', f'{at}.1', arch.stem_channels, 3, 3, 3)
  for i, b in enumerate(arch.blocks, 1):
    at, mid, k = f'features.{i}.conv', b.mid_channels, b.kernel
    first = 0
    if b.op == 'ir':
      made.conv(f'{at}.0.0', f'{at}.0.1', mid, b.in_channels, 1, 1)
      first = 1
    made.conv(f'{at}.{first}.0', f'{at}.{first}.1', mid, 1, k, k)
    project = (f'{at}.{first + 1}', f'{at}.{first + 2}')
    made.conv(*project, b.out_channels, mid, 1, 1)
  at, c = f'features.{len(arch.blocks) + 1}', arch.head_channels
  made.conv(f'{at}.0', f'{at}.1', c, arch.blocks[-1].out_channels, 1, 1)
  made.dense('classifier.1', arch.num_classes, c)
  return made.tensors


def torchvision_mnasnet(arch):
  """layers.0-7 are stem and separable block, layers.8... the stages."""
  made = Maker()
  c = arch.stem_channels
  out = arch.blocks[0].out_channels
  made.conv('layers.0', 'layers.1', c, 3, 3, 3)
  made.conv('layers.3', 'layers.4', c, 1, 3, 3)
  made.conv('layers.6', 'layers.7', out, c, 1, 1)
  stage, place = 7, 0
  for b in arch.blocks[1:]:
    same = b.stride == 1 and b.in_channels == b.out_channels
    stage, place = (stage, place + 1) if same else (stage + 1, 0)
    at, mid, k = f'layers.{stage}.{place}.layers', b.mid_channels, b.kernel
    made.conv(f'{at}.0', f'{at}.1', mid, b.in_channels, 1, 1)
    made.conv(f'{at}.3', f'{at}.4', mid, 1, k, k)
    made.conv(f'{at}.6', f'{at}.7', b.out_channels, mid, 1, 1)
  head = (f'layers.{stage + 1}', f'layers.{stage + 2}')
  made.conv(*head, arch.head_channels, arch.blocks[-1].out_channels, 1, 1)
  made.dense('classifier.1', arch.num_classes, arch.head_channels)
  return made.tensors


CASES = [
  pytest.param(timm, TINY, id='timm'),
  pytest.param(timm, HEADLESS, id='timm-headless'),
  pytest.param(timm, GROUPED, id='timm-grouped'),
  pytest.param(torchvision_mobilenet_v2, PLAIN, id='torchvision-mobilenet'),
  pytest.param(torchvision_mnasnet, PLAIN, id='torchvision-mnasnet'),
]


def shapes_of(arch):
  """Shapes of the network's own variables, without computing any."""
  images = jax.ShapeDtypeStruct((1, 32, 32, arch.input_channels), jnp.float32)
  variables = jax.eval_shape(ConvNet(arch).init, jax.random.key(0), images)
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)


def assert_uses_all_once(arch, state_dict, variables):
  """Same tree as the network's, and every number of the file exactly once."""
  assert shapes_of(arch) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), variables
  )
  given = [v.ravel() for k, v in state_dict.items() if v.ndim]
  used = [leaf.ravel() for leaf in jax.tree.leaves(variables)]
  np.testing.assert_array_equal(
    np.sort(np.concatenate(given)), np.sort(np.concatenate(used))
  )


@pytest.mark.parametrize(('names', 'structure'), CASES)
def test_every_tensor_is_used_exactly_once(names, structure):
  arch = Architecture.from_string(structure)
  state_dict = names(arch)
  assert_uses_all_once(arch, state_dict, from_torch(arch, state_dict))


@pytest.mark.parametrize(
  ('names', 'name'),
  [
    (timm, 'mobilenet_v1'),
    (timm, 'mobilenet_v2'),
    (timm, 'mnasnet_a1'),
    (timm, 'mnasnet_b1'),
    (timm, 'fbnet_c'),
    (timm, 'single_path_nas'),
    (torchvision_mobilenet_v2, 'mobilenet_v2'),
    (torchvision_mnasnet, 'mnasnet_b1'),
  ],
)
def test_published_networks_load_whole(names, name):
  arch = zoo.get(name, style='torch')
  state_dict = names(arch)
  variables = from_torch(arch, state_dict)
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert sum(sizes) == num_params(arch)
  tensors = [k for k in state_dict if not k.endswith('num_batches_tracked')]
  assert len(jax.tree.leaves(variables)) == len(tensors)


def test_tensors_land_where_they_belong():
  arch = Architecture.from_string(TINY)
  tensors = timm(arch)
  variables = from_torch(arch, tensors)
  frame, block = variables['params']['frame'], variables['params']['block01']
  stats = variables['batch_stats']
  pairs = [
    (frame['stem_conv']['kernel'], 'conv_stem.weight'),
    (frame['head_conv']['kernel'], 'conv_head.weight'),
    (block['expand_conv']['kernel'], 'blocks.1.0.conv_pw.weight'),
    (block['depthwise']['kernel'], 'blocks.1.0.conv_dw.weight'),
    (block['project_conv']['kernel'], 'blocks.1.0.conv_pwl.weight'),
    (block['squeeze']['squeeze_kernel'], 'blocks.1.0.se.conv_reduce.weight'),
    (block['squeeze']['excite_kernel'], 'blocks.1.0.se.conv_expand.weight'),
  ]
  for kernel, name in pairs:
    # [h, w, in, out] of [out, in, h, w].
    np.testing.assert_array_equal(
      kernel, np.einsum('oihw->hwio', tensors[name])
    )
  same = [
    (frame['classifier']['kernel'].T, 'classifier.weight'),
    (frame['classifier']['bias'], 'classifier.bias'),
    (frame['stem_bn']['scale'], 'bn1.weight'),
    (frame['head_bn']['bias'], 'bn2.bias'),
    (stats['frame']['stem_bn']['mean'], 'bn1.running_mean'),
    (stats['frame']['head_bn']['var'], 'bn2.running_var'),
    (block['expand_bn']['scale'], 'blocks.1.0.bn1.weight'),
    (block['depthwise_bn']['bias'], 'blocks.1.0.bn2.bias'),
    (stats['block01']['project_bn']['mean'], 'blocks.1.0.bn3.running_mean'),
    (block['squeeze']['squeeze_bias'], 'blocks.1.0.se.conv_reduce.bias'),
    (block['squeeze']['excite_bias'], 'blocks.1.0.se.conv_expand.bias'),
  ]
  for ours, name in same:
    np.testing.assert_array_equal(ours, tensors[name])


def test_loaded_variables_are_copies_and_run():
  arch = Architecture.from_string(TINY, padding='symmetric')
  tensors = timm(arch)
  variables = from_torch(arch, tensors)
  tensors['classifier.bias'][:] = -1
  assert (variables['params']['frame']['classifier']['bias'] >= 0).all()
  logits = ConvNet(arch).apply(variables, jnp.ones((2, 16, 16, 3)))
  assert logits.shape == (2, 5)


def test_blocks_are_ordered_by_number_not_by_name():
  """blocks.0.10 comes behind blocks.0.9, in whatever order the file is."""
  arch = Architecture.from_string('stem_c8 ir_r12_k3_e1_c8 head_c8 fc_c2')
  tensors = timm(arch)
  variables = from_torch(arch, dict(sorted(tensors.items())))
  np.testing.assert_array_equal(
    variables['params']['block10']['expand_bn']['bias'],
    tensors['blocks.0.10.bn1.bias'],
  )


@pytest.mark.parametrize(('names', 'structure'), CASES)
def test_any_missing_tensor_is_named(names, structure):
  arch = Architecture.from_string(structure)
  whole = names(arch)
  for name in whole:
    if name.endswith('num_batches_tracked'):
      continue
    rest = {k: v for k, v in whole.items() if k != name}
    with pytest.raises(UserError) as error:
      from_torch(arch, rest)
    # Without its stem weight a file is not recognised; that names it as well.
    assert name in str(error.value)


@pytest.mark.parametrize(('names', 'structure'), CASES)
def test_any_misshapen_tensor_is_named_with_both_shapes(names, structure):
  arch = Architecture.from_string(structure)
  whole = names(arch)
  for name, tensor in whole.items():
    if name.endswith('num_batches_tracked'):
      continue
    wrong = np.zeros((tensor.shape[0] + 1, *tensor.shape[1:]), np.float32)
    with pytest.raises(UserError) as error:
      from_torch(arch, {**whole, name: wrong})
    for word in (f'{name} has', str(tensor.shape), str(wrong.shape)):
      assert word in str(error.value)


@pytest.mark.parametrize(('names', 'structure'), CASES)
def test_left_over_tensors_are_named(names, structure):
  arch = Architecture.from_string(structure)
  extra = {'auxiliary.weight': np.zeros(3, np.float32)}
  with pytest.raises(UserError, match=r'left over.*auxiliary.weight'):
    from_torch(arch, {**names(arch), **extra})


def test_a_long_list_of_left_overs_is_cut():
  arch = Architecture.from_string(PLAIN)
  extra = {f'extra.{i}': np.zeros(1, np.float32) for i in range(9)}
  with pytest.raises(UserError, match=r'extra\.4 and 4 more'):
    from_torch(arch, {**timm(arch), **extra})


@pytest.mark.parametrize('names', [timm, torchvision_mnasnet])
def test_another_number_of_blocks_is_refused(names):
  arch = Architecture.from_string(PLAIN)
  longer = Architecture.from_string(PLAIN.replace('_r2', '_r3'))
  with pytest.raises(UserError, match='tensors of 1 blocks are missing'):
    from_torch(longer, names(arch))
  with pytest.raises(UserError, match='left over'):
    from_torch(arch, names(longer))


def test_a_squeeze_that_the_architecture_lacks_is_left_over():
  tensors = timm(Architecture.from_string(TINY))
  with pytest.raises(UserError, match=r'left over.*se\.conv_reduce\.weight'):
    from_torch(Architecture.from_string(PLAIN), tensors)


def test_what_is_no_array_is_refused_by_name():
  arch = Architecture.from_string(PLAIN)
  with pytest.raises(UserError, match=r'bn1\.bias is no array'):
    from_torch(arch, {**timm(arch), 'bn1.bias': 'zeros'})


def test_names_of_an_unknown_library_are_refused():
  arch = Architecture.from_string(PLAIN)
  with pytest.raises(UserError, match=r'no stem found.*timm.*torchvision'):
    from_torch(arch, {'first_conv.conv.weight': np.zeros((8, 3, 3, 3))})


# --- by command ---------------------------------------------------------------

DIGITS = 'stem_k3_s1_i1_c8 ir_r1_k3_s2_e2_c8 head_c16 fc_c10'


def test_a_file_of_weights_is_scored_untouched(tmp_path):
  """No step is taken: what is scored and exported are the file's numbers."""
  arch = Architecture.from_string(DIGITS)
  rng = np.random.default_rng(0)
  tensors = {
    name: rng.uniform(0.1, 1, np.shape(tensor)).astype(np.float32)
    for name, tensor in timm(arch).items()
  }
  np.savez(tmp_path / 'weights.npz', **tensors)
  config = tiny_run.config(
    architecture=DIGITS,
    train__init=str(tmp_path / 'weights.npz'),
    train__epochs=0.0,
  )
  workdir = Workdir(tmp_path / 'run')
  assert train.run(config, workdir)['steps'] == 0
  _, variables = load_trained(config, workdir)
  jax.tree.map(
    np.testing.assert_array_equal, variables, from_torch(arch, tensors)
  )
  assert evaluate.run(config, workdir)['num_examples'] == 50
  # Other weights are another run.
  tensors['classifier.bias'] += 1
  np.savez(tmp_path / 'weights.npz', **tensors)
  with pytest.raises(UserError, match='weights_sha256'):
    train.run(config, workdir)


@pytest.mark.parametrize('content', [None, b'no archive'])
def test_a_file_that_is_none(content, tmp_path):
  path = tmp_path / 'weights.npz'
  if content is not None:
    path.write_bytes(content)
  config = tiny_run.config(architecture=DIGITS, train__init=str(path))
  with pytest.raises(UserError, match=r'train\.init .* cannot be read'):
    train.run(config, Workdir(tmp_path / 'run'))
