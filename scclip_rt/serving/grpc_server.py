"""KServe v2 over gRPC (extra `serve-grpc`), in the event loop of the HTTP server and over the same service.

Messages are made from `open_inference.desc` at run time, in a pool of their own: no generated code that ties
the version of protobuf, and no clash with a client library in the same process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from starlette.datastructures import Headers

from scclip_rt import __version__
from scclip_rt.serving import kserve
from scclip_rt.serving.body import parsed
from scclip_rt.serving.errors import BadRequestError, NotFoundError, UnauthorisedError, message_of, status_of
from scclip_rt.serving.service import Service, Visit
from scclip_rt.serving.watch import has_key

_log = logging.getLogger("scclip_rt.serving")
_SERVICE = "inference.GRPCInferenceService"
_ENVELOPE_BYTES = 1 << 20  # names, shapes and classes around an image
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
Messages = dict[str, Any]


class GrpcServer:
    """The gRPC side of a service.

    Args:
        service: what answers.
        host: address.
        port: 0 takes a free one; `port` says which.
        grace: seconds that accepted calls have at the end.
    """

    def __init__(self, service: Service, *, host: str, port: int, grace: float = 30.0) -> None:
        self._service = service
        self._grace = grace
        self._address = f"[{host}]" if ":" in host else host
        self.port = port
        self._messages = load_messages()
        self._server: Any = None

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            RuntimeError: the address is taken.
        """
        limits = self._service.settings.limits
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.max_bytes + _ENVELOPE_BYTES),
                ("grpc.max_send_message_length", -1),
            ]
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self.port = self._server.add_insecure_port(f"{self._address}:{self.port}")
        await self._server.start()
        _log.info("gRPC on %s:%d", self._address, self.port)

    async def stop(self) -> None:
        """Answer what was accepted, then end."""
        if self._server is not None:
            await self._server.stop(self._grace)

    def _handlers(self) -> Any:
        calls: dict[str, Callable[..., Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, call),
                request_deserializer=self._messages[f"{name}Request"].FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, call in calls.items()
        }
        return grpc.method_handlers_generic_handler(_SERVICE, handlers)

    def _guarded(
        self, name: str, call: Callable[..., Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """A call behind the key, counted, with errors as status codes."""

        async def guarded(request: Any, context: Any) -> Any:
            start, status = time.monotonic(), 200
            try:
                self._check_key(name, context)
                return await (call(request, context) if name == "ModelInfer" else call(request))
            except asyncio.CancelledError:
                status = 499
                raise
            except Exception as error:
                status = status_of(error)
                if status == 500:
                    _log.error("a gRPC call failed: %s", error, exc_info=error)
                await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), message_of(error))
            finally:
                self._service.metrics.answered(f"grpc {name}", status, time.monotonic() - start)

        return guarded

    def _check_key(self, name: str, context: Any) -> None:
        key = self._service.settings.api_key
        if key is None or name in ("ServerLive", "ServerReady"):
            return
        pairs = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        if not has_key(Headers(pairs), key):
            raise UnauthorisedError("send the server's key as metadata x-api-key or authorization: Bearer")

    async def _live(self, _: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _ready(self, _: Any) -> Any:
        return self._messages["ServerReadyResponse"](ready=self._service.ready)

    async def _model_ready(self, request: Any) -> Any:
        kserve.check_version(request.version)
        models = self._service.models()
        if request.name not in models:
            raise NotFoundError(f"no model is called {request.name!r}; this server has {', '.join(models)}")
        return self._messages["ModelReadyResponse"](ready=models[request.name] is not None)

    async def _server_metadata(self, _: Any) -> Any:
        return self._messages["ServerMetadataResponse"](**kserve.server_metadata(__version__))

    async def _model_metadata(self, request: Any) -> Any:
        kserve.check_version(request.version)
        return self._messages["ModelMetadataResponse"](
            **kserve.model_metadata(self._service.model(request.name))
        )

    async def _infer(self, request: Any, context: Any) -> Any:
        kserve.check_version(request.model_version)
        visit = self._service.visit()
        left = context.time_remaining()
        if left is not None:
            visit.deadline = min(visit.deadline, time.monotonic() + left)
        wanted = await parsed(request.ByteSize(), lambda: read_request(request))
        try:
            return await self._answer(wanted, visit)
        except asyncio.CancelledError:  # the client has gone
            visit.cancel()
            raise

    async def _answer(self, wanted: kserve.InferRequest, visit: Visit) -> Any:
        return await self._service.segment(
            wanted.query, lambda answer: self._write(kserve.answer_of(wanted, answer)), visit
        )

    def _write(self, answer: kserve.InferAnswer) -> Any:
        """In a worker."""
        response = self._messages["ModelInferResponse"](
            model_name=answer.model, model_version=kserve.VERSION, id=answer.id
        )
        for output in answer.outputs:
            response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            response.raw_output_contents.append(output.raw())
        return response


def load_messages() -> Messages:
    """The protocol's message classes by name."""
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (resources.files("scclip_rt.serving") / "open_inference.desc").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{file.package}.{message.name}")
        )
        for file in files.file
        for message in file.message_type
    }


def read_request(request: Any) -> kserve.InferRequest:
    """A `ModelInferRequest` to what is asked for.

    Raises:
        BadRequestError: as over HTTP, or contents that don't go with the inputs.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(f"{len(request.inputs)} inputs and {len(raw)} raw contents; send one for each")
    tensors = [
        kserve.Tensor(
            name=tensor.name,
            shape=tuple(tensor.shape),
            datatype=tensor.datatype,
            raw=raw[index] if raw else None,
            data=None if raw else _contents(tensor),
        )
        for index, tensor in enumerate(request.inputs)
    ]
    parameters = _parameters(request.parameters)
    names = [kserve.check_output(output.name, _parameters(output.parameters)) for output in request.outputs]
    names = names or list(kserve.default_outputs(parameters))
    query = kserve.make_query(parameters, tensors, names, model=request.model_name)
    return kserve.InferRequest(id=request.id, query=query, outputs=tuple((name, True) for name in names))


def _contents(tensor: Any) -> list[Any]:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequestError(f"input {tensor.name!r} must be BYTES or UINT8; got {tensor.datatype}")
    return list(getattr(tensor.contents, field))


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(parameter, parameter.WhichOneof("parameter_choice"))
        for name, parameter in parameters.items()
        if parameter.WhichOneof("parameter_choice")
    }
