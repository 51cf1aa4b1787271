"""What is wrong with a contract, where, and how to mend it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one contract file.

    `line` is 1-based and 0 where the whole file is meant; `path` is a dotted path inside the document such as
    `params[2].fields[0].type`; `code` is stable and machine-readable; `fix` says what to do.
    """

    file: Path
    line: int
    path: str
    code: str
    message: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        path = f" {self.path}:" if self.path else ""
        return f"{where}:{path} {self.message} [{self.code}]\n    mend: {self.fix}"


class ContractError(Exception):
    """One or more contracts cannot be used. `problems` holds every mistake found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
