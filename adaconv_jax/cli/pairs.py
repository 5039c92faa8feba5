"""What the command line of `infer.py` is to make: from paths to pairs, and the outputs' names."""

import itertools
import os
from pathlib import Path
from typing import NamedTuple

from adaconv_jax import images


class Picture(NamedTuple):
  """An image file, and the name it has in the names of the outputs."""

  name: str
  path: Path


class Pair(NamedTuple):
  """One image to make."""

  content: Picture
  style: Picture
  output: Path


def find_pictures(option: str, paths: list[str]) -> list[Picture]:
  """Lists the files that are given, and those in the folders that are given, each once."""
  found: dict[str, Picture] = {}
  for path in map(Path, paths):
    if path.is_dir():
      files = images.find_images(path)
      if not files:
        raise ValueError(f"{option}: no image in {path}; looked for {', '.join(images.SUFFIXES)}")
      named = [Picture("_".join(f.relative_to(path).with_suffix("").parts), f) for f in files]
    else:
      named = [Picture(path.stem, path)]
    for picture in named:
      found.setdefault(os.path.abspath(picture.path), picture)
  return list(found.values())


def plan_pairs(
  contents: list[Picture], styles: list[Picture], output: str, *, overwrite: bool
) -> tuple[list[Pair], list[Path]]:
  """Names the outputs.

  Returns:
    The pairs to make, content by content, and the outputs that stay as they are.

  Raises:
    ValueError: `output` does not fit the number of pairs or names no format, two pairs have one
      name, or the output of a single pair exists.
  """
  count, path = len(contents) * len(styles), Path(output)
  suffix = path.suffix.lower()
  is_folder = path.is_dir() or output.endswith(("/", os.sep)) or not suffix
  if is_folder or count > 1:
    if suffix in images.SUFFIXES and not is_folder or path.is_file():
      raise ValueError(
        f"--output: expected a folder for {count} pair(s), got the file name {output}"
      )
    pairs = [
      Pair(content, style, path / _output_name(content, style))
      for content, style in itertools.product(contents, styles)
    ]
  elif suffix in images.SUFFIXES:
    pairs = [Pair(contents[0], styles[0], path)]
  else:
    raise ValueError(
      f"--output: expected a name that ends in {', '.join(images.SUFFIXES)}, or a folder with a / "
      f"at its end, got {output}"
    )
  first: dict[Path, Pair] = {}
  for pair in pairs:
    other = first.setdefault(pair.output, pair)
    if other is not pair:
      raise ValueError(
        f"--output: {other.content.path} with {other.style.path} and {pair.content.path} with "
        f"{pair.style.path} would both be {pair.output}; rename one, or stylize them separately"
      )
  kept = {} if overwrite else {pair.output: pair for pair in pairs if pair.output.exists()}
  if kept and count == 1:
    raise ValueError(f"--output: {pairs[0].output} exists; --overwrite replaces it")
  return [pair for pair in pairs if pair.output not in kept], list(kept)


def _output_name(content: Picture, style: Picture) -> str:
  suffix = content.path.suffix.lower()
  # Not GIF, whose palette would cost colours.
  keep = suffix in images.SUFFIXES and suffix != ".gif"
  return f"{content.name}--{style.name}{suffix if keep else '.png'}"
