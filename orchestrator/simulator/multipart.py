"""What does an uploaded form hold? RFC 7578, as strictly as a server has to read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class MalformedError(Exception):
    """The body is not the form its content type announces."""


@dataclass
class Form:
    """Plain fields, and the one part named `file`."""

    fields: dict[str, str] = field(default_factory=dict)
    file: bytes | None = None
    file_without_name: bool = False


_BOUNDARY = re.compile(r'boundary="?([^";]{1,70})"?')
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILENAME = re.compile(rb'[; ]filename="([^"]+)"')


def parse(body: bytes, content_type: str) -> Form:
    """Take a multipart body apart. A part without a filename is a plain field, whatever its name."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise MalformedError("no boundary")
    boundary = b"--" + match[1].encode()
    if not body.startswith(boundary + b"\r\n"):
        raise MalformedError("the body does not begin with its boundary")
    if not body.rstrip(b"\r\n").endswith(boundary + b"--"):
        raise MalformedError("the body does not end with its boundary")
    form, at = Form(), len(boundary) + 2
    while True:
        end = body.find(b"\r\n" + boundary, at)
        head_end = body.find(b"\r\n\r\n", at)
        if end < 0 or head_end < 0 or head_end > end:
            raise MalformedError("a part without an end")
        head = body[at:head_end]
        name = _NAME.search(head)
        if name is None or b"form-data" not in head:
            raise MalformedError("a part without a name")
        content = body[head_end + 4 : end]
        if _FILENAME.search(head):
            if name[1] == b"file":
                form.file = content
        elif name[1] == b"file":
            form.file_without_name = True
        else:
            form.fields[name[1].decode()] = content.decode("utf-8", errors="replace")
        at = end + 2 + len(boundary)
        if body[at : at + 2] == b"--":
            return form
        at += 2
