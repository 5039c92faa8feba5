"""The command line of `infer.py` at work: from picture files to picture files."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from adaconv_jax import images
from adaconv_jax.cli.command_line import attempt
from adaconv_jax.cli.pairs import Pair
from adaconv_jax.files import replacing
from adaconv_jax.inference import encode, encode_content, in_bucket, render_encoded
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.stylizer import ContentCode, Stylizer

T = TypeVar("T")


def render_pairs(
  stylizer: Stylizer,
  pairs: list[Pair],
  *,
  alpha: jax.Array | None,
  size: int | None,
  style_size: int | None,
  quality: int,
) -> int:
  """Makes all pairs, and reports those that cannot be made.

  Args:
    stylizer: the model.
    pairs: from `plan_pairs`; those of one content stand together.
    alpha: strength of the style; None is 1.
    size: pixels on the contents' shorter side; None leaves them as they are.
    style_size: the same for styles.
    quality: of JPEG and WebP, 1 to 100.

  Returns:
    How many failed.
  """
  codes: dict[Path, StyleCode | None] = {}  # None: the style cannot be used, and that was reported
  failed = 0
  with tqdm(total=len(pairs), unit="image", disable=len(pairs) == 1) as bar:
    for content, group in itertools.groupby(pairs, lambda pair: pair.content):
      picture = _attempt(content.path, _read_content, size, stylizer, alpha is not None)
      for pair in group:
        style = pair.style.path
        if picture is not None and style not in codes:
          codes[style] = _attempt(style, _read_style, style_size, stylizer)
        code = codes.get(style)
        if picture is not None and code is not None:
          done = _attempt(pair.output, _make, stylizer, picture, code, alpha, quality)
        else:
          done = None
        failed += done is None
        bar.update()
  return failed


def _attempt(path: Path, action: Callable[..., T], *args: Any) -> T | None:
  return attempt(path, action, path, *args, memory_hint="--size or --style-size")


def _read(path: Path, size: int | None) -> np.ndarray:
  """Reads an image file as `[h, w, 3]`, uint8."""
  picture = images.decode(path.read_bytes(), name=str(path), at_least=size)
  return np.asarray(picture if size is None else images.resize_shorter(picture, size))


def _read_content(path: Path, size: int | None, stylizer: Stylizer, for_alpha: bool) -> ContentCode:
  return encode_content(stylizer, *in_bucket(stylizer, _read(path, size)), for_alpha)


def _read_style(path: Path, size: int | None, stylizer: Stylizer) -> StyleCode:
  return encode(stylizer, *in_bucket(stylizer, _read(path, size)))


def _make(
  output: Path,
  stylizer: Stylizer,
  content: ContentCode,
  code: StyleCode,
  alpha: jax.Array | None,
  quality: int,
) -> Path:
  """Makes one image, and puts it to `output` at once or not at all."""
  stylized = np.asarray(render_encoded(stylizer, content, code, alpha))[0]
  if content.extent is not None:
    height, width = map(int, content.extent)
    stylized = stylized[:height, :width]
  with replacing(output) as temporary:
    images.save(temporary, stylized, quality=quality)
  return output
