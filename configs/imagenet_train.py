"""A network on ImageNet with MnasNet's recipe, as the paper trains its own.

  python main.py --stage=train --config=configs/imagenet_train.py \
    --workdir=gs://BUCKET/spnas --config.dataset.data_dir=gs://BUCKET/tfds
  python main.py --stage=evaluate ... (the same); then export, profile

Trains the network that the paper found; any other zoo network with
--config.architecture=mnasnet_b1, the path of an architecture.json, or
--config.architecture='' for the one that configs/imagenet_search.py left in the
workdir.

Extras of later recipes are off: --config.train.mixup=0.2,
--config.train.optimizer=adamw, --config.train.schedule=cosine.

Needs: imagenet2012 prepared by tfds (`tfds build imagenet2012`, which asks for
the archives, 144 GB downloaded by hand).
Hardware: batch 1024, meant for 8 TPU cores (128 images each; batch norm is per
core as in the reference). On other machines lower `train.batch_size`; the
learning rate is per 256 images and follows.
Expected: 437,850 steps. Paper: 74.96% top-1, 92.21% top-5 for Single-Path NAS;
on the same schedule MobileNetV2 73.59, MnasNet-B1 74.61, ProxylessNAS-R 74.65,
FBNet-B 73.70. Others who trained the same network: timm 74.09, imgclsmob 74.90.
Not run here on ImageNet. The tests check the number of steps and the schedule.
"""

from ml_collections import ConfigDict

from spnas_jax.config.files import load_config


def get_config() -> ConfigDict:
  config = load_config('imagenet_search')
  config.architecture = 'single_path_nas'
  config.train.checkpoint_epochs = 5.0
  return config
