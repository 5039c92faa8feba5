"""Prints pip constraints for the lowest versions that setup.cfg allows, for `pip install -c`.

python .ci/lowest_versions.py [EXTRA ...] > lowest.txt
"""

import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"


def lowest(requirement: str) -> str:
  """Turns `name>=1.2` into `name==1.2`.

  Raises:
    ValueError: the requirement does not start with a lower bound or an exact version.
  """
  match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?\s*[>=]=\s*([\w.]+)", requirement)
  if not match:
    raise ValueError(f"setup.cfg: expected name>=version, got {requirement!r}")
  return "{}=={}".format(*match.groups())


def constraints(setup: Path, extras: list[str]) -> list[str]:
  """Returns the lowest versions of the requirements of the package and of `extras`.

  Raises:
    ValueError: a requirement has no lower bound.
    KeyError: setup.cfg has no such extra.
  """
  config = configparser.ConfigParser()
  config.read(setup)
  lists = [config["options"]["install_requires"]]
  lists += [config["options.extras_require"][extra] for extra in extras]
  lines = [line.strip() for text in lists for line in text.splitlines()]
  return [lowest(line) for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
  print("\n".join(constraints(SETUP, sys.argv[1:])))
