"""The shipped AdaConv, fine-tuned on ten or more pictures of your own, in minutes on a laptop.

    adaconv train --config finetune --workdir runs/mine --config.data.style=PAINTINGS

Contents are the example photographs unless `--config.data.content=PHOTOS` names others; a hundred
or more are better. Look at `runs/mine/samples`. More steps (`--config.num_steps=1500`) bring the
model closer to your styles and further from all others. `--config.init_from` may name another
AdaConv; `--config.model` must then describe it.
"""

from typing import Any

from ml_collections import ConfigDict

from adaconv_jax.configs import EXAMPLES, pretrained_adaconv


def get_config() -> ConfigDict:
  """Returns the shipped AdaConv's config for a short run that starts from the shipped model."""
  config: Any = pretrained_adaconv.get_config().unlock()
  config.init_from = "adaconv"
  config.num_steps = 500
  config.reconstruct_steps = 0  # the model can do that
  config.loss.style_ramp_steps = 0
  config.data.content = str(EXAMPLES / "content")
  config.data.min_size = 128
  config.data.heldout_content_names = ""
  config.data.heldout_style_names = ""
  config.data.heldout_content = 2
  config.data.heldout_style = 0  # of twenty, every one is needed
  config.optimizer.learning_rate = 2e-4
  config.optimizer.warmup_steps = 20
  config.ema_decay = 0.99
  config.log_every_steps = 10
  config.eval_every_steps = 0
  config.sample_every_steps = 100
  config.checkpoint_every_steps = 100
  config.keep_every_steps = 500
  return config.lock()
