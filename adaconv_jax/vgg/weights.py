"""Finds VGG weights: a given file, the cache, the package (vgg16), or a download (vgg19).

All weights that are found without a file are normalized: every filter's mean activation is 1, to
which the published style weight belongs. Downloaded ones are normalized here, over the example
photographs. Another processor may round that differently, so such weights have two hashes: of the
tensors, and of those that were downloaded; see `are_same`.

`file.py` describes our files, `convert.py` makes them from published ones, and `normalize.py`
rescales them.
"""

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from adaconv_jax.files import EXAMPLES, cache_dir, is_remote
from adaconv_jax.images import find_images
from adaconv_jax.tensor_files import tensors_sha256
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.download import DownloadError, download, download_into
from adaconv_jax.vgg.file import Tensors, read_file, to_params, to_tensors, write_file
from adaconv_jax.vgg.network import ENCODER_LAYER, VGGParams, conv_shapes
from adaconv_jax.vgg.normalize import normalize, photographs

PACKAGED = Path(__file__).parents[1] / "pretrained"

# In the order in which they are tried, with the known part of the sha256. The hub sends the hash of
# the first one with the file; torchvision puts the beginning of the hash into the name. A file
# whose hash is not known, from here or from the server, is refused.
SOURCES = {
  "vgg19": (
    ("https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors", None),
    ("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
  )
}


# How a training gets weights that are missing; a line each.
TRAINING_OPTIONS = (
  "pass a file that is already imported: --config.model.vgg_weights=PATH",
  "use vgg16, whose weights are part of this package: --config.model.vgg=vgg16",
)


def load(
  arch: str = "vgg19",
  path: str | Path | None = None,
  *,
  last: str = ENCODER_LAYER,
  options: Sequence[str] = TRAINING_OPTIONS,
) -> tuple[VGGParams, dict[str, str]]:
  """Loads the parameters of `VGG`.

  Without `path`, in this order: `ARCH.safetensors` in the cache (`$ADACONV_CACHE`, else
  `~/.cache/adaconv_jax`); for vgg16 the file in this package; for vgg19 a download, which is
  converted, normalized and kept in the cache.

  Args:
    arch: "vgg16" or "vgg19".
    path: a file that `adaconv vgg import` wrote; nothing else is tried then.
    last: the last activation needed; the parameters after it are left out.
    options: the caller's own ways to get weights, which the error lists where none are found.

  Returns:
    The parameters (float32), and the file's metadata: "arch", "last", "source", "source_sha256",
    "tensors_sha256" (the same for two files with the same weights) and, where known, "license",
    "scaled" and "unscaled_sha256"; and "path" and "file_sha256" of the file itself.

  Raises:
    FileNotFoundError: there are no weights, and they could not be downloaded; the message says
      what to put where.
    ValueError: the file is damaged, for another architecture, or ends before `last`.
  """
  needed = conv_shapes(arch, last)
  tensors, info = read_file(find(arch, options) if path is None else path)
  if info["arch"] != arch:
    raise ValueError(f"{info['path']}: holds {info['arch']}, expected {arch}")
  if not needed.keys() <= conv_shapes(arch, info["last"]).keys():
    raise ValueError(f"{info['path']}: ends at {info['last']}, expected {last} or later")
  params = to_params(tensors)
  return jax.device_put({name: params[name] for name in ("zero", *needed)}), info


def find(arch: str, options: Sequence[str] = TRAINING_OPTIONS) -> Path:
  """Returns the path of the weights of `arch`, which are downloaded if possible.

  Raises:
    FileNotFoundError: see `load`.
  """
  cached = cache_dir() / f"{arch}.safetensors"
  packaged = PACKAGED / f"{arch}.safetensors"
  if cached.exists():
    return cached
  if packaged.exists():
    return packaged
  if arch not in SOURCES:
    raise FileNotFoundError(f"{packaged}: missing, but part of this package; install it again")
  return _fetch(arch, cached, options)


def _fetch(arch: str, target: Path, options: Sequence[str] = TRAINING_OPTIONS) -> Path:
  """Downloads and converts the weights of `arch` to `target`; safe for two processes at once."""
  failures = []
  for url, known_sha256 in SOURCES[arch]:
    if url.endswith(".pth") and importlib.util.find_spec("torch") is None:
      failures.append(f"{url}: not tried, because reading it needs torch")
      continue
    try:
      tensors, metadata = _download_and_convert(url, known_sha256, arch, target.parent)
      tensors, scaling = normalized(tensors, arch)
      write_file(target, tensors, metadata | {"source": f"torchvision weights, {url}"} | scaling)
      return target
    except (DownloadError, OSError, ValueError, ImportError) as error:
      failures.append(f"{url}: {error}")
  raise FileNotFoundError(_how_to_get(arch, target, failures, options))


def normalized(tensors: Tensors, arch: str) -> tuple[Tensors, dict[str, str]]:
  """Normalizes weights over the example photographs.

  Returns:
    The tensors, and for their metadata "scaled" and "unscaled_sha256", the hash of what they were.
  """
  examples = find_images(EXAMPLES / "content")
  params = normalize(to_params(tensors), photographs(examples), arch)
  return to_tensors(params), {
    "scaled": f"mean activation 1 over the {len(examples)} example photographs",
    "unscaled_sha256": tensors_sha256(tensors),
  }


def are_same(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
  """Returns whether the metadata of two files of weights describe the same ones.

  They do if the tensors are equal, or were before both were normalized in the same way.
  """
  if first.get("tensors_sha256") == second.get("tensors_sha256"):
    return True
  keys = ("unscaled_sha256", "scaled")
  return all(first.get(key) and first.get(key) == second.get(key) for key in keys)


def scaling(info: Mapping[str, str]) -> str:
  """Says how weights were normalized, from their metadata; empty if they were not, or unknown."""
  if "scaled" in info:
    return info["scaled"]
  return info["source"] if "normalised" in info.get("source", "") else ""


def _download_and_convert(
  url: str, known_sha256: str | None, arch: str, folder: Path
) -> tuple[Tensors, dict[str, str]]:
  """Downloads to a file in `folder`; if possible one without a name, which nothing can leave."""
  name = url.rsplit("/", 1)[1]
  folder.mkdir(parents=True, exist_ok=True)
  # A cache may be in a bucket, where nothing can be written in parts.
  local = None if is_remote(folder) else folder
  if Path("/dev/fd").is_dir():
    with tempfile.TemporaryFile(dir=local) as file:
      download_into(file, url, name=name, sha256=known_sha256)
      path = Path(f"/dev/fd/{file.fileno()}")
      try:
        return vgg_import.convert(path, arch)
      except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from error
  with tempfile.TemporaryDirectory(dir=local, prefix="download-") as temporary:
    download(url, Path(temporary) / name, sha256=known_sha256)
    return vgg_import.convert(Path(temporary) / name, arch)


def _how_to_get(arch: str, target: Path, failures: list[str], options: Sequence[str]) -> str:
  lines = [f"The weights of {arch} are not at {target}, and could not be downloaded:"]
  lines += [f"  {failure}" for failure in failures]
  lines += ["Do one of these:"]
  for url, _ in SOURCES[arch]:
    lines += [
      f"  - download {url} elsewhere, copy it here, and run",
      f"    adaconv vgg import {url.rsplit('/', 1)[1]} --arch {arch} --output {target}",
    ]
  lines += [f"  - {option}" for option in options]
  return "\n".join(lines)
