"""A demo issuer of tokens: a key made at start, its JWK set, and tokens for whoever asks.

    python -m edgeproxy.demo.issuer --listen 127.0.0.1:8003

`/token?sub=&scope=&ttl=` answers a good token, `/forged` one that looks the same but is signed by a
key that nobody published.
"""

from __future__ import annotations

import argparse
import json
import re
import time

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from edgeproxy.demo.origins import options_of, serve

ISSUER = "https://issuer.demo.example/"
AUDIENCE = "demo"
KID = "demo-key"


class Issuer:
    """One key that is published, and one that is not: what it signs is forged."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._other = Ed25519PrivateKey.generate()

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.discovery),
                Route("/jwks.json", self.jwks),
                Route("/token", self.token),
                Route("/forged", self.forged),
            ]
        )

    async def discovery(self, request: Request) -> Response:
        base = str(request.base_url)
        return JSONResponse(
            {
                "issuer": ISSUER,
                "jwks_uri": f"{base}jwks.json",
                "token_endpoint": f"{base}token",
                "id_token_signing_alg_values_supported": ["EdDSA"],
            }
        )

    async def jwks(self, request: Request) -> Response:
        key = json.loads(OKPAlgorithm.to_jwk(self._key.public_key()))
        return JSONResponse({"keys": [{**key, "kid": KID, "use": "sig", "alg": "EdDSA"}]})

    async def token(self, request: Request) -> Response:
        return _token(self._key, request)

    async def forged(self, request: Request) -> Response:
        return _token(self._other, request)


def _token(key: Ed25519PrivateKey, request: Request) -> Response:
    """A token for `sub` with `scope` that lives for `ttl` seconds: a negative one has expired."""
    asked = request.query_params
    ttl = asked.get("ttl", "300")
    if not re.fullmatch(r"-?[0-9]{1,8}", ttl):
        return PlainTextResponse("ttl is a number of seconds", 400)
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": asked.get("sub", "alice"),
        "scope": asked.get("scope", "read"),
        "exp": int(time.time()) + int(ttl),
    }
    return PlainTextResponse(jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": KID}))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listen", default="127.0.0.1:8003", help="host:port")
    options = options_of(parser)
    serve(Issuer().app(), options.listen, end_with_stdin=options.end_with_stdin)


if __name__ == "__main__":
    main()
