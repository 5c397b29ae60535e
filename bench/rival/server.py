"""The tool of the comparison on FastMCP, with its own auth, rate limits and logging: no policy, no record.

python server.py PORT PUBLIC_KEY_FILE
"""

import sys
from pathlib import Path

import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import JWTVerifier
from fastmcp.server.middleware.logging import StructuredLoggingMiddleware
from fastmcp.server.middleware.rate_limiting import RateLimitingMiddleware

NEVER_REACHED = 1_000_000


def main() -> None:
    port, public_key = int(sys.argv[1]), Path(sys.argv[2]).read_text("utf-8")
    verifier = JWTVerifier(public_key=public_key, algorithm="EdDSA", issuer="bench", audience="bench")
    server = FastMCP("bench", auth=verifier)
    server.add_middleware(
        RateLimitingMiddleware(max_requests_per_second=NEVER_REACHED, burst_capacity=NEVER_REACHED)
    )
    server.add_middleware(StructuredLoggingMiddleware())

    @server.tool
    async def echo(text: str) -> str:
        """Echo the text."""
        return text

    uvicorn.run(
        server.http_app(path="/mcp", json_response=True, stateless_http=True),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
