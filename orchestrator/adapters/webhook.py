"""How is an event told to somebody else's address? One POST of JSON; no redirect, no proxy of the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import httpx

CALL_S = 15.0


async def tell(url: str, event: Mapping[str, Any]) -> str:
    """Returns why it was not taken; nothing when it was. The address is in no answer: it may hold a secret."""
    content = json.dumps(event, ensure_ascii=False).encode()
    try:
        with anyio.fail_after(CALL_S):
            async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=CALL_S) as client:
                headers = {"Content-Type": "application/json"}
                async with client.stream("POST", url, content=content, headers=headers) as answer:
                    status = answer.status_code  # its body, of whatever length, is not read
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return type(error).__name__
    return "" if 200 <= status < 300 else f"HTTP {status}"
