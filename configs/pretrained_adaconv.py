"""The AdaConv that comes with the package: small, and trained in five hours on two CPU cores.

    adaconv train --config pretrained_adaconv --workdir runs/adaconv \
      --config.data.content=PHOTOS --config.data.style=PAINTINGS

9.5 million parameters, 19 MB in half precision; 3.5 million of them are the decoder's. The lists of
held-out images are those of `configs/pretrained_adain.py`. Parts of the shipped model's training
used other settings, see `docs/models/adaconv.md`.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import pretrained_adain


def get_config() -> ConfigDict:
  """Returns the shipped AdaIN's config with a small AdaConv."""
  config: Any = pretrained_adain.get_config().unlock()
  config.model.transform = "adaconv"
  config.model.settings = ConfigDict(
    {
      "style_dim": 128,
      "kernel_size": 3,
      "groups": (512, 128, 32, 8),
      "encoder_width": 128,
      "style_size": 256,
    }
  )
  config.num_steps = 22_600
  config.reconstruct_steps = 1_000
  config.data.style_resize = 288
  config.data.style_crop = 256
  config.data.kept_style_crops = 3  # 7 GB for 2,200 styles
  # The content loss compares with the content itself, not with AdaIN's transform of it, so the
  # style needs more weight; from 7.5 on, an ink drawing tore limbs and hills apart.
  config.loss.style_weight = 6.5
  config.loss.style_ramp_steps = 2_600
  # With the decoder's rate, the descriptor stopped distinguishing styles after some hundred steps.
  config.optimizer.style_rate = 0.1
  return config.lock()
