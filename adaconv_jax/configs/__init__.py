"""The configs that `adaconv train --config NAME` knows, as modules: `adaconv_jax.configs.adaconv`.

They are the files of the folder `configs` of the repository, and in an installed package they are
in `files` beside this module. A config of your own can start from one of them:

    from adaconv_jax.configs import adaconv

    def get_config():
      config = adaconv.get_config().unlock()
      config.batch_size = 16
      return config.lock()
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from adaconv_jax.files import EXAMPLES as EXAMPLES
from adaconv_jax.files import expand

if TYPE_CHECKING:  # which does not follow `__path__`
  from configs import adaconv as adaconv
  from configs import adaconv_plus as adaconv_plus
  from configs import adain as adain
  from configs import finetune as finetune
  from configs import pretrained_adaconv as pretrained_adaconv
  from configs import pretrained_adain as pretrained_adain
  from configs import quickstart as quickstart

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "configs" / "files"

# The folder with the configs and the lists of held-out images that they name.
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"

__path__ = [str(FOLDER)]  # where `import adaconv_jax.configs.NAME` looks


def names() -> list[str]:
  """Returns the names of the packaged configs, sorted."""
  return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def find(config: str) -> Path:
  """Returns the path of a config file.

  Args:
    config: the name of a packaged config, which comes first, or the path of a file: `./adaconv` is
      a file of the current folder.

  Raises:
    ValueError: neither a packaged config nor an existing file.
  """
  if config in names():
    return FOLDER / f"{config}.py"
  path = expand(config)
  if config and path.is_file():
    return Path(os.path.abspath(path))
  raise ValueError(
    f"--config: expected the name of a packaged config ({', '.join(names())}) or the path of a "
    f"config file, such as ./mine.py, got {config!r}"
  )
