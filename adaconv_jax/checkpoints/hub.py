"""Trained models on the Hugging Face Hub: `hf://user/name`, or `hf://user/name@revision`.

A repository holds a bundle, `model.safetensors`, and where the model has VGG weights of its own,
`model.vgg.safetensors`. The cache is that of huggingface_hub, so what was pulled once loads without
a network. Its environment variables apply: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adaconv_jax.extras import MissingExtra
from adaconv_jax.files import printable

SCHEME = "hf://"
MODEL_FILE, VGG_FILE, CARD_FILE, EXAMPLE_FILE = (
  "model.safetensors",
  "model.vgg.safetensors",
  "README.md",
  "example.jpg",
)
DEFAULT_REVISION = "main"

# `Path` makes one slash of two. With a file's path after the name, it is a file like any other.
_REF = re.compile(r"hf:/{1,2}([^/@]*(?:/[^/@]*)?)(?:@(.*))?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_DOUBLED = re.compile(r"--|\.\.|[.-]/")
_LOG_IN = "give a token that may: `hf auth login`, or HF_TOKEN in the environment"


class HubModel(NamedTuple):
  """A model on the Hub.

  Attributes:
    repo: "user/name".
    revision: a branch, a tag or a commit; None for the newest.
  """

  repo: str
  revision: str | None = None

  def __str__(self) -> str:
    return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse(model: str | os.PathLike[str]) -> HubModel | None:
  """Returns the model that `hf://user/name` or `hf://user/name@revision` names; None for others.

  It may be a name that no repository has, which `fetch` refuses.
  """
  match = _REF.fullmatch(os.fspath(model))
  return None if match is None else HubModel(match[1], match[2])


def check_repo(repo: str) -> str:
  """Returns "user/name", also of `hf://user/name`, without a revision.

  Raises:
    ValueError: it is none.
  """
  text = repo.removeprefix(SCHEME)
  user, _, name = text.partition("/")
  known = _NAME.fullmatch(user) and _NAME.fullmatch(name)
  if not known or _DOUBLED.search(text) or text.endswith((".", "-", ".git")):
    raise ValueError(
      f"repository: expected USER/NAME of letters, digits, '_', and single '-' and '.' between "
      f"them, got {printable(repo)!r}"
    )
  return text


def fetch(model: HubModel) -> Path:
  """Downloads a model, or finds it in the cache of huggingface_hub.

  Returns:
    The path of the bundle; its VGG weights are beside it, if it has any.

  Raises:
    ValueError: the extra `hub` is missing; there is no such repository, revision or model in it; it
      is private and no token is given; or there is no network, and it is not in the cache.
  """
  check_repo(model.repo)
  if model.revision == "":
    raise ValueError(f"{model}@: expected a branch, a tag or a commit after the @, got none")
  hub = _library()
  with explained(model):
    path = Path(hub.hf_hub_download(model.repo, MODEL_FILE, revision=model.revision))
    # Of the same commit, in whose folder the file is. The cache also knows what a commit has not.
    commit = path.parent.name
    if hub.try_to_load_from_cache(model.repo, VGG_FILE, revision=commit) is None:
      with contextlib.suppress(hub.errors.RemoteEntryNotFoundError):
        hub.hf_hub_download(model.repo, VGG_FILE, revision=commit)
  return path


def upload(
  repo: str,
  files: Mapping[str, Path | bytes],
  *,
  private: bool = False,
  revision: str | None = None,
  message: str = "Upload a model of adaconv_jax",
) -> str:
  """Uploads files in one commit; creates the repository, and the branch, if there is none.

  Args:
    repo: "user/name".
    files: by their names in the repository.
    private: whether a new repository is private; of one that is there, nothing changes.
    revision: the branch; None for the main one.
    message: of the commit.

  Returns:
    The hash of the commit.

  Raises:
    ValueError: the extra `hub` is missing, no token is given, it may not write there, or there is
      no network.
  """
  check_repo(repo)
  hub = _library()
  with explained(HubModel(repo, revision), writing=True):
    api = hub.HfApi()
    api.create_repo(repo, private=private or None, exist_ok=True)
    if revision is not None:
      api.create_branch(repo, branch=revision, exist_ok=True)
    operations = [
      hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
      for name, content in files.items()
    ]
    done = api.create_commit(repo, operations, commit_message=message, revision=revision)
  return str(done.oid)


@contextlib.contextmanager
def explained(model: HubModel, *, writing: bool = False) -> Iterator[None]:
  """Turns the errors of huggingface_hub into one line each.

  Args:
    model: what is asked for.
    writing: whether it is to be changed.

  Raises:
    ValueError: in place of any of them.
  """
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    raise ValueError(f"{model}: {_reason(model, error, writing)}") from error
  except (LookupError, TypeError, AttributeError) as error:
    # The library takes an answer apart that is not one of a Hub.
    raise ValueError(
      f"{model}: the answer is not one of a Hub ({type(error).__name__}: {_line(error)}); check "
      "the network, and HF_ENDPOINT if it is set"
    ) from error
  except Exception as error:
    # The library's own, and of the client that it makes requests with, whose name has changed.
    if type(error).__module__.partition(".")[0] not in _CLIENTS:
      raise
    raise ValueError(f"{model}: {_reason(model, error, writing)}") from error


_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


def _reason(model: HubModel, error: BaseException, writing: bool) -> str:
  errors = _library().errors
  chain = _chain(error)
  if _first(chain, errors.GatedRepoError):
    return f"gated; ask for access on its page, and {_LOG_IN}"
  if _first(chain, errors.RevisionNotFoundError):
    return f"the repository has no revision {model.revision or DEFAULT_REVISION!r}"
  if _first(chain, errors.RepositoryNotFoundError):
    return (
      f"there is no such repository, or it is private or not yours; if it is private, {_LOG_IN}"
    )
  if _first(chain, errors.RemoteEntryNotFoundError):
    return (
      f"the repository has no {MODEL_FILE}, as `adaconv hub push` writes it, so it is no model of "
      "this package"
    )
  answered = _first(chain, errors.HfHubHTTPError)
  status = getattr(getattr(answered, "response", None), "status_code", None)
  if status in (401, 403) and not isinstance(error, RuntimeError):  # of a storage's answer
    what = "may not write there" if writing else "may not read it"
    return f"the token {what}; {_LOG_IN}"
  if _first(chain, errors.LocalTokenNotFoundError):
    return f"no token is given; {_LOG_IN}"
  if status is not None:
    return f"the Hub answered with an error ({status}: {_line(answered)}); try again later"
  if _first(chain, errors.OfflineModeIsEnabled):
    if writing:
      return "HF_HUB_OFFLINE is set, but an upload needs a network; unset it"
    return (
      "not in the cache, and HF_HUB_OFFLINE is set; unset it once, or pull the model where there "
      "is a network"
    )
  if isinstance(error, FileNotFoundError | ConnectionError) or not isinstance(error, OSError):
    stored = "" if writing else ", and it is not in the cache"
    return f"the Hub cannot be reached ({_line(chain[-1])}){stored}; check the network"
  return _line(error)


def _chain(error: BaseException | None) -> list[BaseException]:
  """Returns an error and what it came from; the library wraps what a request failed of."""
  chain: list[BaseException] = []
  while error is not None and error not in chain:
    chain.append(error)
    error = error.__cause__ or error.__context__
  return chain


def _first(chain: list[BaseException], kind: Any) -> BaseException | None:
  return next((error for error in chain if isinstance(error, kind)), None)


def _line(error: BaseException | None) -> str:
  return printable(" ".join(str(error).split()))[:200] or type(error).__name__


def check_installed() -> None:
  """Raises `MissingExtra`, if the extra `hub` is missing."""
  _library()


def _library() -> Any:
  try:
    import huggingface_hub  # pyright: ignore[reportMissingImports]
    import huggingface_hub.errors  # pyright: ignore[reportMissingImports]
  except ModuleNotFoundError as error:
    raise MissingExtra(
      f"{SCHEME} needs the package huggingface_hub, which is missing: pip install "
      "'adaconv_jax[hub]'"
    ) from error
  return huggingface_hub
