"""`argus schema`: the JSON Schema of a spec, for editors.

What it cannot say (whose folder it is, the platform's bounds) `argus validate` does.
"""

from __future__ import annotations

import json
from typing import Any

from reconciler.spec import ServingSpec

FILE = "schema/serving-spec.json"
"""Where a spec repository keeps it."""


def document() -> dict[str, Any]:
    """Give the schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ServingSpec.model_json_schema()}


def text() -> str:
    """Give the schema as it stands in a file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"
