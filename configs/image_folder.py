"""Your own pictures: a folder and milliseconds in, a file for an app out.

  python main.py --config=configs/image_folder.py --workdir=runs/photos \
    --config.dataset.folder=photos

The folder has one folder of pictures per class (photos/cat/1.jpg, ...), or
train, val and test with such folders in them, or is a table: a .csv file with
the columns filename, label and maybe split. JPEG, PNG, BMP, GIF and WebP of any
size and colour.

First this machine is timed (or, with --config.device=adb, a phone), then comes
the search, training, scores on the test images, and a labelled .tflite file in
three precisions. It aims half-way between the fastest and the slowest network,
whose milliseconds it prints; --config.search.target_ms aims elsewhere between
them. Afterwards, for a photo that is new:

  python main.py --stage=predict --config=configs/image_folder.py \
    --workdir=runs/photos --config.predict.images=new.jpg

The keys set to `placeholder` below are chosen by the number and size of the
pictures. The rule is in spnas_jax/data/folder_settings.py, and the run prints
what it chose. Set any of them to choose yourself.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from spnas_jax.config.defaults import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.latency_table = 'measure'

  config.dataset.name = ''
  config.dataset.max_unreadable = 0.02
  config.dataset.image_size = placeholder(int)
  config.dataset.augment = placeholder(str)
  config.dataset.cache = placeholder(bool)

  # Twelve layers, a quarter of ImageNet's width.
  config.space.stem_stride = placeholder(int)
  config.space.stem_channels = 16
  config.space.channels = (16, 24, 40, 64)
  config.space.layers = (3, 3, 3, 3)
  config.space.strides = (2, 2, 2, 1)
  config.space.head_channels = 320

  config.train.dropout = 0.2
  config.train.mixup = placeholder(float)
  for recipe in (config.search, config.train):
    recipe.epochs = placeholder(float)
    recipe.batch_size = placeholder(int)
    recipe.checkpoint_epochs = placeholder(float)
  config.search.warmup_epochs = placeholder(float)
  config.evaluate.batch_size = placeholder(int)
  config.export.output = 'probabilities'
  return config
