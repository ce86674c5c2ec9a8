"""`argus schema`: the JSON Schemas of a spec and of `argus.yaml`, for editors.

What it cannot say (whose folder it is, the platform's bounds) `argus validate` does.
"""

from __future__ import annotations

import json
from typing import Any

from reconciler.names import USER_ID_PATTERN
from reconciler.rules import LONGEST_FREEZE, LONGEST_REASON, MOST_FREEZES
from reconciler.spec import ServingSpec

FILE = "schema/serving-spec.json"
"""Where a spec repository keeps it."""


def document() -> dict[str, Any]:
    """Give the schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ServingSpec.model_json_schema()}


def text() -> str:
    """Give the schema as it stands in a file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


RULES_FILE = "schema/argus.json"
"""Where a spec repository keeps the schema of `argus.yaml`."""


def rules_document() -> dict[str, Any]:
    """Give the schema of `argus.yaml`. What it cannot say (which times cron can mean) `argus validate` does."""
    reason = {"type": ["string", "null"], "maxLength": LONGEST_REASON, "description": "Why, in one line."}
    user_id = {"type": "string", "pattern": USER_ID_PATTERN}

    def named(names: dict[str, Any], about: str) -> dict[str, Any]:
        return {
            "description": about,
            "anyOf": [
                {"type": "object", "propertyNames": names, "additionalProperties": reason},
                {"type": "array", "items": {"type": "string", **names}},
                {"type": "null"},
            ],
        }

    window = {
        "type": "object",
        "additionalProperties": False,
        "required": ["cron", "duration"],
        "properties": {
            "cron": {
                "type": "string",
                "pattern": r"^\s*\S+(\s+\S+){4}\s*$",
                "description": "When it begins: minute, hour, day of month, month, day of week (crontab(5)).",
                "examples": ["0 18 * * fri"],
            },
            "duration": {
                "type": "string",
                "pattern": r"^(?=.)([0-9]{1,3}d)?([0-9]{1,3}h)?([0-9]{1,4}m)?$",
                "description": f"How long it lasts, {LONGEST_FREEZE.days}d at most.",
                "examples": ["60h", "1d12h", "90m"],
            },
            "timezone": {"type": ["string", "null"], "description": "Default: UTC.", "examples": ["Europe/Berlin"]},
            "reason": reason,
            "users": {"type": ["array", "null"], "items": user_id, "description": "Whom it is for. Default: all."},
        },
    }
    suspend = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "description": "Whose changes do not count until they are resumed.",
        "properties": {
            "all": {"type": ["boolean", "string", "null"], "maxLength": LONGEST_REASON},
            "users": named(user_id, "All models of these users."),
            "models": named(
                {"pattern": "^(svc-.+|(users/)?[^/]+/[^/]+)$"},
                "<user_id>/<model_id>, the path of the file, or the model's key.",
            ),
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "argus.yaml",
        "description": "What holds changes back for now.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "suspend": suspend,
            "freeze": {"type": ["array", "null"], "maxItems": MOST_FREEZES, "items": window},
        },
    }


def rules_text() -> str:
    """Give the schema of `argus.yaml` as it stands in a file."""
    return json.dumps(rules_document(), indent=2, ensure_ascii=False) + "\n"
