"""The Git copy of every version of parameters that was ever live, so that their history can be reviewed like code.

A repository of its own, branch `parameters-live`: `schemas/parameters/<policy>.yaml` is the version that is live,
`schemas/parameters/<policy>/<version>.yaml` each that ever was. One commit a version, by its author, with its reason and at the
time it went live: whoever makes the copy, of the same store, makes the same commits. With a remote, the branch starts from
the remote's main branch and is pushed, so that it can be merged by a pull request. The store stays the truth: the copy is only
written, never read.
"""

import fcntl
import io
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from ruamel.yaml import YAML

from ..errors import PlatformError
from .fact_types import TypedPolicy
from .parameters import ParameterStore, ParameterVersion
from .values import time_text

BRANCH = "parameters-live"
FOLDER = "schemas/parameters"
"""Where the files stand in the repository."""
GIT_SECONDS = 60
_SILENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "gc.autoDetach=false")


class GitCopyError(PlatformError):
    """The copy could not be written or pushed. Nothing else depends on it; the next time does what is left."""


def print_version(version: ParameterVersion, typed: TypedPolicy) -> str:
    """A version as the YAML text that is kept in Git."""
    units = {parameter.name: parameter.unit for parameter in typed.policy.parameters}
    root = {
        "policy": version.policy,
        "version": version.version,
        "author": version.author,
        "approved_by": version.approved_by,
        "reason": version.reason,
        "created_at": time_text(version.created_at),
        "live_at": None if version.live_at is None else time_text(version.live_at),
        "values": {
            name: {"value": value, "unit": units[name]} if units.get(name) else {"value": value}
            for name, value in version.values.items()
        },
    }
    out = io.StringIO()
    YAML().dump(root, out)
    return out.getvalue()


def git_copy(store: ParameterStore, policy: str) -> dict[str, str]:
    """Texts of a policy's versions by file: `<policy>.yaml` is the one live now, `<policy>/<version>.yaml` each that ever was."""
    once = [each for each in store.versions(policy) if each.live_at is not None]
    typed = store.policies[policy]
    files = {f"{policy}/{each.version}.yaml": print_version(each, typed) for each in reversed(once)}
    return files | {f"{policy}.yaml": print_version(each, typed) for each in once if each.state == "live"}


def export_live(store: ParameterStore, folder: Path) -> list[Path]:
    """Write `git_copy` of every policy into a folder, for a commit; gives the files that changed."""
    return [
        file
        for policy in sorted(store.policies)
        for name, text in git_copy(store, policy).items()
        if _write(file := folder / name, text)
    ]


def commit_live(store: ParameterStore, folder: Path, remote: str = "") -> int:
    """Bring the repository in `folder` (made where there is none) up to date, and push its branch to `remote`.

    Gives the number of commits made. One process of a host at a time; GitCopyError where Git, the disk or the remote fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _commit_live(store, folder, remote)
    except OSError as error:
        raise GitCopyError(
            f"cannot be written: {error.strerror}", where=str(folder), fix="check the folder's permissions and space"
        ) from error


def _commit_live(store: ParameterStore, folder: Path, remote: str) -> int:
    if not (folder / ".git").exists():
        _git(folder, "init", "-q")
        _git(folder, "symbolic-ref", "HEAD", f"refs/heads/{BRANCH}")
    if remote:
        _begin_from(folder, remote)
    once = [each for policy in store.policies for each in store.versions(policy) if each.live_at is not None]
    commits = 0
    for version in sorted(once, key=lambda each: (each.live_at, each.policy, each.version)):
        text = print_version(version, store.policies[version.policy])
        changed = _write(folder / FOLDER / version.policy / f"{version.version}.yaml", text)
        if changed or version.state == "live":
            changed |= _write(folder / FOLDER / f"{version.policy}.yaml", text)
        if changed:
            commits += _commit(folder, version)
    if remote:
        _git(folder, "push", "-q", remote, f"HEAD:refs/heads/{BRANCH}")
    return commits


def _begin_from(folder: Path, remote: str) -> None:
    """Take over the remote's branch, or its main branch where it has none of ours; what was never pushed is made again."""
    heads = _git(folder, "ls-remote", remote, "HEAD", f"refs/heads/{BRANCH}").split()[1::2]
    wanted = f"refs/heads/{BRANCH}"
    if wanted in heads or ("HEAD" in heads and not _has_commits(folder)):
        _git(folder, "fetch", "-q", "--depth=1", remote, wanted if wanted in heads else "HEAD")
        _git(folder, "reset", "-q", "--hard", "FETCH_HEAD")


def _has_commits(folder: Path) -> bool:
    return any((folder / ".git" / "refs" / "heads").iterdir()) or (folder / ".git" / "packed-refs").exists()


def _commit(folder: Path, version: ParameterVersion) -> int:
    """Commit what was written for a version; 0 where Git sees no change."""
    _git(folder, "add", "--", FOLDER)
    if not _git(folder, "status", "--porcelain", "--", FOLDER):
        return 0
    at = datetime.fromtimestamp((version.live_at or 0) / 1e6, UTC).isoformat(timespec="seconds")
    name = version.author.translate({ord(each): " " for each in "<>\n\r"}).strip() or "nobody"
    reason = version.reason.strip().splitlines()[0][:200]
    second = f"\n\nApproved by {version.approved_by}." if version.approved_by else ""
    who = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", name), ("EMAIL", name if "@" in name else f"{name}@invalid"), ("DATE", at))
    }
    _git(folder, "commit", "-q", "-m", f"{version.policy} {version.version}: {reason}{second}", environment=who)
    return 1


def _write(file: Path, text: str) -> bool:
    """Write a file where it has not this text already; whether it was written."""
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return True


def _git(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Output of a Git command in the repository; nothing is ever asked of a person."""
    try:
        done = subprocess.run(
            ["git", *_QUIET, *arguments],
            cwd=folder,
            env=os.environ | _SILENT | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise GitCopyError("git is not installed", where="git", fix="install it beside the decision service") from None
    except subprocess.TimeoutExpired:
        raise GitCopyError(
            f"took more than {GIT_SECONDS} s", where=f"git {arguments[0]}", fix="see the remote"
        ) from None
    if done.returncode:
        # The remote may have a password in it, and Git repeats it.
        said = (done.stderr.strip().splitlines() or ["failed"])[-1]
        for each in arguments:
            if "://" in each:
                said = said.replace(each, "the remote")
        raise GitCopyError(said, where=f"git {arguments[0]} in {folder}", fix="mend it; the copy is tried again")
    return done.stdout
