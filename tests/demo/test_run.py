"""The demo finds its ports and its files."""

from __future__ import annotations

import socket

from edgeproxy.demo.run import addresses, config_file


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (address,) = addresses((port,))
    host, _, found = address.partition(":")
    assert (host, found != str(port)) == ("127.0.0.1", True)


def test_no_two_addresses_are_the_same() -> None:
    assert len(set(addresses((0, 0, 0, 0, 0)))) == 5


def test_the_files_of_the_demo_are_found() -> None:
    assert config_file("demo.yaml").is_file()
    assert config_file("demo-geo.mmdb").is_file()
