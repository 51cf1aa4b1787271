"""The contracts as they stood at a commit of the Git repository that their folder is in."""

import io
import subprocess
import tarfile
from pathlib import Path

from .errors import ContractError, Problem
from .load import Contracts, Sources, parse_contracts


def contracts_at(root: Path, reference: str) -> tuple[Contracts, list[Problem]]:
    """The contracts of the folder `root` at a commit, branch or tag; those that did not hold then are among the problems.

    Raises ContractError where there is no such commit, no repository or no Git.
    """
    sources = sources_at(root, reference)
    return parse_contracts(sources, root) if sources else (Contracts(), [])


def sources_at(root: Path, reference: str) -> Sources:
    """The files of the folder at a commit; none, if it was not there yet. Nothing in the working tree is touched."""
    commit = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    if commit is None:
        raise _error(root, "unknown_reference", f"`{reference}` is no commit, branch or tag here", "look at `git log`")
    prefix = (_git(root, "rev-parse", "--show-prefix") or b"").decode().strip()
    top = (_git(root, "rev-parse", "--show-toplevel") or b"").decode().strip()
    tree = f"{commit.decode().strip()}:{prefix}"
    # From the top: inside of a folder, `git archive` would look for the folder within the tree that it is asked for.
    archive = _git(Path(top), "archive", "--format=tar", tree)
    if archive is None:
        return {}
    sources: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.name.endswith((".yaml", ".yml")) else None
            if content is not None:
                sources[member.name] = content.read()
    return sources


def _git(root: Path, *arguments: str) -> bytes | None:
    """What Git prints, or None where it says no."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise _error(root, "no_git", f"git cannot be run: {error.strerror}", "install Git") from error
    if done.returncode and b"not a git repository" in done.stderr:
        raise _error(root, "no_repository", "the folder is in no Git repository", "give a folder that is")
    return done.stdout if done.returncode == 0 else None


def _error(root: Path, code: str, message: str, fix: str) -> ContractError:
    return ContractError([Problem(root, 0, "", code, message, fix)])
