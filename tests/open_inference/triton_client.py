"""`python -m tests.open_inference.triton_client ADDRESS`: Triton's clients, beside our own."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.open_inference.workload import CASES, compare, error_of, expected, inputs

LIMIT = 60.0


def tensors(library: Any, arrays: dict[str, Any]) -> list[Any]:
    """Arrays as this client's inputs."""
    from tritonclient.utils import np_to_triton_dtype

    made = []
    for name, array in arrays.items():
        made.append(library.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        made[-1].set_data_from_numpy(array)
    return made


def arrays_of(result: Any) -> dict[str, Any]:
    """An answer's tensors."""
    names = [output.name for output in result.get_response().outputs]
    return {name: result.as_numpy(name) for name in names}


def calls(address: str, wanted: list[dict[str, Any]]) -> None:
    """Single calls and a stream, of the client that waits."""
    import tritonclient.grpc as library

    with library.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("cass_mask")
        assert not client.is_model_ready("cass_mask", "2")
        assert client.get_server_metadata().name == "cass"
        metadata = client.get_model_metadata("cass_mask", as_json=True)
        assert metadata["inputs"][0] == {
            "name": "BOXES", "datatype": "FP32", "shape": ["-1", "4"],
        }  # fmt: skip
        assert client.get_model_config("cass_loss").config.input[0].name == "LOGITS"
        for (model, arrays, parameters), want in zip(CASES, wanted, strict=True):
            given = tensors(library, arrays)
            result = client.infer(model, given, request_id="7", parameters=parameters)
            assert result.get_response().id == "7"
            compare(arrays_of(result), want)
        asked = [library.InferRequestedOutput(name) for name in ("MASK_2", "MASK_0")]
        masks = arrays_of(client.infer("cass_mask", tensors(library, inputs()), outputs=asked))
        assert list(masks) == ["MASK_2", "MASK_0"]
        refused(library, client)
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i, (model, arrays, parameters) in enumerate(CASES):
            client.async_stream_infer(
                model, tensors(library, arrays), request_id=str(i), parameters=parameters
            )
        client.async_stream_infer("resnet", tensors(library, inputs()))
        for i, want in enumerate(wanted):
            result, error = answers.get(timeout=LIMIT)
            assert error is None
            assert result.get_response().id == str(i)
            compare(arrays_of(result), want)
        _, error = answers.get(timeout=LIMIT)
        assert "there is no model 'resnet'" in str(error)
        client.stop_stream()


def refused(library: Any, client: Any) -> None:
    """What a caller sees of errors."""
    failure = library.InferenceServerException
    for arguments, status, words in (
        ({"parameters": {"sigma": 1}}, "INVALID_ARGUMENT", "sigma: is no parameter"),
        ({"model_name": "resnet"}, "NOT_FOUND", "there is no model 'resnet'"),
    ):
        call: dict[str, Any] = {"model_name": "cass_mask", "inputs": tensors(library, inputs())}
        error = error_of(lambda call=call | arguments: client.infer(**call), failure)
        assert error.status() == f"StatusCode.{status}"
        assert words in error.message()
    error = error_of(client.get_inference_statistics, failure)
    assert error.status() == "StatusCode.UNIMPLEMENTED"
    assert "inference.GRPCInferenceService/ModelStatistics" in error.message()


async def asynchronous(address: str, wanted: list[dict[str, Any]]) -> None:
    """Calls at a time and a stream, of the client for asyncio."""
    import tritonclient.grpc.aio as library

    async with library.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(
            *(
                client.infer(model, tensors(library, arrays), parameters=parameters)
                for model, arrays, parameters in CASES
            )
        )
        for result, want in zip(results, wanted, strict=True):
            compare(arrays_of(result), want)

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for model, arrays, parameters in CASES:
                yield {
                    "model_name": model,
                    "inputs": tensors(library, arrays),
                    "parameters": parameters,
                }

        left = list(wanted)
        async for result, error in client.stream_infer(requests()):
            assert error is None
            compare(arrays_of(result), left.pop(0))
        assert not left


def main(address: str) -> None:
    """Fails unless all answers are those of `CassClient`."""
    import tritonclient.grpc  # noqa: F401 - before our own messages are loaded

    import cass_server.open_inference.service  # noqa: F401 - and the server's, in one process

    wanted = expected(address)
    calls(address, wanted)
    asyncio.run(asynchronous(address, wanted))
    print("the same")


if __name__ == "__main__":
    main(sys.argv[1])
