"""The Git copy of live parameters: a commit a version, made by whoever, the same on every host; pushed where there is a remote."""

import subprocess

import pytest

from dataplatform.fraud.git_copy import BRANCH, FOLDER, GitCopyError, commit_live
from dataplatform.fraud.parameters import ParameterStore
from dataplatform.fraud.policies import parse_policy

POLICY = """\
policy: transfer
event: e
unknown: monitor
parameters:
  min_membership: {type: INT64, unit: days, default: 30, min: 0, max: 365}
rules:
  - {name: new, when: age < $min_membership, level: hold}
"""


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def store(tmp_path):
    clock = iter(range(1_767_225_600_000_000, 2**60, 3_000_000))
    policies = {"transfer": parse_policy(POLICY)}
    store = ParameterStore(f"sqlite:///{tmp_path / 'p.sqlite'}", policies, clock=lambda: next(clock))
    store.grant("ed", "editor", by="root")
    return store


def go_live(store, days, base, reason):
    version = store.propose("transfer", {"min_membership": days}, base_version=base, by="ed", reason=reason).version
    store.advance("transfer", version, "live", by="ed")


@pytest.fixture
def remote(tmp_path):
    """A repository of the company, with a main branch."""
    work, bare = tmp_path / "work", tmp_path / "remote.git"
    git(tmp_path, "init", "-q", "-b", "main", str(work))
    (work / "README.md").write_text("The platform.\n")
    git(work, "add", ".")
    git(work, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "The platform.")
    git(tmp_path, "clone", "-q", "--bare", str(work), str(bare))
    return bare


def test_every_version_that_went_live_is_a_commit_of_its_author(store, tmp_path):
    copy = tmp_path / "copy"
    go_live(store, 70, 1, "A wave of mules.")
    assert commit_live(store, copy) == 2
    assert commit_live(store, copy) == 0
    go_live(store, 80, 2, "More of them.\nIn two lines.")
    store.rollback("transfer", by="ed", reason="Too many holds.")
    store.propose("transfer", {"min_membership": 99}, base_version=4, by="ed", reason="Never live.")
    assert commit_live(store, copy) == 2
    log = git(copy, "log", "--format=%an %s", BRANCH).splitlines()
    assert log == [
        "ed transfer 4: Too many holds.",
        "ed transfer 3: More of them.",
        "ed transfer 2: A wave of mules.",
        "git transfer 1: The defaults of the policy's file.",
    ]
    assert "-    value: 80\n+    value: 70" in git(copy, "show", "HEAD", "--", f"{FOLDER}/transfer.yaml")
    assert not git(copy, "status", "--porcelain")


def test_the_branch_of_the_remote_can_be_merged_and_is_the_same_from_every_host(store, tmp_path, remote):
    go_live(store, 70, 1, "A wave of mules.")
    assert commit_live(store, tmp_path / "one", str(remote)) == 2
    assert git(remote, "merge-base", "main", BRANCH) == git(remote, "rev-parse", "main")
    assert commit_live(store, tmp_path / "two", str(remote)) == 0
    # A host that could not push, and one that could: what the first has is made again on top of the other's.
    go_live(store, 80, 2, "More of them.")
    commit_live(store, tmp_path / "one", "")
    go_live(store, 90, 3, "Still more.")
    assert commit_live(store, tmp_path / "two", str(remote)) == 2
    commit_live(store, tmp_path / "one", str(remote))
    assert git(tmp_path / "one", "rev-parse", "HEAD") == git(remote, "rev-parse", BRANCH)
    assert git(remote, "rev-list", "--count", BRANCH) == "5\n"
    assert "value: 90" in git(remote, "show", f"{BRANCH}:{FOLDER}/transfer.yaml")


def test_what_could_not_be_pushed_goes_with_the_next(store, tmp_path, remote):
    go_live(store, 70, 1, "A wave of mules.")
    away = remote.with_name("away.git")
    remote.rename(away)
    for place in (str(remote), "http://ana:hunter2@127.0.0.1:1/x.git"):
        with pytest.raises(GitCopyError) as error:
            commit_live(store, tmp_path / "copy", place)
        assert "hunter2" not in str(error.value)
    away.rename(remote)
    assert commit_live(store, tmp_path / "copy", str(remote)) == 2
    assert "value: 70" in git(remote, "show", f"{BRANCH}:{FOLDER}/transfer.yaml")


def test_a_folder_that_cannot_be_written_is_told(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GitCopyError, match="cannot be written"):
        commit_live(store, tmp_path / "file" / "copy")
