"""The command `hpo`: its commands, and what a person sees when something goes wrong.

Exit codes: 0 done; 1 the study failed, or a check found something; 2 wrong input; 3 the store cannot be used;
130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

STUDY_FAILED, WRONG_INPUT, STORE_UNUSABLE, INTERRUPTED = 1, 2, 3, 130


def main() -> NoReturn:
    """Run the command line; every foreseen error is a few lines on standard error, a traceback only with --debug."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("HPO_DEBUG"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from hpo.cli.commands import app
        from hpo.cli.without_server import why_without

        if (reason := why_without(arguments)) is not None:
            print(f"hpo: {reason}", file=sys.stderr)
            sys.exit(WRONG_INPUT)
        app([argument for argument in arguments if argument != "--debug"], prog_name="hpo", standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `hpo studies | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if debug:
            raise
        sys.exit(_complain(error))
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(error: Exception) -> int:
    """Say what went wrong in a few lines; the exit code."""
    from hpo.errors import HpoError, StudyFailedError
    from storage.errors import SchemaOutdatedError, SchemaTooNewError, StorageError, StoreUnavailableError
    from trainers.errors import TrainerError

    if isinstance(error, StudyFailedError):
        code = STUDY_FAILED
    elif isinstance(error, StoreUnavailableError | SchemaOutdatedError | SchemaTooNewError):
        code = STORE_UNUSABLE
    elif isinstance(error, HpoError | StorageError | TrainerError):
        code = WRONG_INPUT
    else:
        print(f"hpo: unforeseen {type(error).__name__}: {error}\n(--debug shows where)", file=sys.stderr)
        return STUDY_FAILED
    print(f"hpo: {error}", file=sys.stderr)
    return code
