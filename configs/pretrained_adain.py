"""The AdaIN that comes with the package: trained in two hours on two CPU cores.

    adaconv train --config pretrained_adain --workdir runs/adain \
      --config.data.content=PHOTOS --config.data.style=PAINTINGS

The lists of held-out images are for the shipped model's data, see `docs/models/adain.md`. With
other data, set `config.data.heldout_content_names` and `config.data.heldout_style_names` to "".

The settings differ from the published ones because the run sees less than a twentieth of the
published number of pairs: it first learns to invert VGG, and the style weight grows over half of
the run.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import FOLDER, adain


def get_config() -> ConfigDict:
  """Returns AdaIN's config for a short run with the packaged VGG-16."""
  config: Any = adain.get_config().unlock()
  config.batch_size = 4  # learned more than 8 from the same number of pairs
  config.num_steps = 15_000
  config.reconstruct_steps = 1_500
  config.model.vgg = "vgg16"
  config.data.heldout_content = 40
  config.data.heldout_style = 40
  config.data.heldout_content_names = str(FOLDER / "heldout_content.txt")
  config.data.heldout_style_names = str(FOLDER / "heldout_style.txt")
  config.data.content_resize = 224
  config.data.content_crop = 128
  config.data.style_resize = 224
  config.data.style_crop = 128
  config.data.num_workers = 1
  config.loss.style_weight = 5.0
  config.loss.style_ramp_steps = 8_000
  config.loss.pixel_weight = 1000.0
  config.loss.checkerboard_weight = 3000.0
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 50
  config.optimizer.decay = "cosine"
  config.optimizer.clip_norm = 10.0
  config.ema_decay = 0.999
  config.log_every_steps = 50
  config.eval_every_steps = 400
  config.sample_every_steps = 800
  config.sample_images = 6
  config.checkpoint_every_steps = 400
  config.keep_every_steps = 4_000
  return config.lock()
