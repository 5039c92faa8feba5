"""The shipped adaconv_plus, fine-tuned on ten or more pictures of your own, in minutes on a laptop.

    adaconv train --config finetune --workdir runs/mine --config.data.style=PAINTINGS

Contents are the example photographs unless `--config.data.content=PHOTOS` names others; a hundred
or more are better. Look at `runs/mine/samples`. More steps (`--config.num_steps=1500`) bring the
model closer to your styles and further from all others. `--config.init_from` may name another
model; `--config.model` must then describe it. For the shipped AdaConv that is
`--config.model.transform=adaconv`, and its losses have the weights `--config.loss.style_weight=10
--config.loss.detail_weight=0`.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import EXAMPLES, adaconv_plus


def get_config() -> ConfigDict:
  """Returns adaconv_plus's config for a short run that starts from the shipped model."""
  config: Any = adaconv_plus.get_config().unlock()
  config.init_from = "adaconv_plus"
  config.num_steps = 500
  # As in the second part of the model's training; without, halos would come back.
  config.loss.style_weight = 20.0
  config.loss.detail_weight = 10.0
  config.loss.evenness_weight = 250.0
  config.data.content = str(EXAMPLES / "content")
  config.data.min_size = 128
  config.data.heldout_content_names = ""
  config.data.heldout_style_names = ""
  config.data.heldout_content = 2
  config.data.heldout_style = 0  # of twenty, every one is needed
  config.optimizer.learning_rate = 2e-4
  config.ema_decay = 0.99
  config.log_every_steps = 10
  config.eval_every_steps = 0
  config.sample_every_steps = 100
  config.checkpoint_every_steps = 100
  config.keep_every_steps = 500
  return config.lock()
