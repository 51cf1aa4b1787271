"""The errors a user can cause or mend: what went wrong, where, and the way out."""


class PlatformError(Exception):
    """Base of the errors that are printed without a traceback.

    `where` names the file, setting, URL or table; `fix` says what to do about it.
    """

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"\n    mend: {self.fix}" if self.fix else ""
        return f"{where}{self.message}{fix}"
