"""Refusals of the control plane: gRPC statuses, as the client expects them."""

import grpclib


def not_found(message: str) -> grpclib.GRPCError:
    """Return the error that the client raises as `modal.exception.NotFoundError`."""
    return grpclib.GRPCError(grpclib.Status.NOT_FOUND, message)


def invalid(message: str) -> grpclib.GRPCError:
    """Return the error that the client raises as `modal.exception.InvalidError`."""
    return grpclib.GRPCError(grpclib.Status.INVALID_ARGUMENT, message)


def already_exists(message: str) -> grpclib.GRPCError:
    """Return the error that the client raises as `modal.exception.AlreadyExistsError`."""
    return grpclib.GRPCError(grpclib.Status.ALREADY_EXISTS, message)


def failed_precondition(message: str) -> grpclib.GRPCError:
    """Return the error that the client raises for a failed precondition."""
    return grpclib.GRPCError(grpclib.Status.FAILED_PRECONDITION, message)


def unauthenticated(message: str) -> grpclib.GRPCError:
    """Return the error that the client raises as `modal.exception.AuthError`."""
    return grpclib.GRPCError(grpclib.Status.UNAUTHENTICATED, message)


def exhausted(message: str) -> grpclib.GRPCError:
    """Return the error that the client raises as `modal.exception.ResourceExhaustedError`; `queue.Full` for a queue."""
    return grpclib.GRPCError(grpclib.Status.RESOURCE_EXHAUSTED, message)
