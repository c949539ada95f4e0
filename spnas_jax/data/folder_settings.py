"""Settings that suit a data set of one's own, by its size alone."""

from __future__ import annotations

from typing import Any

LEAST_SIDE, MOST_SIDE, SIDE_STEP = 32, 224, 32  # Pixels.
# Training images from which random parts of images are worth the longer
# training that they need, and the pixels that are left to show something.
_INCEPTION_IMAGES, _INCEPTION_SIDE = 10_000, 96
# Training images from which images may be larger than this side.
_LARGE_SIDE_IMAGES, _SMALL_SET_SIDE = 2000, 96
_CACHE_BYTES = 2 * 1024**3
_BATCHES = (8, 128)
_STEPS_OF_AN_EPOCH = 8
_EPOCHS = (30, 200)
_IMAGES_SEEN = 1_000_000
LEAST_STEPS = 300
# Training images below which they are blended, and how much.
_MIXUP_IMAGES, _MIXUP = 1000, 0.2


def settings(
  num_train: int, num_classes: int, median_height: float, median_width: float
) -> dict[str, Any]:
  """Chooses values for configuration keys.

  The rule:

  * `dataset.image_size`: the multiple of 32 pixels that is at most the median
    short side, from 32 to 224, up to 96 below 2,000 training images: more
    pixels would cost time, not show more. Nothing is enlarged beyond 32.
  * `dataset.augment`: 'inception' from 10,000 training images of 96 pixels on;
    'crop_flip' below, where few steps would not make up for images that are
    seen in part.
  * `dataset.cache`: where the training images, resized, take up to 2 GiB and
    are not cropped by 'inception'.
  * `train.batch_size`, `search.batch_size`, `evaluate.batch_size`: the power of
    two that gives at least 8 steps an epoch, from 8 to 128; less where there
    are not even 8 training images.
  * `train.epochs`: a million images seen, from 30 to 200 epochs; more where
    that makes fewer than 300 steps. Up to 1,000 training images that is at most
    3,200 steps.
  * `search.epochs`: half of them, from 300 steps on too, a third of which
    (`search.warmup_epochs`) is warm-up. The more classes an image is told
    apart by, the longer a supernet needs: from 100 classes on it is two thirds
    of `train.epochs`.
  * `train.mixup`: 0.2 below 1,000 training images, each of which is seen often;
    none above (docs/lab/training_log.md has what it brought).
  * `space.stem_stride`: 1 below 64 pixels, else 2.
  * `train.checkpoint_epochs`, `search.checkpoint_epochs`: a tenth of the run,
    at least one epoch.

  Args:
    num_train: training images, at least 1.
    num_classes: classes.
    median_height: of the training images, pixels.
    median_width: of the training images, pixels.

  Returns:
    Flat configuration key -> value.
  """
  short = int(min(median_height, median_width))
  size = short // SIDE_STEP * SIDE_STEP
  most = MOST_SIDE if num_train >= _LARGE_SIDE_IMAGES else _SMALL_SET_SIDE
  size = max(LEAST_SIDE, min(most, size))
  inception = num_train >= _INCEPTION_IMAGES and size >= _INCEPTION_SIDE
  fits = num_train * size**2 * 3 <= _CACHE_BYTES
  batch = _batch_size(num_train)
  steps = num_train // batch
  fewest = -(-LEAST_STEPS // steps)
  low, high = _EPOCHS
  train = max(fewest, low, min(high, round(_IMAGES_SEEN / num_train)))
  share = 2 / 3 if num_classes >= 100 else 1 / 2
  search = max(fewest, round(train * share))
  return {
    'dataset.image_size': size,
    'dataset.augment': 'inception' if inception else 'crop_flip',
    'dataset.cache': fits and not inception,
    'space.stem_stride': 1 if size < 64 else 2,
    'search.batch_size': batch,
    'search.epochs': float(search),
    'search.warmup_epochs': float(round(search / 3)),
    'search.checkpoint_epochs': float(max(1, search // 10)),
    'train.batch_size': batch,
    'train.epochs': float(train),
    'train.mixup': _MIXUP if num_train < _MIXUP_IMAGES else 0.0,
    'train.checkpoint_epochs': float(max(1, train // 10)),
    'evaluate.batch_size': batch,
  }


def _batch_size(num_train: int) -> int:
  """A power of two, never above `num_train`."""
  low, high = _BATCHES
  limit = max(low, min(high, num_train // _STEPS_OF_AN_EPOCH))
  return 1 << (min(limit, num_train).bit_length() - 1)
