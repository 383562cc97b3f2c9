"""`python -m tests.open_inference.kserve_types`: whether objects on standard input fit KServe."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

KINDS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}
PLAIN = {"str": str, "int": int, "bool": bool, "object": dict}


def check(value: Any, kind: str, at: str) -> None:
    """Fails unless a value is of a kind of KServe's or Kubernetes' generated models."""
    import kserve
    import kubernetes.client

    if kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), at
    elif found := re.fullmatch(r"[Ll]ist\[(.*)\]", kind):
        for i, one in enumerate(value):
            check(one, found[1], f"{at}[{i}]")
    elif found := re.fullmatch(r"[Dd]ict[\[(]str, (.*)[\])]", kind):
        for key, one in value.items():
            check(one, found[1], f"{at}.{key}")
    else:
        model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind)
        kinds = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
        for key, one in value.items():
            assert key in kinds, f"{at}.{key}"
            check(one, kinds[key], f"{at}.{key}")


if __name__ == "__main__":
    for item in json.load(sys.stdin):
        check(item, KINDS[item["kind"]], item["kind"])
    print("fits")
