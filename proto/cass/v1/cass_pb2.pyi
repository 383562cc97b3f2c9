from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

BALANCE_OBJECT: Balance
BALANCE_PATCH: Balance
BALANCE_UNSPECIFIED: Balance
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_UNSPECIFIED: DataType
DECAY_TYPE_GAUSSIAN: DecayType
DECAY_TYPE_LINEAR: DecayType
DECAY_TYPE_UNSPECIFIED: DecayType
DESCRIPTOR: _descriptor.FileDescriptor
LOSS_KIND_BCE: LossKind
LOSS_KIND_CORNERNET: LossKind
LOSS_KIND_FOCAL: LossKind
LOSS_KIND_MSE: LossKind
LOSS_KIND_QUALITY_FOCAL: LossKind
LOSS_KIND_SOFT_FOCAL: LossKind
LOSS_KIND_UNSPECIFIED: LossKind
LOSS_KIND_VARIFOCAL: LossKind
MERGE_CLIPPED_SUM: Merge
MERGE_MAX: Merge
MERGE_SUM: Merge
MERGE_UNSPECIFIED: Merge
REDUCTION_MEAN: Reduction
REDUCTION_NONE: Reduction
REDUCTION_PER_OBJECT: Reduction
REDUCTION_SUM: Reduction
REDUCTION_UNSPECIFIED: Reduction
TEMPERATURE_FIXED: Temperature
TEMPERATURE_SIZE_SCALED: Temperature
TEMPERATURE_SMALL_GAIN: Temperature
TEMPERATURE_UNSPECIFIED: Temperature

class BoxBatch(_message.Message):
    __slots__ = ["counts", "xyxy"]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    XYXY_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    xyxy: bytes
    def __init__(self, xyxy: _Optional[bytes] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class ComputeLossRequest(_message.Message):
    __slots__ = ["logits", "loss_spec", "mask", "num_boxes", "return_grad", "target", "weights"]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    LOSS_SPEC_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    NUM_BOXES_FIELD_NUMBER: _ClassVar[int]
    RETURN_GRAD_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    logits: Tensor
    loss_spec: LossSpec
    mask: GenerateMaskRequest
    num_boxes: float
    return_grad: bool
    target: Tensor
    weights: Tensor
    def __init__(self, logits: _Optional[_Union[Tensor, _Mapping]] = ..., target: _Optional[_Union[Tensor, _Mapping]] = ..., mask: _Optional[_Union[GenerateMaskRequest, _Mapping]] = ..., loss_spec: _Optional[_Union[LossSpec, _Mapping]] = ..., num_boxes: _Optional[float] = ..., return_grad: bool = ..., weights: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ComputeLossResponse(_message.Message):
    __slots__ = ["grad", "loss", "normalizer", "sum"]
    GRAD_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    grad: Tensor
    loss: Tensor
    normalizer: float
    sum: float
    def __init__(self, loss: _Optional[_Union[Tensor, _Mapping]] = ..., sum: _Optional[float] = ..., normalizer: _Optional[float] = ..., grad: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ["code", "field", "message", "reason"]
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    field: str
    message: str
    reason: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class FeatureMap(_message.Message):
    __slots__ = ["height", "width"]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class GenerateMaskRequest(_message.Message):
    __slots__ = ["box_weights", "boxes", "dtype", "feature_maps", "ignore", "image_sizes", "mask_spec", "return_owner", "return_weights", "valid_region", "weight_spec"]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    BOX_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_MAPS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZES_FIELD_NUMBER: _ClassVar[int]
    MASK_SPEC_FIELD_NUMBER: _ClassVar[int]
    RETURN_OWNER_FIELD_NUMBER: _ClassVar[int]
    RETURN_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    VALID_REGION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_SPEC_FIELD_NUMBER: _ClassVar[int]
    box_weights: Tensor
    boxes: BoxBatch
    dtype: DataType
    feature_maps: _containers.RepeatedCompositeFieldContainer[FeatureMap]
    ignore: BoxBatch
    image_sizes: ImageSizes
    mask_spec: MaskSpec
    return_owner: bool
    return_weights: bool
    valid_region: Tensor
    weight_spec: WeightSpec
    def __init__(self, boxes: _Optional[_Union[BoxBatch, _Mapping]] = ..., image_sizes: _Optional[_Union[ImageSizes, _Mapping]] = ..., feature_maps: _Optional[_Iterable[_Union[FeatureMap, _Mapping]]] = ..., mask_spec: _Optional[_Union[MaskSpec, _Mapping]] = ..., dtype: _Optional[_Union[DataType, str]] = ..., return_owner: bool = ..., weight_spec: _Optional[_Union[WeightSpec, _Mapping]] = ..., valid_region: _Optional[_Union[Tensor, _Mapping]] = ..., ignore: _Optional[_Union[BoxBatch, _Mapping]] = ..., box_weights: _Optional[_Union[Tensor, _Mapping]] = ..., return_weights: bool = ...) -> None: ...

class GenerateMaskResponse(_message.Message):
    __slots__ = ["masks", "owners", "weights"]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    masks: _containers.RepeatedCompositeFieldContainer[Tensor]
    owners: _containers.RepeatedCompositeFieldContainer[Tensor]
    weights: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, masks: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., owners: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., weights: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ["device", "features", "limits", "version"]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    device: str
    features: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    version: str
    def __init__(self, version: _Optional[str] = ..., device: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class ImageSizes(_message.Message):
    __slots__ = ["heights", "widths"]
    HEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WIDTHS_FIELD_NUMBER: _ClassVar[int]
    heights: _containers.RepeatedScalarFieldContainer[int]
    widths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, heights: _Optional[_Iterable[int]] = ..., widths: _Optional[_Iterable[int]] = ...) -> None: ...

class LevelRange(_message.Message):
    __slots__ = ["high", "low"]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    high: float
    low: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ["boxes", "feature_maps", "images", "keepalive_min_seconds", "message_bytes", "patches", "queue_bytes", "requests_in_flight", "streams_per_connection", "work"]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_MAPS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_MIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STREAMS_PER_CONNECTION_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    boxes: int
    feature_maps: int
    images: int
    keepalive_min_seconds: float
    message_bytes: int
    patches: int
    queue_bytes: int
    requests_in_flight: int
    streams_per_connection: int
    work: int
    def __init__(self, message_bytes: _Optional[int] = ..., images: _Optional[int] = ..., boxes: _Optional[int] = ..., patches: _Optional[int] = ..., feature_maps: _Optional[int] = ..., requests_in_flight: _Optional[int] = ..., queue_bytes: _Optional[int] = ..., streams_per_connection: _Optional[int] = ..., keepalive_min_seconds: _Optional[float] = ..., work: _Optional[int] = ...) -> None: ...

class LossSpec(_message.Message):
    __slots__ = ["alpha", "beta", "gamma", "kind", "logit_clamp", "reduction", "weight"]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LOGIT_CLAMP_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    beta: float
    gamma: float
    kind: LossKind
    logit_clamp: float
    reduction: Reduction
    weight: float
    def __init__(self, kind: _Optional[_Union[LossKind, str]] = ..., alpha: _Optional[float] = ..., beta: _Optional[float] = ..., gamma: _Optional[float] = ..., weight: _Optional[float] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., logit_clamp: _Optional[float] = ...) -> None: ...

class MaskSpec(_message.Message):
    __slots__ = ["base_sigma", "decay_type", "expansion_ratio", "level_ranges", "merge", "min_radius", "min_size", "patch_size", "size_factor_max", "size_factor_min", "size_reference", "small_target_gain", "small_target_threshold", "temperature", "use_anisotropic_gaussian", "use_subpixel_offset"]
    BASE_SIGMA_FIELD_NUMBER: _ClassVar[int]
    DECAY_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPANSION_RATIO_FIELD_NUMBER: _ClassVar[int]
    LEVEL_RANGES_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    MIN_RADIUS_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    PATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FACTOR_MAX_FIELD_NUMBER: _ClassVar[int]
    SIZE_FACTOR_MIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    SMALL_TARGET_GAIN_FIELD_NUMBER: _ClassVar[int]
    SMALL_TARGET_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    USE_ANISOTROPIC_GAUSSIAN_FIELD_NUMBER: _ClassVar[int]
    USE_SUBPIXEL_OFFSET_FIELD_NUMBER: _ClassVar[int]
    base_sigma: _containers.RepeatedScalarFieldContainer[float]
    decay_type: DecayType
    expansion_ratio: float
    level_ranges: _containers.RepeatedCompositeFieldContainer[LevelRange]
    merge: Merge
    min_radius: float
    min_size: float
    patch_size: int
    size_factor_max: float
    size_factor_min: float
    size_reference: float
    small_target_gain: float
    small_target_threshold: float
    temperature: Temperature
    use_anisotropic_gaussian: bool
    use_subpixel_offset: bool
    def __init__(self, patch_size: _Optional[int] = ..., expansion_ratio: _Optional[float] = ..., min_size: _Optional[float] = ..., use_anisotropic_gaussian: bool = ..., decay_type: _Optional[_Union[DecayType, str]] = ..., base_sigma: _Optional[_Iterable[float]] = ..., temperature: _Optional[_Union[Temperature, str]] = ..., small_target_gain: _Optional[float] = ..., small_target_threshold: _Optional[float] = ..., size_reference: _Optional[float] = ..., size_factor_min: _Optional[float] = ..., size_factor_max: _Optional[float] = ..., use_subpixel_offset: bool = ..., merge: _Optional[_Union[Merge, str]] = ..., min_radius: _Optional[float] = ..., level_ranges: _Optional[_Iterable[_Union[LevelRange, _Mapping]]] = ...) -> None: ...

class StreamMasksRequest(_message.Message):
    __slots__ = ["request"]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: GenerateMaskRequest
    def __init__(self, request: _Optional[_Union[GenerateMaskRequest, _Mapping]] = ...) -> None: ...

class StreamMasksResponse(_message.Message):
    __slots__ = ["error", "masks"]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    error: Error
    masks: GenerateMaskResponse
    def __init__(self, masks: _Optional[_Union[GenerateMaskResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ["data", "dtype", "shape"]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class WeightSpec(_message.Message):
    __slots__ = ["background_weight", "balance"]
    BACKGROUND_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    background_weight: float
    balance: Balance
    def __init__(self, balance: _Optional[_Union[Balance, str]] = ..., background_weight: _Optional[float] = ...) -> None: ...

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class DecayType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Temperature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Merge(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class LossKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Balance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
