"""What `adaconv stylize` is to make: from paths to pairs, and the outputs' names."""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from adaconv_jax import images
from adaconv_jax.cli.attempt import report
from adaconv_jax.cli.options import format_of
from adaconv_jax.files import (
  absolute,
  expand,
  expand_named,
  is_remote,
  naming_option,
  printable,
  real,
  unwritable,
)

# Names of the sheets of `adaconv evaluate`.
SHEET = re.compile(r"sheet-\d+--.*\.png$", re.DOTALL)
# Longest name of a file, on all usual file systems.
NAME_BYTES = 255


class Picture(NamedTuple):
  """An image file, and the name it has in the names of the outputs."""

  name: str
  path: Path


class Pair(NamedTuple):
  """One image to make."""

  content: Picture
  style: Picture
  output: Path


def find_inputs(
  content: list[str],
  style: list[str],
  output: str,
  *,
  sheets: bool = False,
  repeated: bool = False,
) -> tuple[list[Picture], list[Picture]]:
  """Lists the contents and the styles, without earlier results, and reports what is left out.

  Results are the file `output`, or what is in the folder `output`, where a folder that is given
  contains it. If that folder is itself given as an input, or files in it are, as by `photos/*`,
  only those are left out that have the name of a result of the other inputs.

  Args:
    content: paths of --content.
    style: paths of --style.
    output: path of --output.
    sheets: whether the results are sheets, as of `adaconv evaluate`, rather than pairs.
    repeated: whether a style that is given twice counts twice, as where each has its own weight or
      mask.

  Raises:
    ValueError: a folder has no image, or no path of an option exists; the message begins with the
      option.
  """
  roles = [("--content", content), ("--style", style)]
  found = [
    find_pictures(option, paths, output, repeated=repeated and paths is style)
    for option, paths in roles
  ]
  for (option, _), pictures in zip(roles, found, strict=True):
    if all(_is_missing(picture.path) for picture in pictures):
      names = ", ".join(printable(picture.path) for picture in pictures[:3])
      bucket = ", or no such bucket" if any(is_remote(p.path) for p in pictures) else ""
      raise ValueError(f"{option}: no such file or folder{bucket}: {names}")
  folder = real(expand(output))
  once = [list(dict.fromkeys(pictures)) for pictures in found]
  doubtful = [[p for p in pictures if _parent(p) == folder] for pictures in once]
  if sheets:
    results = [{p for p in pictures if SHEET.match(p.path.name)} for pictures in doubtful]
  else:
    results = _find_results(once, doubtful)
  for index, (option, _) in enumerate(roles):
    kept = [p for p in found[index] if p not in results[index]]
    _report_results(option, len(found[index]) - len(kept), output)
    if not kept:
      raise ValueError(f"{option}: only earlier results in {printable(output)}, no other image")
    found[index] = kept
  return found[0], found[1]


def _find_results(found: list[list[Picture]], doubtful: list[list[Picture]]) -> list[set[Picture]]:
  """Returns, of contents and styles, the doubtful pictures that have the name of a result."""
  left = [{p for p in pictures if "--" in p.name} for pictures in doubtful]
  while True:
    inputs = [
      [p for p in pictures if p not in rest] for pictures, rest in zip(found, left, strict=True)
    ]
    names = {name for row in _unique_names(inputs[0], inputs[1]) for name in row}
    others = {p for rest in left for p in rest if p.path.name not in names}
    if not others:
      return left
    # The others are inputs, and longer names may be those of their results.
    length = min(len(p.path.name) for p in others)
    shortest = {p for p in others if len(p.path.name) == length}
    left = [rest - shortest for rest in left]


def _is_missing(path: Path) -> bool:
  """Whether there is nothing at `path`, rather than something that cannot be reached or read."""
  if is_remote(path):
    return not path.exists()
  try:
    path.stat()
  except FileNotFoundError:
    return True
  except (OSError, ValueError):
    pass
  return False


def _parent(picture: Picture) -> str:
  return os.path.dirname(real(picture.path))


def find_pictures(
  option: str, paths: list[str], output: str | None = None, *, repeated: bool = False
) -> list[Picture]:
  """Lists the files that are given, and those in the folders that are given, each once.

  Args:
    option: the option's name, for messages.
    paths: files and folders.
    output: pictures in this folder, or this file, are left out of folders that contain it.
    repeated: list those that are given several times as often.

  Raises:
    ValueError: a folder has no image; the message begins with `option`.
  """
  found: list[Picture] = []
  known: set[str] = set()
  below = None if output is None else real(expand_named("--output", output))
  left_out: set[str] = set()
  for text in paths:
    with naming_option(option):
      path = expand(text)
      is_folder = path.is_dir()
    if is_folder:
      files, unread = images.list_images(path)
      if unread:
        report(f"{option}: {images.describe_unread(path, unread)}")
      if below is not None and real(path) != below:
        results = [file for file in files if _contains(below, file) and not _contains(below, path)]
        left_out |= {absolute(file) for file in results}
        files = [file for file in files if file not in set(results)]
      # `photos/*` may include the folder of --output, which is empty at first.
      if not files and not (len(paths) > 1 and real(path) == below):
        but = ", other than earlier results" if left_out else ""
        raise ValueError(f"{option}: {images.describe_empty(path, but)}")
      named = [Picture("_".join(f.relative_to(path).with_suffix("").parts), f) for f in files]
    else:
      named = [Picture(path.stem, path)]
    for picture in named:
      if repeated or absolute(picture.path) not in known:
        found.append(picture)
      known.add(absolute(picture.path))
  if not found:
    raise ValueError(f"{option}: no image in {', '.join(map(printable, paths))}")
  _report_results(option, len(left_out - known), output)
  return found


def _report_results(option: str, count: int, output: str | None) -> None:
  if count:
    report(f"{option}: left out {count} picture(s) in {output}, because --output names it")


def _contains(outer: str, path: Path) -> bool:
  """Whether `path` is the file or folder `outer`, or inside of it; links are followed."""
  inner = real(path)
  return inner == outer or inner.startswith(os.path.join(outer, ""))


def plan_pairs(
  contents: list[Picture],
  styles: list[Picture],
  output: str,
  *,
  overwrite: bool,
  others: Iterable[str | Path] = (),
) -> tuple[list[Pair], list[Path]]:
  """Names the outputs.

  Args:
    contents: what is rendered.
    styles: what it is rendered in.
    output: path of --output.
    overwrite: whether outputs that exist are made again.
    others: further inputs, such as masks, which no output may replace.

  Returns:
    The pairs to make, content by content, and the outputs that exist and are kept.

  Raises:
    ValueError: `output` does not fit the number of pairs, names no format or is below a file, or
      the output of a single pair exists or is an input.
  """
  count, path = len(contents) * len(styles), expand(output)
  suffix = format_of(path)
  is_folder = path.is_dir() or output.endswith(("/", os.sep)) or not suffix
  if is_folder or count > 1:
    if suffix in images.SUFFIXES and not is_folder or path.is_file():
      raise ValueError(
        f"--output: expected a folder for {count} pair(s), got the file name {printable(output)}"
      )
    names = itertools.chain.from_iterable(_unique_names(contents, styles))
    pairs = [
      Pair(content, style, path / name)
      for (content, style), name in zip(itertools.product(contents, styles), names, strict=True)
    ]
  elif suffix in images.SUFFIXES:
    pairs = [Pair(contents[0], styles[0], path)]
  else:
    raise ValueError(
      f"--output: expected a name that ends in {', '.join(images.SUFFIXES)}, or a folder with a / "
      f"at its end, got {printable(output)}"
    )
  inputs = [picture.path for picture in (*contents, *styles)]
  check_no_input([pair.output for pair in pairs], [*inputs, *others])
  kept = {} if overwrite else {pair.output: pair for pair in pairs if pair.output.exists()}
  if kept and count == 1:
    raise ValueError(f"--output: {printable(pairs[0].output)} exists; --overwrite replaces it")
  left = [pair for pair in pairs if pair.output not in kept]
  if left and (fault := unwritable(left[0].output.parent)):
    raise ValueError(f"--output: expected a place that can be written to, but {fault}")
  return left, list(kept)


def check_no_input(outputs: Iterable[Path], inputs: Iterable[str | Path]) -> None:
  """Checks that no output is an input.

  Raises:
    ValueError: one is.
  """
  places = {_place(expand(path)) for path in inputs}
  for output in outputs:
    if _place(output) in places:
      raise ValueError(
        f"--output: {printable(output)} is an input, too, and would be lost; name another file"
      )


def _place(path: Path) -> str:
  """Returns the path of a file or link; links to its folder are followed."""
  return os.path.join(real(path.parent), path.name)


def join(styles: list[Picture]) -> Picture:
  """Returns one picture in the names of outputs for styles that are used together."""
  return Picture("+".join(style.name for style in styles), styles[0].path)


def _unique_names(contents: list[Picture], styles: list[Picture]) -> list[list[str]]:
  """Returns the outputs' names, `[content][style]`, all different.

  Pictures whose outputs would have one name get longer names: first with their suffix, then with
  their folder, then with a hash of their path. So the names do not depend on the order. What no
  file system takes is shortened, and gets a hash of what it was.
  """
  longest = 3
  levels = [[0] * len(contents), [0] * len(styles)]
  while True:
    names = [
      [_output_name(c, s, lc, ls) for s, ls in zip(styles, levels[1], strict=True)]
      for c, lc in zip(contents, levels[0], strict=True)
    ]
    same: dict[str, list[tuple[int, int]]] = {}
    for content, row in enumerate(names):
      for style, name in enumerate(row):
        same.setdefault(name, []).append((content, style))
    longer = set()
    for pairs in same.values():
      for role in (0, 1):
        differing = {pair[role] for pair in pairs}
        if len(differing) > 1:
          longer |= {(role, index) for index in differing if levels[role][index] < longest}
    if not longer:
      return names
    for role, index in longer:
      levels[role][index] += 1


def _output_name(content: Picture, style: Picture, content_level: int, style_level: int) -> str:
  suffix = content.path.suffix.lower()
  # Not GIF, whose palette would cost colors.
  keep = suffix in images.SUFFIXES and suffix != ".gif"
  suffix = suffix if keep else ".png"
  names = [_longer_name(content, content_level), _longer_name(style, style_level)]
  if len(os.fsencode("--".join(names) + suffix)) > NAME_BYTES:
    names = [shorten(name, (NAME_BYTES - len(suffix) - 2) // 2) for name in names]
  return "--".join(names) + suffix


def shorten(name: str, at_most: int) -> str:
  """Returns a name of at most so many bytes, with a hash in place of its end if it is longer."""
  if len(os.fsencode(name)) <= at_most:
    return name
  end = "_" + hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
  name = name[:at_most]
  while len(os.fsencode(name)) > at_most - len(end):
    name = name[:-1]
  return name + end


def _longer_name(picture: Picture, level: int) -> str:
  path = Path(absolute(picture.path))
  name = picture.name
  if level > 0 and path.suffix:
    name += "_" + path.suffix[1:]
  if level > 1:
    name = f"{path.parent.name}_{name}"
  if level > 2:
    name += "_" + hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
  return name
