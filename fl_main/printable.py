"""Text of others, fit for one line of a log, a table or an error."""


def printable(text: str) -> str:
    """Escape what could forge a line or steer a terminal: agents name themselves as they like."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of somebody else's code says; its type if it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
