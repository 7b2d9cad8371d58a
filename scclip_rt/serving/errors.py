"""What can go wrong with a request, and the HTTP status that says so."""

from scclip_rt.errors import BackendError, ImageError, OptionError, OutputError, ScclipError, VocabularyError


class ServingError(ScclipError):
    """A request that is not answered with a result.

    Attributes:
        status: HTTP status code.
        retry_after: seconds after which another try makes sense, or None.
    """

    status = 500

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ServingError):
    """A request that does not say what its route needs."""

    status = 400


class UnauthorisedError(ServingError):
    """No key, or a wrong one."""

    status = 401


class NotFoundError(ServingError):
    """A model, vocabulary or output that is not here."""

    status = 404


class NotAcceptableError(ServingError):
    """None of the media types that the client accepts is made here."""

    status = 406


class SlowRequestError(ServingError):
    """A body that did not arrive in time."""

    status = 408


class TooLargeError(ServingError):
    """More bytes, pixels or classes than the limits."""

    status = 413


class UnsupportedMediaError(ServingError):
    """A content type or coding that is not read here."""

    status = 415


class ClientGoneError(ServingError):
    """The client closed the connection; nobody reads the answer, the log shows 499."""

    status = 499


class BusyError(ServingError):
    """The queue is full."""

    status = 503


class NotReadyError(ServingError):
    """The model is not loaded yet, or the server is on its way down."""

    status = 503


class DeadlineError(ServingError):
    """No answer within the deadline."""

    status = 504


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; what is not foreseen is 500."""
    if isinstance(error, ServingError):
        return error.status
    if isinstance(error, ImageError | VocabularyError | OptionError):
        return 400
    if isinstance(error, OutputError):
        return 507
    if isinstance(error, MemoryError):
        return 503
    return 500


def message_of(error: BaseException) -> str:
    """One line for the client. What is not foreseen goes to the log, not over the wire."""
    if isinstance(error, MemoryError):
        return "out of memory; send a smaller image, or fewer at a time"
    if isinstance(error, ScclipError) and not isinstance(error, BackendError):
        return " ".join(str(error).split())
    if isinstance(error, BackendError):
        return "the encoder failed; the server's log says why"
    return "internal error; the server's log says why"
