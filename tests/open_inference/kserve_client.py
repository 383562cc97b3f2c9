"""`python -m tests.open_inference.kserve_client ADDRESS`: KServe's client, beside our own."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tests.open_inference.workload import CASES, compare, expected, inputs


def request(
    model: str, arrays: dict[str, Any], parameters: dict[str, Any], *, raw: bool = True
) -> Any:
    """A request with its tensors as bytes, or as numbers."""
    from kserve import InferInput, InferRequest
    from kserve.utils.numpy_codec import from_np_dtype

    made = []
    for name, array in arrays.items():
        made.append(InferInput(name, list(array.shape), from_np_dtype(array.dtype)))
        if raw:
            made[-1].set_data_from_numpy(array)
        else:
            made[-1].data = array.ravel().tolist()
    return InferRequest(model, made, request_id="9", parameters=parameters)


def arrays_of(response: Any) -> dict[str, Any]:
    """An answer's tensors."""
    return {output.name: output.as_numpy() for output in response.outputs}


async def calls(address: str, wanted: list[dict[str, Any]]) -> None:
    """Calls at a time, of the client for asyncio."""
    from grpc import StatusCode, aio
    from kserve import InferenceGRPCClient

    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("cass_loss")
        for raw in (True, False):
            responses = await asyncio.gather(
                *(client.infer(request(*case, raw=raw)) for case in CASES)
            )
            for response, want in zip(responses, wanted, strict=True):
                assert response.id == "9"
                compare(arrays_of(response), want)
        call = client.infer(request("cass_mask", inputs(), {"sigma": 1}))
        (error,) = await asyncio.gather(call, return_exceptions=True)
        assert isinstance(error, aio.AioRpcError)
        assert error.code() is StatusCode.INVALID_ARGUMENT
        assert "sigma: is no parameter" in (error.details() or "")


def stub_calls(address: str, wanted: list[dict[str, Any]]) -> None:
    """KServe's generated stub, which waits."""
    import grpc
    from kserve import InferResponse
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for case, want in zip(CASES, wanted, strict=True):
            response = stub.ModelInfer(request(*case).to_grpc(), timeout=60)
            compare(arrays_of(InferResponse.from_grpc(response)), want)


def main(address: str) -> None:
    """Fails unless all answers are those of `CassClient`."""
    import kserve  # noqa: F401 - before our own messages are loaded

    import cass_server.open_inference.service  # noqa: F401 - and the server's, in one process

    wanted = expected(address)
    asyncio.run(calls(address, wanted))
    stub_calls(address, wanted)
    print("the same")


if __name__ == "__main__":
    main(sys.argv[1])
