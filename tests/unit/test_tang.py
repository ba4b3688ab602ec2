# SPDX-License-Identifier: LGPL-2.1-only
"""tang: new keys of a server are trusted when a key that it had before signed them."""
import http.server
import json
import threading

import pytest

from luksext import tang
from luksext.errors import OptionInvalid, TangRefuses, TangUnreachable

SIGNING = {"kty": "EC", "crv": "P-521", "x": "eA", "y": "eQ", "alg": "ES512", "key_ops": ["verify"]}
KNOWN = {"keys": [{"kty": "EC", "alg": "ECMR", "key_ops": ["deriveKey"]}, SIGNING]}
OFFER = {"payload": "cA", "signatures": []}

# The thumbprint of SIGNING, as `jose jwk thp -a S256` tells it.
THUMBPRINT = "IG99DHytXUlHNcOTAh1PeYWY__3YMVkKKJwRK2jsM40"


@pytest.fixture
def server(programs):
    """A server with one page for each path in `pages`: a status, or what it has there."""
    pages = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path, 404)
            self.send_response(page if isinstance(page, int) else 200)
            self.end_headers()
            if not isinstance(page, int):
                self.wfile.write(page)

        def log_message(self, *args):
            pass

    programs.link("curl")
    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    running.pages = pages
    running.url = "http://127.0.0.1:{}".format(running.server_port)
    yield running
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_without_advertisement_is_none(server, status):
    server.pages["/adv"] = status
    with pytest.raises(TangUnreachable, match="status {}".format(status)):
        tang.check(server.url)
    server.pages["/adv"] = b"{}"
    tang.check(server.url)


def test_an_offer_is_asked_for_and_verified_by_the_key_that_was_known(programs, server):
    programs.add("jose", 'for last; do :; done; $helpers/cat "$last" >$log.key')
    server.pages["/adv/" + THUMBPRINT] = json.dumps(OFFER).encode()
    assert tang.advertised(server.url, KNOWN) == OFFER
    [argv] = programs.calls("jose")
    assert argv[:-1] == ["jose", "jws", "ver", "-i", "-", "-k"]
    assert json.loads(programs.stdin("jose").decode()) == OFFER
    assert json.loads((programs.folder / ".jose.key").read_bytes().decode()) == SIGNING


def test_an_offer_that_the_known_key_did_not_sign_is_refused(programs, server):
    programs.add("jose", "exit 1")
    server.pages["/adv/" + THUMBPRINT] = json.dumps(OFFER).encode()
    with pytest.raises(TangRefuses, match=server.url):
        tang.advertised(server.url, KNOWN)


@pytest.mark.parametrize("page", [404, b"", b"[]x", b"\xff", b"7"])
def test_a_server_that_has_no_offer_by_that_key_is_refused(programs, server, page):
    programs.add("jose")
    server.pages["/adv/" + THUMBPRINT] = page
    with pytest.raises(TangRefuses):
        tang.advertised(server.url, KNOWN)


def test_a_server_that_is_down_is_told_apart(server):
    server.pages["/adv/" + THUMBPRINT] = 500
    with pytest.raises(TangUnreachable, match="status 500"):
        tang.advertised(server.url, KNOWN)
    with pytest.raises(TangUnreachable):
        tang.advertised("http://127.0.0.1:9", KNOWN)


@pytest.mark.parametrize("known", [
    None, {}, {"keys": []}, {"keys": "x"}, {"keys": [{"kty": "EC"}]},
    {"keys": [{"key_ops": ["verify"], "kty": "EC"}]}, {"keys": [dict(SIGNING, x=7)]}])
def test_without_a_known_signing_key_a_thumbprint_is_asked_for(known):
    with pytest.raises(OptionInvalid, match="thp"):
        tang.advertised("http://t", known)
