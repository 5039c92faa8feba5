"""A small AdaConv on the example images: something to see within minutes on a laptop.

    python train.py --config configs/quickstart.py --workdir runs/first

It learns the eight styles of `examples/style` only, at low resolution; it is a first look, not a
model to keep.
"""

from ml_collections import ConfigDict

from configs import adaconv


def get_config() -> ConfigDict:
  """Returns AdaConv's config, small, and with the example images and the packaged VGG-16."""
  config = adaconv.get_config().unlock()
  config.batch_size = 4
  config.num_steps = 300
  config.reconstruct_steps = 100
  config.model.vgg = "vgg16"
  config.model.settings.update({"style_dim": 64, "encoder_width": 128, "style_size": 128})
  config.data.content = "examples/content"
  config.data.style = "examples/style"
  config.data.min_size = 128
  config.data.heldout = 2
  config.data.content_resize = 160
  config.data.content_crop = 96
  config.data.style_resize = 160
  config.data.style_crop = 128
  config.data.num_workers = 0
  config.loss.style_ramp_steps = 50
  config.loss.pixel_weight = 500.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 20
  config.optimizer.decay = "cosine"
  config.log_every_steps = 10
  config.sample_every_steps = 100
  config.sample_size = 192
  config.checkpoint_every_steps = 100
  return config.lock()
