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
    prefix = _git(root, "rev-parse", "--show-prefix") or ""
    top = Path(_git(root, "rev-parse", "--show-toplevel") or root)
    tree = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}:{prefix}")
    if tree is None:
        return {}
    # From the top: inside of a folder, `git archive` would look for the folder within the tree that it is asked for.
    archive = _run(top, "archive", "--format=tar", tree)
    sources: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.name.endswith((".yaml", ".yml")) else None
            if content is not None:
                sources[member.name] = content.read()
    return sources


def _git(root: Path, *arguments: str) -> str | None:
    """The line that Git prints, or None where it quietly says no."""
    done = _run(root, *arguments)
    return done.stdout.decode().removesuffix("\n") if done.returncode == 0 else None


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise _error(root, "git_failed", f"git cannot be run: {error.strerror}", "install Git") from error
    if done.returncode and done.stderr:
        reason = done.stderr.decode(errors="replace").strip().split("\n")[0]
        raise _error(root, "git_failed", f"git says: {reason}", "compare inside of a Git repository that you may read")
    return done


def _error(root: Path, code: str, message: str, fix: str) -> ContractError:
    return ContractError([Problem(root, 0, "", code, message, fix)])
