"""A small AdaConv on the example images: a first result within minutes on a laptop.

    python train.py --config configs/quickstart.py --workdir runs/first

It learns only the eight styles in `examples/style`, at low resolution. It is a first look, not a
model to keep.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import EXAMPLES, adaconv


def get_config() -> ConfigDict:
  """Returns AdaConv's config, small, and with the example images and the packaged VGG-16."""
  config: Any = adaconv.get_config().unlock()
  config.batch_size = 4
  config.num_steps = 480
  config.reconstruct_steps = 240
  config.model.vgg = "vgg16"
  config.model.settings.update({"style_dim": 64, "encoder_width": 128, "style_size": 96})
  config.data.content = str(EXAMPLES / "content")
  config.data.style = str(EXAMPLES / "style")
  config.data.min_size = 112
  config.data.heldout_content = 2
  config.data.heldout_style = 0
  config.data.content_resize = 112
  config.data.content_crop = 80
  config.data.style_resize = 128
  config.data.style_crop = 96
  config.data.num_workers = 0
  # With more weight so early, the decoder matches the deep layers' statistics with blotches instead
  # of the content.
  config.loss.style_weight = 3.0
  config.loss.style_layers.update({"relu3_1": 0.3, "relu4_1": 0.1})
  config.loss.style_ramp_steps = 30
  config.loss.pixel_weight = 1000.0
  config.loss.checkerboard_weight = 1000.0
  config.optimizer.learning_rate = 6e-4
  config.optimizer.style_rate = 0.1
  config.optimizer.warmup_steps = 20
  config.optimizer.decay = "cosine"
  config.log_every_steps = 10
  config.sample_every_steps = 80
  config.sample_size = 192
  config.checkpoint_every_steps = 80
  return config.lock()
