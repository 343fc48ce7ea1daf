"""What does the API say of itself? Its OpenAPI 3.1 description, served and tested against."""

from __future__ import annotations

from typing import Any

from orchestrator import __version__
from orchestrator.daemon.overview import REPORT_NAMES
from orchestrator.daemon.settings import LoadSettings

Json = dict[str, Any]


def description() -> Json:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "marketo-orchestrator daemon",
            "version": __version__,
            "description": "Loads of the daemon. Every request but those of /healthz and /readyz needs the token of "
            "daemon.token_file as a bearer token; on a Unix socket none is needed.",
        },
        "security": [{"token": []}],
        "paths": {
            "/healthz": {"get": {**_op("healthz", "Does the process answer?", {"200": _text("ok")}), "security": []}},
            "/readyz": {
                "get": {
                    **_op("readyz", "Does it take loads?", {"200": _text("ready"), "503": _text("not ready: why")}),
                    "security": [],
                }
            },
            "/metrics": {"get": _op("metrics", "Metrics for Prometheus", {"200": _text("text format 0.0.4")})},
            "/api/v1/openapi.json": {"get": _op("openapi", "This document", {"200": _json({"type": "object"})})},
            "/api/v1/status": {
                "get": _op("status", "Loads that are not over, queues, inbox", {"200": _json(_ref("Status"))})
            },
            "/api/v1/events": {
                "get": _op(
                    "events",
                    "Server-sent events: `status` with the same object, when something has changed",
                    {"200": {"description": "events", "content": {"text/event-stream": {"schema": _STRING}}}},
                )
            },
            "/api/v1/uploads": {
                "post": {
                    **_op("upload", "Bring a file; a load is made of it by POST /api/v1/loads", _UPLOADED),
                    "parameters": [_query("name", {"type": "string", "minLength": 1, "maxLength": 255}, required=True)],
                    "requestBody": {
                        "required": True,
                        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                    },
                }
            },
            "/api/v1/loads": {
                "get": {
                    **_op(
                        "loads",
                        "The newest loads; those that are not over come first",
                        {"200": _json(_object({"loads": {"type": "array", "items": _ref("Load")}}))},
                    ),
                    "parameters": [
                        _query("phase", {"type": "string", "enum": _PHASES}),
                        _query("limit", _number(1, 200)),
                    ],
                },
                "post": {
                    **_op(
                        "create",
                        "Make a load of an upload, or of a file of the inbox",
                        {"202": _json(_object({"id": _STRING, "name": _STRING})), "404": _ERROR},
                    ),
                    "requestBody": _body(_ref("Create")),
                },
            },
            "/api/v1/loads/{id}": {
                "parameters": [_ID],
                "get": _op("load", "One load", {"200": _json(_ref("Load")), "404": _ERROR}),
            },
            "/api/v1/loads/{id}/chunks": {
                "parameters": [_ID],
                "get": {
                    **_op(
                        "chunks",
                        "Its chunks, a page at a time: `next` is the `after` of the next page",
                        {
                            "200": _json(
                                _object(
                                    {
                                        "chunks": {"type": "array", "items": _ref("Chunk")},
                                        "next": {"type": ["integer", "null"]},
                                    }
                                )
                            ),
                            "404": _ERROR,
                        },
                    ),
                    "parameters": [_query("after", _number(0, 2**62)), _query("limit", _number(1, 1_000))],
                },
            },
            "/api/v1/loads/{id}/report/{name}": {
                "parameters": [
                    _ID,
                    {"name": "name", "in": "path", "required": True, "schema": {"enum": list(REPORT_NAMES)}},
                ],
                "get": _op("report", "A file of its report", {"200": _REPORT, "404": _ERROR}),
            },
            **{
                f"/api/v1/loads/{{id}}/{name}": {
                    "parameters": [_ID],
                    "post": {
                        **_op(name, summary, {"202": _json(_ref("Accepted")), "404": _ERROR, "409": _ERROR}),
                        "requestBody": _body(body),
                    },
                }
                for name, summary, body in _CHANGES
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
        },
    }


def _op(name: str, summary: str, responses: Json) -> Json:
    return {"operationId": name, "summary": summary, "responses": {**responses, "default": _ERROR}}


def _json(schema: Json) -> Json:
    return {"description": "as said", "content": {"application/json": {"schema": schema}}}


def _text(what: str) -> Json:
    return {"description": what, "content": {"text/plain": {"schema": _STRING}}}


def _body(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json, *, required: bool = True) -> Json:
    made: Json = {"type": "object", "properties": properties}
    return {**made, "required": list(properties)} if required else {**made, "additionalProperties": False}


def _query(name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _number(low: int, high: int) -> Json:
    return {"type": "integer", "minimum": low, "maximum": high}


_STRING: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_TIME: Json = {"type": ["number", "null"], "description": "seconds since the epoch"}
_ERROR: Json = {
    "description": "why not",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_ID: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "pattern": "^[0-9a-f-]+$"},
}
_PHASES = ["waiting", "running", "paused", "done", "failed", "elsewhere", "interrupted", "finished"]
_REPORT: Json = {
    "description": "the file",
    "content": {kind.partition(";")[0]: {} for kind in dict.fromkeys(REPORT_NAMES.values())},
}
_UPLOADED: Json = {
    "201": _json(_object({"upload": _STRING, "name": _STRING, "bytes": _COUNT})),
    "413": _ERROR,
    "507": _ERROR,
}
_CHANGES = (
    ("pause", "Send nothing more of it until it is resumed", _object({}, required=False)),
    (
        "resume",
        "Go on with it; also with a load of the command line that nobody runs",
        _object({"on_doubt": {"enum": ["resend", "stop", None]}}, required=False),
    ),
    (
        "cancel",
        "Send nothing more of it, ever. What Marketo has cannot be cancelled: `in_marketo` batches go on",
        _object({}, required=False),
    ),
    (
        "priority",
        "Among the loads of its subscription",
        {**_object({"priority": {"enum": ["low", "normal", "high"]}}, required=False), "required": ["priority"]},
    ),
)


def _settings() -> Json:
    """What a settings file may hold."""
    made = LoadSettings.model_json_schema(ref_template="#/components/schemas/{model}")
    made.pop("$defs", None)
    made["properties"]["format"] = {"enum": ["csv", "tsv", "ssv", None]}
    return made


_LOAD: Json = _object(
    {
        "id": _STRING,
        "load_id": {"type": ["string", "null"]},
        "delivery_id": {"type": ["string", "null"]},
        "name": _STRING,
        "subscription": _STRING,
        "phase": {"enum": _PHASES},
        "why": _STRING,
        "priority": {"enum": ["low", "normal", "high"]},
        "created_at": {"type": "number"},
        "ended_at": _TIME,
        "exit_code": {"type": ["integer", "null"]},
        "rows": _COUNT,
        "settled": _COUNT,
        "imported": _COUNT,
        "failed": _COUNT,
        "warned": _COUNT,
        "chunks": {"type": "object", "additionalProperties": _COUNT},
        "ends_at": _TIME,
        "rows_per_s": {"type": ["number", "null"]},
        "cancelled": {"type": "boolean"},
        "reasons": {"type": "array", "items": {"type": "object"}},
        "reports": {"type": "array", "items": {"enum": list(REPORT_NAMES)}},
    }
)
_SCHEMAS: Json = {
    "Error": _object({"error": _object({"code": {"type": "integer"}, "message": _STRING})}),
    "Load": _LOAD,
    "Chunk": _object(
        {
            "chunk": {"type": "integer", "minimum": 1},
            "state": _STRING,
            "rows": _COUNT,
            "attempts": _COUNT,
            "batch_id": {"type": ["integer", "null"]},
            "imported": {"type": ["integer", "null"]},
            "failed": {"type": ["integer", "null"]},
            "sent_again": _COUNT,
            "warned": {"type": ["integer", "null"]},
            "why": _STRING,
        }
    ),
    "Status": _object(
        {
            "at": {"type": "number"},
            "loads": {"type": "array", "items": _ref("Load")},
            "queues": {"type": "array", "items": {"type": "object"}},
            "reasons": {"type": "array", "items": {"type": "object"}},
            "waiting": {"type": "array", "items": _STRING},
            "not_taken": {"type": "array", "items": _object({"name": _STRING, "why": _STRING})},
        }
    ),
    "Accepted": _object({"id": _STRING, "accepted": _STRING}),
    "Settings": _settings(),
    "Create": {
        **_object(
            {
                "upload": {"type": ["string", "null"], "maxLength": 40, "description": "id of an upload"},
                "inbox": {
                    "type": ["string", "null"],
                    "maxLength": 600,
                    "description": "name of a file there, or FOLDER/NAME",
                },
                "settings": _ref("Settings"),
            },
            required=False,
        ),
    },
}
