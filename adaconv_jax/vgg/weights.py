"""Where VGG's weights come from: a given file, the cache, the package (vgg16), a download (vgg19).

`file.py` describes our files, `convert.py` makes them from those that others publish, and
`normalize.py` rescales them.
"""

import importlib.util
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from adaconv_jax.files import cache_dir
from adaconv_jax.vgg import convert as vgg_import
from adaconv_jax.vgg.download import DownloadError, download
from adaconv_jax.vgg.file import read_file, to_params, write_file
from adaconv_jax.vgg.network import ENCODER_LAYER, VGGParams, conv_shapes

PACKAGED = Path(__file__).parents[1] / "pretrained"

# In the order in which they are tried, with what is known of the sha256. The hub sends the hash of
# the first one along with the file; torchvision puts the beginning of it into the name.
SOURCES = {
  "vgg19": (
    ("https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors", None),
    ("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
  )
}


def load(
  arch: str = "vgg19", path: str | Path | None = None, *, last: str = ENCODER_LAYER
) -> tuple[VGGParams, dict[str, str]]:
  """Loads the parameters of `VGG`.

  Without `path`, in this order: `ARCH.safetensors` in the cache (`$ADACONV_CACHE`, else
  `~/.cache/adaconv_jax`); for vgg16 the file in this package; for vgg19 a download, which is
  converted and stays in the cache.

  Args:
    arch: "vgg16" or "vgg19".
    path: a file that `python -m adaconv_jax.cli.vgg import` wrote; nothing else is tried.
    last: the last activation needed; the parameters behind it are left out.

  Returns:
    The parameters (float32), and the file's metadata: "arch", "last", "source", "source_sha256",
    "tensors_sha256" (the same for two files with the same weights) and, where known, "license"
    and "scaled"; with "path" and "file_sha256" of the file itself.

  Raises:
    FileNotFoundError: no weights are here, and they could not be downloaded; the text says what
      to put where.
    ValueError: the file is damaged, for another architecture, or ends before `last`.
  """
  needed = conv_shapes(arch, last)
  tensors, info = read_file(find(arch) if path is None else path)
  if info["arch"] != arch:
    raise ValueError(f"{info['path']}: holds {info['arch']}, but {arch} is asked for")
  if not needed.keys() <= conv_shapes(arch, info["last"]).keys():
    raise ValueError(f"{info['path']}: ends at {info['last']}, but {last} is asked for")
  params = to_params(tensors)
  return jax.tree.map(jnp.asarray, {name: params[name] for name in ("zero", *needed)}), info


def find(arch: str) -> Path:
  """Returns the path of the weights of `arch`, downloading them where that is possible.

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
    raise FileNotFoundError(f"{packaged}: is part of this package and not there; install it again")
  return _fetch(arch, cached)


def _fetch(arch: str, target: Path) -> Path:
  """Downloads and converts the weights of `arch` to `target`; two processes may do so at once."""
  failures = []
  for url, known_sha256 in SOURCES[arch]:
    if url.endswith(".pth") and importlib.util.find_spec("torch") is None:
      failures.append(f"{url}: not tried, because reading it needs torch")
      continue
    try:
      target.parent.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as folder:
        raw = Path(folder) / url.rsplit("/", 1)[1]
        download(url, raw, sha256=known_sha256)
        tensors, metadata = vgg_import.convert(raw, arch)
      write_file(target, tensors, metadata | {"source": f"torchvision weights, {url}"})
      return target
    except (DownloadError, OSError, ValueError, ImportError) as error:
      failures.append(f"{url}: {error}")
  raise FileNotFoundError(_how_to_get(arch, target, failures))


def _how_to_get(arch: str, target: Path, failures: list[str]) -> str:
  lines = [f"The weights of {arch} are neither at {target} nor could they be downloaded:"]
  lines += [f"  {failure}" for failure in failures]
  lines += ["Any of these helps:"]
  for url, _ in SOURCES[arch]:
    lines += [
      f"  - download {url} elsewhere, copy it here, and run",
      f"    python -m adaconv_jax.cli.vgg import {url.rsplit('/', 1)[1]} --arch {arch} "
      f"--output {target}",
    ]
  lines += [
    "  - give a file that is imported already: --config.model.vgg_weights=PATH",
    "  - use vgg16, whose weights are part of this package: --config.model.vgg=vgg16",
  ]
  return "\n".join(lines)
