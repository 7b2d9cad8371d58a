"""Around every command: whatever a user or the machine can cause ends in one line and an exit code."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from scclip_rt.errors import ScclipError, did_you_mean, printable

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class _Terminated(BaseException):
    """SIGTERM, as an exception: temporary files and folders are removed on the way out."""


class Parser(argparse.ArgumentParser):
    """Errors in one line with a code, like every other error of the command, and suggestions for misspelt options."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse, with `did you mean` for an option that does not exist."""
        parsed, extra = self.parse_known_args(args, namespace)
        if extra:
            known = {option for parser in _all_parsers(self) for option in parser._option_string_actions}
            hints = [did_you_mean(word.partition("=")[0], known) for word in extra if word.startswith("-")]
            hint = next((hint for hint in hints if hint), "")
            self.error(f"unknown argument{'s' if len(extra) > 1 else ''}: {' '.join(extra)}{hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        program = self.prog.split()[0]
        text = printable(" ".join(message.split()))
        self.exit(EXIT_ERROR, f"{program}: error: {text} (see `{self.prog} --help`) [OptionError]\n")


def _all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                yield from _all_parsers(child)


def guard(program: str, action: Callable[[], int]) -> int:
    """Run a command's action; whatever a user can cause ends in one line on standard error.

    Args:
        program: the name that begins the line.
        action: does the work and returns an exit code.

    Returns:
        The exit code: that of `action`, or 2, 130 after Ctrl-C, 143 after SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file name that is not UTF-8, or a terminal that can't show a letter, must not cost the result.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_raises():
            code = action()
            if sys.stdout is not None:
                sys.stdout.flush()  # a closed pipe shows here rather than in the interpreter's last breath
            return code
    except KeyboardInterrupt:
        _say(f"{program}: interrupted")
        return EXIT_INTERRUPTED
    except _Terminated:
        _say(f"{program}: terminated")
        return EXIT_TERMINATED
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`). What is still buffered must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (ScclipError, OSError, MemoryError, ImportError) as error:
        _say(f"{program}: error: {_one_line(error)} [{_code(error)}]")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # Standard output itself may be what is full, and would complain again when the interpreter ends.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_ERROR


def leave(code: int) -> NoReturn:
    """Exit with `code`; at once after Ctrl-C or SIGTERM."""
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        # The batch in the encoder can't be stopped and would hold a normal exit up for seconds.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """`kill` and `docker stop` end a command as Ctrl-C does: nothing half-written, nothing temporary left."""

    def handler(_: int, __: object) -> None:
        raise _Terminated

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)


def _code(error: BaseException) -> str:
    if isinstance(error, ScclipError):
        return error.code
    for kind in (MemoryError, ImportError):
        if isinstance(error, kind):
            return kind.__name__
    return "OSError"


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        about = f" ({' '.join(str(error).split())})" if str(error) else ""
        return printable(
            f"out of memory{about}; lower --batch, --short-side or --max-pixels, or give fewer images at a time"
        )
    if isinstance(error, ImportError):
        name = f"{error.name}: " if error.name else ""
        reason = printable(" ".join(str(error).split()))
        return (
            f"a package that this needs can't be loaded: {name}{reason}; install what is missing, or it again"
        )
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        hint = "; free some space there" if error.errno == errno.ENOSPC else ""
        return printable(f"{place}{error.strerror or error}{hint}")
    return printable(" ".join(str(error).split()))
