"""Who the client is behind proxies we trust, and what we say about that towards the origin.

Rule 1: only a trusted peer may speak for somebody else; the answer is the right-most hop that is not
trusted itself. What stands to the left of it is the client's own tale and never read.
Rule 2: a list that cannot be read as far as that hop, or of more than 32 hops, speaks for nobody.
Rule 3: nothing of this kind that arrived is forwarded: the fields are written anew.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from edgeproxy.http.message import Field, Headers, Request
from edgeproxy.units import Network

UNTRUSTED_NAMES = frozenset(
    {
        b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-prefix", b"x-forwarded-server", b"x-forwarded-scheme", b"x-forwarded-ssl",
        b"x-forwarded-by", b"x-forwarded-uri", b"x-forwarded-method", b"x-forwarded", b"forwarded",
        b"forwarded-for", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"x-original-forwarded-for",
        b"x-envoy-external-address", b"true-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6",
        b"fastly-client-ip", b"x-original-url", b"x-original-uri", b"x-original-host", b"x-rewrite-url",
        b"x-host", b"x-url-scheme", b"front-end-https", b"x-http-method-override", b"x-http-method",
        b"x-method-override", b"x-accel-redirect", b"x-accel-buffering", b"x-accel-charset",
        b"x-accel-expires", b"x-accel-limit-rate", b"x-sendfile", b"x-sendfile-type", b"x-accel-mapping",
        # what frameworks and gateways behind us would believe: another host, path, scheme, user, method
        b"x-forwarded-path", b"x-forwarded-query", b"x-forwarded-request-uri", b"x-forwarded-hostname",
        b"x-forwarded-domain", b"x-forwarded-protocol", b"x-forwarded-proto-version", b"x-forwarded-context",
        b"x-forwarded-ip", b"x-forwarded-for-original", b"x-forwarded-client-cert", b"x-forwarded-user",
        b"x-forwarded-email", b"x-forwarded-groups", b"x-forwarded-access-token", b"x-forward-for",
        b"x-forward-host", b"x-forward-proto", b"forwarded-host", b"forwarded-proto", b"x-scheme",
        b"x-proto", b"x-protocol", b"x-url", b"x-uri", b"x-request-uri", b"x-path", b"x-path-info",
        b"x-script-name", b"x-base-url", b"base-url", b"x-proxy-url", b"x-proxy-host", b"x-proxy-path",
        b"x-proxy-prefix", b"x-http-host", b"x-http-host-override", b"x-http-path-override",
        b"x-http-url-override", b"x-host-override", b"x-hostname", b"x-server-name", b"x-server-port",
        b"x-port", b"x-backend-server", b"x-backend-host",
        b"x-backend-url", b"x-upstream-host", b"x-original-method",
        b"x-method", b"http-host", b"http-url", b"proxy-host", b"proxy-url", b"request-uri",
        b"x-custom-ip-authorization", b"x-originating-ip", b"x-remote-ip", b"x-remote-addr",
        b"x-remote-host", b"x-remote-user", b"remote-user", b"remote-addr", b"client-ip", b"x-proxyuser-ip",
        b"x-azure-clientip", b"x-azure-socketip", b"x-appengine-user-ip", b"fastly-ssl", b"fastly-ff",
        b"akamai-origin-hop", b"x-middleware-subrequest", b"x-middleware-prefetch", b"x-middleware-rewrite",
        b"x-invoke-path", b"x-invoke-status", b"x-invoke-output", b"x-matched-path", b"x-now-route-matches",
        b"x-prerender-revalidate", b"x-ms-original-url",
        b"x-arr-ssl", b"x-arr-clientcert", b"x-verified-user",
        b"edge-flight",
    }
)  # fmt: skip
"""Inbound fields, lower case, that never reach an origin: ours to write, or there to deceive it."""

MAX_HOPS = 32
_REMEMBERED = 4096  # entries of each memo; when full it starts anew
_LONGEST_REMEMBERED = 256  # bytes of a list worth remembering
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+):\d{1,5}")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HOST_TOKEN = re.compile(_TOKEN)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
# One `name=value` of RFC 7239 §4 and what ends it; the value is a token or a quoted string.
_PAIR = re.compile(
    rb"[ \t]*(?:(" + _TOKEN + rb")=(?:(" + _TOKEN + rb')|"((?:[^"\\]|\\.)*)"))?[ \t]*(,|;|$)', re.DOTALL
)


def canonical_address(text: str) -> str | None:
    """The address in `text` as everybody writes it, or None: no port, no zone, IPv4 for IPv4-mapped."""
    match = _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match[1] or match[2] or ""
    if len(text) > 64:
        return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


class TrustedProxies:
    """The proxies in front of us that may say who the client is."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._strangers: dict[str, str] = {}  # untrusted peer -> its canonical address
        self._trusted: dict[str, str] = {}  # trusted peer -> its canonical address
        self._by_list: dict[bytes, str] = {}  # X-Forwarded-For -> client, "" for nobody
        self._by_description: dict[bytes, str] = {}  # Forwarded -> client, "" for nobody

    def trusts(self, peer: str) -> bool:
        """May this peer speak for others?"""
        return peer in self._trusted or (peer not in self._strangers and self._learn(peer))

    def client_address(self, peer: str, headers: Headers) -> str:
        """The client's address: the right-most untrusted hop, or the peer's own (A32, A33)."""
        direct = self._strangers.get(peer)
        if direct is not None:
            return direct
        if not self.trusts(peer):
            return self._strangers[peer]
        return self._spoken_for(headers) or self._trusted[peer]

    def says_https(self, peer: str, headers: Headers) -> bool:
        """Did a trusted peer receive this request over TLS? The last value is what the nearest one says."""
        proto = headers.get(b"x-forwarded-proto")
        return proto is not None and self.trusts(peer) and proto.rpartition(b",")[2].strip() == b"https"

    def forwarded_fields(self, request: Request, client: str) -> list[Field]:
        """X-Forwarded-For, -Proto, -Host and Forwarded (RFC 7239) as the origin shall see them.

        The incoming list is kept, with the peer appended, when it came from a trusted peer and says
        who `client` is; else the list starts with what we know ourselves.
        """
        proto = b"https" if request.secure else b"http"
        return [
            (b"X-Forwarded-For", self._chain(request, client)),
            (b"X-Forwarded-Proto", proto),
            (b"X-Forwarded-Host", request.host),
            (b"Forwarded", b"for=%b;host=%b;proto=%b" % (_node(client), _host(request.host), proto)),
        ]

    def _chain(self, request: Request, client: str) -> bytes:
        trusted = self.trusts(request.peer)
        peer = (self._trusted if trusted else self._strangers)[request.peer]
        if not trusted or not self._spoken_for(request.headers):
            return (peer or client or "unknown").encode()
        listed = request.headers.get(b"x-forwarded-for")
        return b"%b, %b" % (client.encode() if listed is None else listed, peer.encode())

    def _learn(self, peer: str) -> bool:
        address = canonical_address(peer)
        trusted = address is not None and self._within(address)
        memo = self._trusted if trusted else self._strangers
        if len(memo) >= _REMEMBERED:
            memo.clear()
        memo[peer] = peer if address is None else address
        return trusted

    def _within(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)

    def _spoken_for(self, headers: Headers) -> str:
        """The client that a trusted peer names, or "" when it names nobody."""
        listed = headers.get(b"x-forwarded-for")
        if listed is not None:
            client = self._by_list.get(listed)
            return self._remember(self._by_list, listed, _listed_nodes) if client is None else client
        described = headers.get(b"forwarded")
        if described is None:
            return ""
        client = self._by_description.get(described)
        return self._remember(self._by_description, described, _forwarded_nodes) if client is None else client

    def _remember(self, memo: dict[bytes, str], value: bytes, nodes: Callable[[bytes], list[str]]) -> str:
        client = self._walk(nodes(value))
        if len(value) <= _LONGEST_REMEMBERED:
            if len(memo) >= _REMEMBERED:
                memo.clear()
            memo[value] = client
        return client

    def _walk(self, nodes: list[str]) -> str:
        """From right to left, the first that is not trusted; the left-most when all are."""
        address = None
        for node in reversed(nodes):
            address = canonical_address(node)
            if address is None:
                return ""
            if not self._within(address):
                return address
        return address or ""


def _listed_nodes(listed: bytes) -> list[str]:
    if listed.count(b",") >= MAX_HOPS:
        return []
    return [node.strip() for node in listed.decode("latin-1").split(",")]


def _forwarded_nodes(described: bytes) -> list[str]:
    """The `for` of each element; empty where it has none. No nodes when the field is malformed."""
    nodes: list[str] = []
    node, named, position, end = "", False, 0, b","
    while end:  # the end of the field is the empty one
        match = _PAIR.match(described, position)
        if match is None:
            return []
        name, token, quoted, end = match.groups()
        position = match.end()
        if name is not None and name.lower() == b"for":
            if named:  # two of them in one element: neither can be believed
                return []
            node, named = (token or _ESCAPED.sub(rb"\1", quoted)).decode("latin-1"), True
        if end != b";":
            nodes.append(node)
            node, named = "", False
    return nodes if len(nodes) <= MAX_HOPS else []


def _node(client: str) -> bytes:
    """The client as a node of RFC 7239 §6: IPv6 in brackets and quotes."""
    if ":" in client:
        return b'"[%b]"' % client.encode()
    return client.encode() or b"unknown"


@lru_cache(maxsize=256)
def _host(host: bytes) -> bytes:
    if _HOST_TOKEN.fullmatch(host):
        return host
    return b'"%b"' % re.sub(rb'(["\\])', rb"\\\1", host)
