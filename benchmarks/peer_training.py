"""The peer's training step: the same losses, Adam, schedule and clipping in plain PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.vgg.network import ENCODER_LAYER, STYLE_LAYERS
from benchmarks.peer import F, StylizerPeer, channel_stats, nn, to_tensor, torch


def peer_loss(peer: StylizerPeer, batch: Mapping[str, Any], config: Any) -> Any:
  """The loss of `batch`, float `[n, 3, h, w]` in [0, 1]."""
  content_features = peer.encoder(batch["content"])[ENCODER_LAYER]
  style_features = peer.encoder(batch["style"], STYLE_LAYERS)
  code = peer.model.encode_style(style_features[ENCODER_LAYER])
  target = peer.model.content_target(content_features, code)
  features = peer.encoder(peer.model.decode(target, code), STYLE_LAYERS)
  loss = config.loss.content_weight * F.mse_loss(features[ENCODER_LAYER], target)
  for layer in STYLE_LAYERS:
    (mean, std), (style_mean, style_std) = (
      channel_stats(maps[layer]) for maps in (features, style_features)
    )
    difference = F.mse_loss(mean, style_mean) + F.mse_loss(std, style_std)
    loss = loss + config.loss.style_weight * difference
  return loss


def peer_step(
  stylizer: Stylizer, config: Any, batch: Mapping[str, np.ndarray]
) -> Callable[[], Any]:
  """Builds a function that does one step and returns the loss before it."""
  peer = StylizerPeer(stylizer)
  parameters = list(peer.model.parameters())
  optimizer = torch.optim.Adam(parameters, lr=config.optimizer.learning_rate)
  schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: 1 / (1 + config.optimizer.decay_rate * step)
  )
  pixels = {role: to_tensor(images) for role, images in batch.items()}

  def run() -> Any:
    loss = peer_loss(peer, {role: x.float() / 255 for role, x in pixels.items()}, config)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.optimizer.clip_norm:
      nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
    optimizer.step()
    schedule.step()
    return loss.detach()

  return run
