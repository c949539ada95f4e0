"""RandAugment: each operation is PIL's, and a seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets


@pytest.fixture(scope='module')
def module():
  from spnas_jax.data import rand_augment

  return rand_augment


@pytest.fixture(scope='module')
def image():
  """A photograph-like image that uses part of the range, [16, 20, 3] uint8."""
  random = np.random.default_rng(0)
  ramp = np.linspace(30, 180, 20)[None, :, None] + np.zeros((16, 1, 3))
  return (ramp + random.normal(0, 15, ramp.shape)).clip(10, 230).astype('uint8')


def apply(operation, image, level, sign=1.0):
  return np.asarray(operation(image.astype(np.float32), level, sign))


@pytest.mark.parametrize(
  ('name', 'level', 'theirs'),
  [
    ('equalize', 0.5, ImageOps.equalize),
    ('auto_contrast', 0.5, ImageOps.autocontrast),
    ('invert', 0.5, ImageOps.invert),
    ('posterize', 0.5, lambda i: ImageOps.posterize(i, 2)),
    ('posterize', 0.0, lambda i: ImageOps.posterize(i, 4)),
    ('solarize', 0.5, lambda i: ImageOps.solarize(i, 128)),
  ],
)
def test_operations_are_those_of_pil(module, image, name, level, theirs):
  """Within one grey level: PIL rounds to whole pixels, we do not."""
  ours = apply(getattr(module, name), image, level)
  expected = np.asarray(theirs(Image.fromarray(image)), np.float32)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1.0)


@pytest.mark.parametrize(
  ('name', 'enhancer'),
  [
    ('color', 'Color'),
    ('contrast', 'Contrast'),
    ('brightness', 'Brightness'),
    ('sharpness', 'Sharpness'),
  ],
)
@pytest.mark.parametrize('sign', [-1.0, 1.0])
def test_blends_are_pils_enhancers(module, image, name, enhancer, sign):
  """At half strength a factor of 1 -+ 0.45; grey levels are rounded by PIL
  twice, first in the other image and then in the blend."""
  from PIL import ImageEnhance

  ours = apply(getattr(module, name), image, 0.5, sign)
  theirs = getattr(ImageEnhance, enhancer)(Image.fromarray(image))
  expected = np.asarray(theirs.enhance(1 + 0.45 * sign), np.float32)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=2.0)


def test_geometry_moves_pixels_where_it_says(module):
  """A translation by whole pixels, a shear and a rotation of a dot."""
  image = np.zeros((21, 21, 1), np.uint8)
  image[10, 10] = 200
  full = 5 / (21 * module.TRANSLATION)  # 5 pixels.
  moved = apply(module.translate_x, image, full)
  assert moved[10, 5, 0] == 200 and (moved[:, -5:] == module.FILL).all()
  moved = apply(module.translate_y, image, full, -1.0)
  assert moved[15, 10, 0] == 200
  assert apply(module.rotate, image, 1.0)[10, 10, 0] == 200
  # Ten rows down at 0.3 px a row.
  assert apply(module.shear_x, image, 1.0)[10, 7, 0] == 200
  assert apply(module.shear_y, image, 1.0)[7, 10, 0] == 200


def test_a_seed_decides_everything(module):
  """The same eagerly and in a pipeline; different seeds differ; the range
  stays that of pixels; grey images work as colour ones."""
  tf = module.tf
  random = np.random.default_rng(0)
  seeds = np.arange(120).reshape(60, 2)
  for channels in (1, 3):
    image = random.integers(0, 256, (24, 24, channels)).astype(np.float32)

    def augment(seed, image=image):
      return module.rand_augment(tf.constant(image), seed, 2, 9.0)

    piped = [
      np.asarray(out)
      for out in tf.data.Dataset.from_tensor_slices(seeds).map(augment)
    ]
    for seed, out in list(zip(seeds, piped, strict=True))[:8]:
      np.testing.assert_allclose(
        augment(tf.constant(seed)), out, rtol=0, atol=1e-3
      )
    # Some change nothing here: a full range has no contrast to stretch.
    assert len({out.tobytes() for out in piped}) > 35
    for out in piped:
      assert out.shape == image.shape
      assert out.min() >= -1e-3 and out.max() <= 255 + 1e-3


def test_wrong_keys_are_refused():
  config = datasets.default_config()
  config.randaugment_operations = 2
  with pytest.raises(UserError, match=r'set dataset\.cache=False'):
    datasets.check(config)
  config.cache = False
  datasets.check(config)
  config.randaugment_magnitude = 11.0
  with pytest.raises(UserError, match='randaugment_magnitude'):
    datasets.check(config)
