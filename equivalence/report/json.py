"""A document as strict JSON, for programs.

Guarantee: any JSON parser reads it. JSON has no NaN and no infinity, so these are the strings
"nan", "inf" and "-inf"; the same document gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from typing import TYPE_CHECKING, Any

from equivalence.report.document import SCHEMA_VERSION, environment

if TYPE_CHECKING:
    from equivalence.report.document import Document


def render(document: Document) -> str:
    """The document as one JSON object."""
    around = environment()
    fields = {
        "schema_version": SCHEMA_VERSION,
        "version": around["equivalence"],
        "command": document.command,
        "seed": document.seed,
        "environment": around,
        "spec": document.spec.to_dict() if document.spec else None,
        "results": [dataclasses.asdict(result) for result in document.results],
        "notes": list(document.notes),
        "verdict": document.verdict,
    }
    return json.dumps(strict(fields), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def strict(value: Any) -> Any:
    """Plain data without the numbers that JSON cannot write."""
    match value:
        case dict():
            return {key: strict(item) for key, item in value.items()}
        case list() | tuple():
            return [strict(item) for item in value]
        case enum.Enum():
            return value.value
        case float() if not math.isfinite(value):
            return str(value)
    return value
