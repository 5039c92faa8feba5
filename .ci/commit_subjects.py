"""Checks the first lines of commit messages: imperative, at most 72 characters.

  python .ci/commit_subjects.py [BASE]          the new commits of this branch
  python .ci/commit_subjects.py --message FILE  a message that is being written

New commits are those after BASE, else after the last tag, else from the commit that added this
file. In a shallow clone that does not reach back that far, they are all of its commits.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

LONGEST = 72
# First words of a statement or a title, where an imperative has its verb.
NO_VERBS = set(
  "a all an as both each every for his how in it its no now of on one our some the their there "
  "these they this those to two we what when where which with".split()
)
# Verbs that end like another form of a verb, or like a plural.
VERBS = set("bias bring embed focus shed shred spring string".split())


def fault(subject: str) -> str | None:
  """Says what is wrong with the first line of a message; None if nothing is.

  In English an imperative has no form of its own, so only what cannot be one is refused: an article
  or the like, and a first word that ends in "ed", "ing", "s" or a colon.
  """
  if len(subject) > LONGEST:
    return f"{len(subject)} characters; the most are {LONGEST}"
  word = re.match(r"[A-Za-z]+(?=,?\s|$)", subject)
  if not word:
    return "expected a verb first, such as Add or Fix"
  verb = word[0].lower()
  if verb in NO_VERBS or (verb not in VERBS and re.search(r"([^e]ed|ing|[^s]s)$", verb)):
    return f"expected a verb in the imperative first, such as Add or Fix, got {word[0]!r}"
  if subject.endswith("."):
    return "a subject ends without a period"
  return None


def _git(*args: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(["git", *args], capture_output=True, text=True)


def _lines(*args: str) -> list[str]:
  done = _git(*args)
  if done.returncode:
    sys.exit(done.stderr.strip())
  return done.stdout.splitlines()


def new_commits(base: str | None) -> list[str]:
  """Hashes of the commits after `base`, as the module's docstring says."""
  if base:
    if _git("cat-file", "-e", f"{base}^{{commit}}").returncode == 0:
      return _lines("rev-list", "--no-merges", f"{base}..HEAD")
    if _lines("rev-parse", "--is-shallow-repository") == ["true"]:
      return _lines("rev-list", "--no-merges", "HEAD")
    sys.exit(f"BASE: expected a commit of this repository, got {base!r}")
  tag = _git("describe", "--tags", "--abbrev=0")
  if tag.returncode == 0:
    return _lines("rev-list", "--no-merges", f"{tag.stdout.strip()}..HEAD")
  # The oldest commit of a shallow clone adds every file.
  added = _lines("log", "--diff-filter=A", "--format=%H", "--", __file__)[-1:]
  return [*_lines("rev-list", "--no-merges", f"{added[0]}..HEAD"), *added] if added else []


def first_line(message: str) -> str:
  """Returns the subject of a message that may have Git's comments."""
  written = [line for line in message.splitlines() if line.strip() and not line.startswith("#")]
  return written[0].strip() if written else ""


def _main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("base", nargs="?", help="the last commit that is not new")
  parser.add_argument("--message", type=Path, help="a file with one message")
  args = parser.parse_args()
  if args.message:
    subjects = {"": first_line(args.message.read_text())}
  else:
    commits = new_commits(args.base)
    subjects = {c[:10] + " ": _lines("show", "--no-patch", "--format=%s", c)[0] for c in commits}
  faults = [(c, subject, fault(subject)) for c, subject in subjects.items() if fault(subject)]
  for commit, subject, what in faults:
    print(f"{commit}{subject}\n  {what}", file=sys.stderr)
  if faults:
    sys.exit(1)
  if not args.message:
    print(f"{len(subjects)} new commits: their subjects are imperative and short")


if __name__ == "__main__":
  _main()
