"""`adaconv hub`: trained models on the Hugging Face Hub."""

import argparse
import contextlib
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from adaconv_jax import images, inference
from adaconv_jax.checkpoints import hub
from adaconv_jax.checkpoints.bundle import save_bundle
from adaconv_jax.checkpoints.card import LICENSE, UNSTATED, model_card
from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.checkpoints.load import find_model, read_model, stylizer_of, vgg_goes_along
from adaconv_jax.cli.attempt import or_exit
from adaconv_jax.cli.options import (
  MODEL_HELP,
  Parser,
  add_vgg_weights,
  check_output,
  check_suffix,
  path_text,
  text_of,
  to_file,
  to_path,
)
from adaconv_jax.files import (
  EXAMPLES,
  expand,
  local_copy,
  printable,
  read_regular,
  replacing,
  sha256,
)
from adaconv_jax.images import ImageError
from adaconv_jax.models.stylizer import Stylizer

EXAMPLE = (EXAMPLES / "content" / "raccoon.jpg", EXAMPLES / "style" / "night.jpg")
EXAMPLE_SIZE = 256
MAX_CARD_BYTES = 2**20


def push(
  model: str | Path,
  repo: str,
  *,
  vgg_weights: str | Path | None = None,
  private: bool = False,
  revision: str | None = None,
  license: str = UNSTATED,  # noqa: A002 (the name in the card's metadata)
  card: str | Path | None = None,
  example: tuple[str | Path, str | Path] = EXAMPLE,
  message: str | None = None,
) -> str:
  """Uploads a trained model with a model card and an example picture, in one commit.

  Args:
    model: as for `load_model`. A bundle is uploaded as it is; of a workdir, a bundle of the newest
      checkpoint is made, in half precision.
    repo: "user/name"; created if there is none.
    vgg_weights: file with the VGG weights that the model was trained with, where they are not found
      by themselves. Weights that the package does not find by itself are uploaded, too.
    private: whether a new repository is private.
    revision: the branch; None for the main one.
    license: of the model, by the Hub's name for it, such as "apache-2.0".
    card: a Markdown file whose text becomes a part of the card.
    example: files of a content and a style.
    message: of the commit.

  Returns:
    The hash of the commit.

  Raises:
    ValueError: see `load_model` and `hub.upload`; `repo`, `license` or `card` is not what is
      described.
    OSError: a file cannot be read.
    CheckpointError: no checkpoint can be used.
  """
  repo = hub.check_repo(repo)
  hub.check_installed()  # before the example is rendered
  if not LICENSE.fullmatch(license):
    raise ValueError(f"license: expected a name such as apache-2.0, got {printable(license)!r}")
  text = "" if card is None else _text(expand(card))
  found = find_model(model)
  trained = read_model(found)
  stylizer = stylizer_of(trained, vgg_weights)
  own_vgg = vgg_weights or trained.vgg_file
  with contextlib.ExitStack() as stack:
    if found.is_dir():
      folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adaconv-")))
      bundle = folder / hub.MODEL_FILE
      save_bundle(stylizer, bundle, dtype="float16", info=trained.info())
    else:
      bundle = stack.enter_context(local_copy(found))
    files = {hub.MODEL_FILE: bundle}
    if own_vgg:
      files[hub.VGG_FILE] = stack.enter_context(local_copy(expand(own_vgg)))
    digests = {name: sha256(path) for name, path in files.items()}
    picture, described = _example(stylizer, *map(expand, example))
    written = model_card(repo, trained, digests, license=license, example=described, text=text)
    return hub.upload(
      repo,
      {hub.CARD_FILE: written.encode(), hub.EXAMPLE_FILE: picture, **files},
      private=private,
      revision=revision,
      message=message or "Upload a model of adaconv_jax",
    )


def pull(repo: str, output: str | Path | None = None, *, revision: str | None = None) -> Path:
  """Downloads a model to the cache of huggingface_hub, and checks that it is one.

  Args:
    repo: "user/name".
    output: where to copy it to; its VGG weights, if it has any, are copied beside it.
    revision: a branch, a tag or a commit; None for the newest.

  Returns:
    The path of the bundle.

  Raises:
    ValueError: see `hub.fetch` and `load_model`; or `output` cannot be written.
    OSError: the same.
  """
  named = hub.parse(repo if repo.startswith(hub.SCHEME) else f"{hub.SCHEME}{repo}")
  if named is None:
    named = hub.HubModel(hub.check_repo(repo))
  if named.revision and revision:
    raise ValueError(f"revision: expected one, got {named.revision!r} and {revision!r}")
  path = None if output is None else expand(output)
  if path is not None:
    check_output(path)
  if named.revision is None:
    named = named._replace(revision=revision)
  found = hub.fetch(named)
  trained = read_model(found)
  if path is None:
    return found
  with vgg_goes_along(trained, path), replacing(path) as temporary:
    shutil.copyfile(found, temporary)
  return path


def main(argv: Sequence[str] | None = None, *, prog: str = "adaconv hub") -> int:
  """Runs the command.

  Args:
    argv: its arguments; those of the process if None.
    prog: what help and errors call it.

  Returns:
    0, when everything is done.

  Raises:
    SystemExit: with one message, if a model cannot be used, or the Hub does not take or give it;
      with code 2, if the extra `hub` is missing.
  """
  args = _parser(prog).parse_args(argv)
  with or_exit(OSError, ValueError, ImageError, CheckpointError):
    print(printable(args.run(args)))
  return 0


def _push(args: argparse.Namespace) -> str:
  content, style = args.example
  commit = push(
    args.model,
    args.repo,
    vgg_weights=args.vgg_weights,
    private=args.private,
    revision=args.revision,
    license=args.license,
    card=args.card,
    example=(content, style),
    message=args.message,
  )
  return f"{hub.SCHEME}{hub.check_repo(args.repo)}@{commit}"


def _pull(args: argparse.Namespace) -> str:
  if args.output is not None:
    check_suffix(args.output)
  return str(pull(args.repo, args.output, revision=args.revision))


def _text(path: Path) -> str:
  try:
    return read_regular(path, at_most=MAX_CARD_BYTES).decode()
  except UnicodeDecodeError as error:
    raise ValueError(f"{path}: expected Markdown in UTF-8, got other bytes ({error})") from None


def _example(stylizer: Stylizer, content: Path, style: Path) -> tuple[bytes, str]:
  """Returns a JPEG of a content, a style and the result, and what is on it."""
  pictures = [_square(path) for path in (content, style)]
  stylized = inference.stylize(pictures[0], pictures[1], model=stylizer)
  sheet = images.contact_sheet([[*pictures, np.asarray(stylized)]])
  buffer = io.BytesIO()
  Image.fromarray(images.to_uint8(sheet)).save(buffer, "JPEG", quality=92)
  described = f"{content.stem}, the style {style.stem}, and {content.stem} in this style"
  return buffer.getvalue(), described


def _square(path: Path) -> np.ndarray:
  picture = images.decode(images.read_file(path), name=str(path), at_least=EXAMPLE_SIZE)
  return images.to_float(images.center_square(picture, EXAMPLE_SIZE, name=str(path)))


def _parser(prog: str = "adaconv hub") -> argparse.ArgumentParser:
  parser = Parser(prog=prog, description="Uploads and downloads models on the Hugging Face Hub.")
  commands = parser.add_subparsers(dest="command", metavar="push|pull", required=True)
  command = commands.add_parser(
    "push",
    help="upload a model, with a card and an example picture",
    description="Uploads a model, with a card and an example picture, in one commit. The "
    "repository is created if there is none. It needs a token that may write: `hf auth login`, or "
    "HF_TOKEN in the environment.",
  )
  add = command.add_argument
  add("model", type=path_text, metavar="MODEL", help=MODEL_HELP)
  add("repo", type=text_of("USER/NAME"), metavar="USER/NAME", help="the repository")
  add("--private", action="store_true", help="make a new repository private")
  add(
    "--revision",
    type=text_of("a branch"),
    metavar="BRANCH",
    help="the branch; default: the main one",
  )
  add(
    "--license",
    type=text_of("a name"),
    default=UNSTATED,
    metavar="NAME",
    help="the license of the model, such as apache-2.0; default: %(default)s",
  )
  add("--card", type=to_path, metavar="FILE", help="Markdown to put into the model card")
  add(
    "--example",
    type=to_path,
    nargs=2,
    default=EXAMPLE,
    metavar=("CONTENT", "STYLE"),
    help="the pictures of the card's example; default: two of the package",
  )
  add("--message", type=text_of("a text"), metavar="TEXT", help="the message of the commit")
  add_vgg_weights(command)
  command.set_defaults(run=_push)
  command = commands.add_parser(
    "pull",
    help="download a model",
    description="Downloads a model to the cache of huggingface_hub, where --model "
    "hf://USER/NAME finds it without a network, and prints its path.",
  )
  add = command.add_argument
  add("repo", type=text_of("USER/NAME"), metavar="USER/NAME", help="the repository")
  add(
    "--revision",
    type=text_of("a branch, a tag or a commit"),
    metavar="R",
    help="a branch, a tag or a commit",
  )
  add("--output", type=to_file, metavar="FILE", help="copy the model to this file")
  command.set_defaults(run=_pull)
  return parser
