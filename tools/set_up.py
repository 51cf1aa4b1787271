"""Makes the environments of this project: `python3 tools/set_up.py` (what `make setup` runs).

Needs Python 3.11 or newer with venv, and a package index; nothing else. It finds Python 3.13, and makes

    .venv            the project, installed in place, with the command `dataplatform`
    .venv-bigquery   the embedded BigQuery server, with DuckDB's extensions
    .venv-mongo      the embedded MongoDB-protocol server

from the lock files beside pyproject.toml, exactly. It is quick when nothing has changed: each environment holds a stamp of what
it was made from. pip's and uv's own settings (index, certificates, proxies: environment or pip.conf) are respected.
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
WANTED = "3.13"
ENVIRONMENTS = {
    # environment: (its lock file, whether the project is installed into it)
    ".venv": ("requirements.lock", True),
    ".venv-bigquery": ("requirements-bigquery.lock", False),
    ".venv-mongo": ("requirements-mongo.lock", False),
}
EXTENSIONS = ("icu", "ducklake", "spatial")
STAMP = ".made-from"


class CannotSetUp(Exception):
    """What is missing and what to do about it."""


def main() -> int:
    """Make what is missing or out of date."""
    if all(is_current(name) for name in ENVIRONMENTS):
        return 0
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two at once the second finds the work done
        try:
            set_up()
        except CannotSetUp as error:
            print(f"set-up: {error}", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            print(f"set-up: failed with {error.returncode}: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
            return 1
    return 0


def set_up() -> None:
    """Make every environment that is not current."""
    started = time.monotonic()
    due = [name for name in ENVIRONMENTS if not is_current(name)]
    if not due:
        return
    say(f"{', '.join(due)} to make")
    uv = find_uv()
    python = find_python(uv)
    say(f"Python {WANTED}: {python}")
    for name in due:
        lock, with_project = ENVIRONMENTS[name]
        make(name, python, ROOT / lock, with_project, uv)
        if name == ".venv-bigquery":
            bring_extensions(ROOT / name)
        (ROOT / name / STAMP).write_text(made_from(name))
        say(f"{name} is ready")
    say(f"done in {time.monotonic() - started:.0f} s")


def is_current(name: str) -> bool:
    """Whether an environment was made from what is here now, and its Python still exists."""
    folder = ROOT / name
    try:
        return (folder / STAMP).read_text() == made_from(name) and (folder / "bin" / "python").exists()
    except OSError:
        return False


def made_from(name: str) -> str:
    """Digest of all that decides what is in an environment."""
    lock, with_project = ENVIRONMENTS[name]
    digest = hashlib.sha256(str(ROOT).encode())  # programs in an environment hold its path
    for file in (ROOT / lock, Path(__file__), *([ROOT / "pyproject.toml"] if with_project else [])):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def find_uv() -> "Path | None":
    """uv at the version of requirements-tools.lock, in a small environment of its own; None where it cannot be had."""
    folder = TOOLS / "uv"
    program = folder / "bin" / "uv"
    lock = ROOT / "requirements-tools.lock"
    stamp = folder / STAMP
    if not (program.exists() and stamp.exists() and stamp.read_text() == lock.read_text()):
        say("uv from the package index")
        make_venv(Path(sys.executable), folder)
        try:
            run(folder / "bin" / "python", "-m", "pip", "install", "-qqq", "--requirement", lock)
        except subprocess.CalledProcessError:
            say("no uv for this machine; pip does its work, slower")
            return None
        stamp.write_text(lock.read_text())
    adopt_pip_settings(folder / "bin" / "python")
    if not os.environ.get("HOME") and "UV_CACHE_DIR" not in os.environ:
        os.environ["UV_CACHE_DIR"] = str(TOOLS / "uv-cache")
    return program


def adopt_pip_settings(python: Path) -> None:
    """uv does not read pip's configuration: hand on what is set there, unless uv has a setting of its own."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
        "trusted-host": "UV_INSECURE_HOST",
        "timeout": "UV_HTTP_TIMEOUT",
        "default-timeout": "UV_HTTP_TIMEOUT",
    }
    for line in listed.splitlines():
        key, _, quoted = line.partition("=")
        name = names.get(key.rpartition(".")[2])
        value = " ".join(quoted.strip().strip("'\"").replace("\\n", " ").split())
        if name and value and name not in os.environ:
            if name == "UV_INDEX":  # pip looks into all indexes alike, and so must uv then
                os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
            os.environ[name] = value.replace(" ", ",") if name == "UV_FIND_LINKS" else value


def find_python(uv: "Path | None") -> Path:
    """An interpreter of the wanted version: this one, one on the PATH, pyenv's, one that uv knows or can get."""
    candidates = [Path(sys.executable), *on_path(f"python{WANTED}"), *of_pyenv()]
    for candidate in candidates:
        if is_wanted(candidate):
            return candidate
    if uv:
        found = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", WANTED], capture_output=True, text=True, check=False
        ).stdout.strip()
        if found and is_wanted(Path(found)):
            return Path(found)
        say(f"no Python {WANTED} here; trying to get one")
        environment = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(TOOLS / "python")}
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([uv, "python", "install", WANTED], env=environment, timeout=300, check=False)
        for candidate in sorted((TOOLS / "python").glob(f"cpython-{WANTED}*/bin/python{WANTED}")):
            if is_wanted(candidate):
                return candidate
    raise CannotSetUp(
        f"Python {WANTED} is needed, and none was found on the PATH, in pyenv's folder or by uv, nor could uv get one.\n"
        f"    mend: install it (pyenv install {WANTED}; brew install python@{WANTED}; apt install python{WANTED} "
        f"python{WANTED}-venv; uv python install {WANTED}), then run this again"
    )


def on_path(name: str) -> "list[Path]":
    """Every program of that name on the PATH."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return [Path(found) for folder in folders if (found := shutil.which(name, path=folder))]


def of_pyenv() -> "list[Path]":
    """The interpreters of the wanted version that pyenv has installed, newest first."""
    root = Path(os.environ.get("PYENV_ROOT") or Path(os.environ.get("HOME") or "/") / ".pyenv")
    found = root.glob(f"versions/{WANTED}.*/bin/python{WANTED}")
    return sorted(found, key=lambda path: [int(n) for n in path.parts[-3].split(".") if n.isdigit()], reverse=True)


def is_wanted(python: Path) -> bool:
    """Whether it runs, is of the wanted version, and can make environments."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2], sys.prefix == sys.base_prefix)"
    try:
        answer = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.split() == [WANTED, "True"]


def make(name: str, python: Path, lock: Path, with_project: bool, uv: "Path | None") -> None:
    """An environment that holds exactly what its lock file says."""
    folder = ROOT / name
    (folder / STAMP).unlink(missing_ok=True)
    inside = folder / "bin" / "python"
    if uv:
        try:
            if not is_made_with(inside, python):
                run(uv, "venv", "--quiet", "--no-config", "--clear", "--python", python, folder)
            pip = [uv, "pip", "--quiet", "--no-config"]
            # Compiled now, as pip does: a shell may keep Python from it later, and every process would do it anew.
            run(*pip, "sync", "--compile-bytecode", "--python", inside, lock)
            if with_project:
                run(*pip, "install", "--python", inside, "--no-deps", "--no-build-isolation", "--editable", ROOT)
        except subprocess.CalledProcessError:
            say(f"uv could not make {name}; pip tries, slower")
        else:
            return
    make_venv(python, folder)
    pip = [inside, "-m", "pip", "install", "--quiet", "--no-deps"]
    run(*pip, "--requirement", lock)
    if with_project:
        run(*pip, "--no-build-isolation", "--editable", ROOT)


def is_made_with(inside: Path, python: Path) -> bool:
    """Whether an environment exists, works, and is of that Python."""
    prefixes = []
    for interpreter, prefix in ((inside, "base_prefix"), (python, "prefix")):
        code = f"import sys; print(sys.{prefix})"
        try:
            done = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        prefixes.append(done.stdout)
    return prefixes[0] == prefixes[1]


def make_venv(python: Path, folder: Path) -> None:
    """A new environment with pip, by the standard library's venv."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if python == Path(sys.executable):
            venv.create(folder, with_pip=True, symlinks=True)
        else:
            run(python, "-m", "venv", folder)
    except (subprocess.CalledProcessError, OSError) as error:
        raise CannotSetUp(f"{python} cannot make environments ({error})\n    mend: install its venv module") from error


def bring_extensions(folder: Path) -> None:
    """Put DuckDB's extensions from their wheels where the server looks for them, and see that each loads."""
    code = f"""
import duckdb, duckdb_extensions
connection = duckdb.connect(config={{"extension_directory": {str(folder / "extensions")!r}}})
for name in {EXTENSIONS!r}:
    duckdb_extensions.import_extension(name, force_install=True, con=connection)
    connection.execute(f"LOAD {{name}}")
"""
    run(folder / "bin" / "python", "-c", code)


def run(*command: object) -> None:
    """Run a command that must succeed; what it prints is shown."""
    subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL)


def say(line: str) -> None:
    """A line of progress."""
    print(f"set-up: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
