"""The limits of a request, checked before anything of its size is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from cass.contract import DEFAULT_LIMITS
from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_core.grid import patch_grid
from cass_core.inputs import MaskInputs
from cass_core.work import ignored_inputs, most_work, work
from cass_server.config.settings import Settings

# Room for specs and for what later versions may add.
_SPECS_BYTES = 1 << 16
# Takes some tenths of a second of a core.
_HEAVY_WORK = 1 << 28


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of the contract's `Limits`, and more; `Settings` and ``cass.proto`` explain them.

    The defaults fit a batch of 1,000 images at 92x160 patches, even of boxes that each fill one.
    """

    message_bytes: int = DEFAULT_LIMITS.message_bytes
    images: int = DEFAULT_LIMITS.images
    boxes: int = DEFAULT_LIMITS.boxes
    patches: int = DEFAULT_LIMITS.patches
    feature_maps: int = DEFAULT_LIMITS.feature_maps
    requests_in_flight: int = DEFAULT_LIMITS.requests_in_flight
    queue_bytes: int = DEFAULT_LIMITS.queue_bytes
    streams_per_connection: int = DEFAULT_LIMITS.streams_per_connection
    keepalive_min_seconds: float = DEFAULT_LIMITS.keepalive_min_seconds
    work: int = DEFAULT_LIMITS.work
    streams: int = 1024
    caller_share: float = 1.0
    receive_seconds: float = 30.0
    send_seconds: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those that are set."""
        return cls(
            message_bytes=int(settings.max_message_bytes),
            images=settings.max_images,
            boxes=settings.max_boxes,
            patches=settings.max_patches,
            work=settings.max_work,
            feature_maps=settings.max_feature_maps,
            requests_in_flight=settings.max_in_flight,
            queue_bytes=int(settings.max_queue_bytes),
            streams_per_connection=settings.max_streams_per_connection,
            keepalive_min_seconds=settings.keepalive_min_client_seconds,
            streams=settings.max_streams,
            caller_share=settings.max_caller_share,
            receive_seconds=settings.receive_timeout_seconds,
            send_seconds=settings.send_timeout_seconds,
        )

    def share_of(self, limit: int) -> int:
        """How much of a limit one caller may have, and at least 1."""
        return max(1, round(self.caller_share * limit))

    @property
    def rest_bytes(self) -> int:
        """Bytes of a request's message beside its boxes and tensors.

        What protobuf parses: a number of its lists takes up to 5 bytes, and an image has four.
        """
        return _SPECS_BYTES + 20 * (self.images + self.feature_maps)

    @property
    def light_work(self) -> int:
        """Work that is within the limit and not heavy."""
        return min(self.work, _HEAVY_WORK)

    def message(self) -> pb.Limits:
        """The limits that clients see, as a message of the contract."""
        return pb.Limits(
            **{field.name: getattr(self, field.name) for field in pb.Limits.DESCRIPTOR.fields}
        )

    def check_message(self, request: pb.GenerateMaskRequest, counts: int) -> None:
        """Rejects a request by the lengths of its lists, before they are read.

        The length of ``boxes.counts`` is given: the message may not have it any more.
        """
        sizes = max(len(request.image_sizes.heights), len(request.image_sizes.widths))
        self.check_lengths(counts, sizes, len(request.feature_maps))

    def check_lengths(self, counts: int, sizes: int, maps: int) -> None:
        """Rejects so many counts of boxes, sizes of images, or feature maps."""
        images = max(counts, sizes)
        if images > self.images:
            field = "boxes.counts" if counts == images else "image_size"
            raise _beyond(field, images, "images", self.images)
        if maps > self.feature_maps:
            raise _beyond("feature_map", maps, "feature maps", self.feature_maps)

    def check_ignored(self, request: pb.GenerateMaskRequest, box_bytes: int) -> None:
        """Rejects a request by the lengths of its ignored boxes, beside so many bytes of boxes."""
        if len(request.ignore.counts) > self.images:
            images = len(request.ignore.counts)
            raise _beyond("ignore.counts", images, "images", self.images)
        if box_bytes // 16 > self.boxes:
            raise _beyond("ignore", box_bytes // 16, "boxes", self.boxes)

    def check_boxes(self, box_bytes: int) -> None:
        """Rejects a request by the length of its boxes."""
        if box_bytes // 16 > self.boxes:
            raise _beyond("boxes.xyxy", box_bytes // 16, "boxes", self.boxes)

    def check_patches(self, inputs: MaskInputs) -> int:
        """Rejects a request by the size of its answer; returns its patches."""
        patches = sum(images * rows * columns for images, rows, columns in inputs.shapes())
        # A batch without images is checked as if it had one.
        most = patches or sum(
            rows * columns
            for rows, columns in (patch_grid(m, inputs.spec.patch_size) for m in inputs.maps)
        )
        if most > self.patches:
            raise _beyond("feature_map", most, "patches", self.patches)
        return patches

    def check_work(self, inputs: MaskInputs) -> bool:
        """Rejects a request by what its boxes reach; returns whether that is heavy work."""
        ignored = ignored_inputs(inputs)
        boxes = inputs.boxes.num_boxes + (0 if ignored is None else ignored.boxes.num_boxes)
        if boxes * most_work(inputs) <= self.light_work:
            return False
        needed = int(work(inputs).sum())  # which takes some milliseconds of many boxes
        if ignored is not None:
            needed += int(work(ignored).sum())
        if needed > self.work:
            raise _beyond("boxes.xyxy", needed, "patches reached by all boxes", self.work)
        return needed > _HEAVY_WORK


def _beyond(field: str, value: int, noun: str, limit: int) -> InvalidRequest:
    return InvalidRequest(field, f"{value} {noun}, the server's limit is {limit}")
