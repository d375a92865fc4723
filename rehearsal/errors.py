"""How the control plane refuses: gRPC statuses, as the client expects them."""

import grpclib


def not_found(what: str) -> grpclib.GRPCError:
    """The client raises `modal.exception.NotFoundError`."""
    return grpclib.GRPCError(grpclib.Status.NOT_FOUND, what)


def invalid(what: str) -> grpclib.GRPCError:
    """The client raises `modal.exception.InvalidError`."""
    return grpclib.GRPCError(grpclib.Status.INVALID_ARGUMENT, what)


def exists(what: str) -> grpclib.GRPCError:
    """The client raises `modal.exception.AlreadyExistsError`."""
    return grpclib.GRPCError(grpclib.Status.ALREADY_EXISTS, what)


def not_now(what: str) -> grpclib.GRPCError:
    """The client raises what it raises for a failed precondition."""
    return grpclib.GRPCError(grpclib.Status.FAILED_PRECONDITION, what)


def full(what: str) -> grpclib.GRPCError:
    """The client raises `modal.exception.ResourceExhaustedError`, `queue.Full` for a queue."""
    return grpclib.GRPCError(grpclib.Status.RESOURCE_EXHAUSTED, what)
