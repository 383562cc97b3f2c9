"""CassClient: `cass_core`'s functions, answered by a server or in the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from cass_client._base import BaseClient, ServerInfo
from cass_client.arguments import MaskRequest, loss_call
from cass_client.transport.effects import Effects
from cass_client.transport.profile import CallProfile
from cass_client.transport.sync import Transport
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.inputs import MaskInputs
from cass_core.results import LossResult, wrap_masks
from cass_core.specs import LossSpec, MaskSpec, WeightSpec

T = TypeVar("T")


class CassClient(BaseClient[Transport]):
    """Asks a server, or with ``local:`` the core in this process, for masks and losses.

    Results are those of `cass_core`, bit by bit where the server computes on a CPU: NumPy in,
    NumPy out; torch in, torch out on its device. A client may be used by several threads, pickled,
    and used in a process forked from the one that made it; it opens its connection when it is
    first used there.

    A call is tried again for as long as its timeout allows, or three seconds for a server that
    cannot be reached: every call is a pure function of its arguments. A batch beyond the server's
    limits is requested in parts.

    Args:
        target: ``HOST:PORT``, several of these with commas between them, another gRPC target such
            as ``dns:///HOST:PORT`` or ``unix:PATH``, ``ray:NAME`` for the replicas of a service on
            the Ray cluster that the process is connected to, as they come and go, or ``local:``.
            Calls go to all its addresses in turn.
        timeout: seconds that a call may take with all its tries, above 0 and at most a year. A try
            that has no answer after half of them is given up for another one.
        tls: secures the connection; ``Tls()`` for a server whose certificate the system trusts.
        token: sent with each call.
        token_file: file that holds it, read again when it changes.
        fallback: ``"local"`` to compute in this process while the server cannot be reached or
            answers wrongly. A `FallbackWarning` says so, and `local_answers` counts.

    Raises:
        InvalidRequest: an argument cannot be used.
        CassError: ``local:`` or a fallback without the core's dependencies, or ``ray:NAME``
            without Ray.

    Example:
        >>> with CassClient("local:") as client:
        ...     mask = client.generate_mask([[[8, 8, 24, 24]]], (32, 32), (4, 4))
        >>> mask.shape, float(mask.max())
        ((1, 4, 4), 1.0)
    """

    _make_connection = Transport

    def generate_mask(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        weight_spec: WeightSpec | None = None,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
        return_owner: bool = False,
        return_weights: bool = False,
        dtype: Any = "float32",
    ) -> Any:
        """Make the soft target masks of a batch; see `cass_core.generate_mask`.

        Raises:
            InvalidRequest: an argument cannot be used, or an image is beyond the server's limits.
            Timeout: the deadline passed.
            Unavailable: the server cannot be reached.
            Unauthenticated: the server wants a token, or another one.
            Overloaded: the server had no room until the deadline.
            ServerError: the server failed, or its answer does not fit the request.
        """
        inputs = MaskInputs.check(boxes, image_size, feature_map, spec, dtype, return_owner)
        given = weight_spec, valid_region, ignore, box_weights
        inputs = inputs.with_weights(return_weights, *given)
        return wrap_masks(inputs, *self._run(self._mask_effects(inputs)))

    def generate_mask_future(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        weight_spec: WeightSpec | None = None,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
        return_owner: bool = False,
        return_weights: bool = False,
        dtype: Any = "float32",
    ) -> Future[Any]:
        """As `generate_mask`, without waiting: a future of the masks.

        Raises:
            InvalidRequest: an argument cannot be used; all else is raised by the future.

        Example:
            >>> with CassClient("local:") as client:
            ...     future = client.generate_mask_future([None], (32, 32), (4, 4))
            ...     future.result().shape
            (1, 4, 4)
        """
        given = weight_spec, valid_region, ignore, box_weights, return_weights
        options = spec, dtype, return_owner, *given
        inputs = MaskRequest(boxes, image_size, feature_map, *options).check()

        def effects() -> Effects[Any]:
            return wrap_masks(inputs, *(yield from self._mask_effects(inputs)))

        return self._connection().submit(effects())

    def stream_masks(self, requests: Iterable[MaskRequest], in_flight: int = 8) -> Iterator[Any]:
        """Make masks for one request after another, over one stream.

        Faster than calls one by one: up to ``in_flight`` requests are on their way while the caller
        works with an answer. They are taken from the iterable in this thread, before an answer is
        waited for; an iterable that waits for an answer itself would wait for ever.

        Args:
            requests: the arguments of each `generate_mask`.
            in_flight: how many requests are taken ahead of their answers, 1 to 1024.

        Yields:
            What `generate_mask` returns, for each request, in their order.

        Raises:
            InvalidRequest: ``in_flight`` is out of its range. While it is read: as `generate_mask`,
                and whatever ``requests`` raises, after the answers to all that came before.

        Example:
            >>> request = MaskRequest([[[8, 8, 24, 24]]], (32, 32), (8, 8))
            >>> with CassClient("local:") as client:
            ...     [mask.shape for mask in client.stream_masks([request] * 3)]
            [(1, 8, 8), (1, 8, 8), (1, 8, 8)]
        """
        gives = self._connection().stream(self._stream_effects(in_flight), iter(requests))
        return (wrap_masks(inputs, *masks) for inputs, masks in gives)

    def compute_loss(
        self,
        logits: Any,
        target: Any = None,
        *,
        boxes: BoxBatch | Sequence[Any] | None = None,
        image_size: Any = None,
        feature_map: Any = None,
        mask_spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        loss_spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
        weight_spec: WeightSpec | None = None,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
        weights: Any = None,
        num_boxes: float | None = None,
        return_grad: bool = False,
    ) -> LossResult:
        """Take the loss of logits against a target, or against the mask of boxes.

        With boxes the mask is made where the loss is computed and never crosses the wire.

        Args:
            logits: ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``; beside a target also a list with one of
                these a level, as for `cass_core.compute_loss`, in whose form the gradient comes.
            target: as for `cass_core.compute_loss`; or None, and the three that follow.
            boxes: as for `cass_core.generate_mask`.
            image_size: (H, W) in pixels, one for all images or one for each.
            feature_map: (h, w) in cells.
            mask_spec: how the mask is made.
            loss_spec: which loss and reduction.
            weight_spec: with boxes, what a patch weighs; this and the next three as for
                `cass_core.generate_mask`. One of them suffices for the loss to have weights.
            valid_region: where the picture is in each padded image.
            ignore: boxes of regions that nobody annotated.
            box_weights: one number a box.
            weights: with a target, of each of its patches; see `cass_core.compute_loss`.
            num_boxes: normaliser of ``per_object``; with boxes by default their number.
            return_grad: also return the gradient.

        Raises:
            CassError: as `generate_mask`.
        """
        source = boxes, image_size, feature_map, mask_spec
        weighting = weight_spec, valid_region, ignore, box_weights
        options = loss_spec, weights, num_boxes, return_grad
        call = loss_call(logits, target, source, weighting, *options)
        return call.wrap(self._run(self._loss_effects(call.inputs)))

    def info(self) -> ServerInfo:
        """Ask for version, device and limits.

        Raises:
            CassError: as `generate_mask`; there is no fallback.
        """
        return self._run(self._info_effects())

    def profile(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        dtype: Any = "float32",
    ) -> CallProfile:
        """Make one `generate_mask` call and measure where its time goes.

        Raises:
            CassError: as `generate_mask`; there is no fallback.

        Example:
            >>> with CassClient("local:") as client:
            ...     profile = client.profile([[[8, 8, 24, 24]]], (32, 32), (4, 4))
            >>> 0 < profile.compute < profile.total
            True
        """
        request = MaskRequest(boxes, image_size, feature_map, spec, dtype)
        return self._run(self._profile_effects(request.check))

    def close(self) -> None:
        """Close the connection, once futures are done; a later call opens it again.

        Ctrl-C in a block of the client's, or out of the program, cancels them instead.
        """
        self._connection().close()

    def _run(self, effects: Effects[T]) -> T:
        return self._connection().run(effects)

    def __enter__(self) -> CassClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind in (KeyboardInterrupt, SystemExit):
            self._connection().abort()  # who stops the program does not wait for futures
        else:
            self.close()


def check_client(client: Any) -> CassClient:
    """Rejects what loaders and losses cannot call: an address, or the client of an event loop."""
    if not isinstance(client, CassClient):
        raise InvalidRequest("client", f"must be a CassClient, got {type(client).__name__}")
    return client
