"""Prints which Python packages are installed beside this interpreter, as CycloneDX 1.6.

The images have it as /opt/cass/sbom.cdx.json. It has no time and no serial number, so that the same
packages make the same file; https://cyclonedx.org/docs/1.6/json.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution, distributions
from typing import Any


def component(distribution: Distribution) -> dict[str, Any]:
    """One package, with its licence as it states it."""
    fields = distribution.metadata
    # https://packaging.python.org/en/latest/specifications/name-normalization
    name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
    found = {
        "type": "library",
        "bom-ref": f"{name}=={distribution.version}",
        "name": name,
        "version": distribution.version,
        # https://github.com/package-url/purl-spec; local versions have a plus sign.
        "purl": f"pkg:pypi/{name}@{distribution.version.replace('+', '%2B')}",
    }
    if fields["License-Expression"]:
        return found | {"licenses": [{"expression": fields["License-Expression"]}]}
    # Some have their licence's whole text there.
    stated = (fields["License"] or "").split("\n")[0]
    classifiers = [c for c in fields.get_all("Classifier") or [] if c.startswith("License :: ")]
    names = [stated] if 0 < len(stated) < 80 else [c.split(" :: ")[-1] for c in classifiers]
    return found | {"licenses": [{"license": {"name": each}} for each in names]}


def document() -> dict[str, Any]:
    """All packages, sorted; the project itself is what the others are for."""
    found = sorted(map(component, distributions()), key=lambda each: str(each["name"]))
    (project,) = [each for each in found if each["name"] == "cass"]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": project | {"type": "application"}},
        "components": [each for each in found if each is not project],
    }


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
