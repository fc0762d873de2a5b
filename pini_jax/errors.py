"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, and how to mend it.

    `main` prints it as one line, without a traceback, and exits with status 1.
    """
