"""AdaConv with the published settings (Chandran et al. 2021), trained like AdaIN otherwise.

    adaconv train --config adaconv --workdir runs/adaconv \
      --config.data.content=COCO_DIR --config.data.style=WIKIART_DIR

Data: MS-COCO 2014 or 2017 training images as contents, WikiArt as styles.

Cost: 281 GFLOP per pair, forward and backward (XLA's count), so 160,000 steps of 8 pairs are
3.6e17. A device that sustains 60 TFLOP/s of float32 convolutions, a third of the peak that a TPU
v5e chip has in bfloat16, would take 1.7 hours; two CPU cores that sustain 0.14 take 30 days. Both
are calculated, not measured.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import adain


def get_config() -> ConfigDict:
  """Returns AdaIN's config with AdaConv's model, loss weight and clipping."""
  config: Any = adain.get_config().unlock()
  config.model.transform = "adaconv"
  config.model.settings = ConfigDict(
    {
      "style_dim": 512,
      "kernel_size": 3,
      "groups": (512, 128, 32, 8),
      "encoder_width": 512,
      "style_size": 256,
    }
  )
  config.optimizer.clip_norm = 10.0
  return config.lock()
