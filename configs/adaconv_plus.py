"""The shipped AdaConv, given the content's fine structure, and trained further.

    adaconv train --config adaconv_plus --workdir runs/adaconv_plus \
      --config.data.content=PHOTOS --config.data.style=PAINTINGS

The decoder also sees the content's first layers, through kernels that start at zero; see
`AdaConvPlus`. So the training starts from the pictures of the shipped AdaConv. The losses are those
of the second part of its training, and one on detail, with a larger style weight: skips bring the
content at less cost. An hour on two CPU cores that were shared with other work.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import pretrained_adaconv


def get_config() -> ConfigDict:
  """Returns the shipped AdaConv's config for a short run with skips."""
  config: Any = pretrained_adaconv.get_config().unlock()
  config.init_from = "adaconv"
  config.model.transform = "adaconv_plus"
  config.num_steps = 1_000
  config.reconstruct_steps = 0
  config.data.kept_style_crops = 1
  config.loss.style_weight = 14.0
  config.loss.style_ramp_steps = 0
  config.loss.self_similarity_weight = 100.0
  config.loss.palette_weight = 300.0
  config.loss.detail_weight = 5.0
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 20
  config.eval_every_steps = 100
  config.sample_every_steps = 250
  config.checkpoint_every_steps = 100
  config.keep_every_steps = 200
  return config.lock()
