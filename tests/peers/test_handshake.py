from __future__ import annotations

import pytest

from raftlog.errors import BootstrapRefusedError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import HANDSHAKE_FRAME_BYTES_MAX, PeerProtocolError, encode_frame
from raftlog.peers.handshake import PROTOCOL_VERSION, Admit, Close, Done, Effect, Handshake, Refused, Send


def _side(node_id: int, dialled: int | None = None) -> Handshake:
    return Handshake(pb.Hello(node_id=node_id, cluster_id="c"), dialled=dialled)


def _sent(effects: list[Effect]) -> pb.Envelope:
    (envelope,) = [effect.envelope for effect in effects if isinstance(effect, Send)]
    return envelope


def _hello(node_id: int, version: int = PROTOCOL_VERSION) -> pb.Envelope:
    return pb.Envelope(hello=pb.Hello(node_id=node_id, protocol_version=version))


WELCOME = pb.Envelope(welcome=pb.Welcome())


def test_both_sides_accept_each_other() -> None:
    """Hello, admission and Welcome each way; each side is done once it has sent and received a Welcome."""
    high, low = _side(2, dialled=1), _side(1)
    high_hello, low_hello = _sent(high.begin()), _sent(low.begin())
    assert high_hello.hello.protocol_version == PROTOCOL_VERSION
    assert low.received(high_hello) == [Admit(high_hello.hello)]
    assert high.received(low_hello) == [Admit(low_hello.hello)]
    low_welcome = low.decided(None)
    assert low_welcome == [Send(WELCOME)]
    assert high.received(_sent(low_welcome)) == []
    assert high.decided(None) == [Send(WELCOME), Done()]
    assert low.received(WELCOME) == [Done()]


def test_the_peers_welcome_may_come_before_the_own_decision() -> None:
    """Nothing is done before the gate has decided, whatever the peer says."""
    side = _side(1)
    side.begin()
    side.received(_hello(2))
    assert side.received(WELCOME) == []
    assert Done() in side.decided(None)


@pytest.mark.parametrize(
    ("own", "dialled", "peer", "version", "reason"),
    [
        (1, None, 2, PROTOCOL_VERSION + 1, "UNSUPPORTED_VERSION"),
        (1, None, 2, 0, "UNSUPPORTED_VERSION"),
        (2, None, 2, PROTOCOL_VERSION, "WRONG_NODE"),
        (3, 1, 2, PROTOCOL_VERSION, "WRONG_NODE"),
        (3, 1, 3, PROTOCOL_VERSION, "WRONG_NODE"),
        (3, None, 2, PROTOCOL_VERSION, "INVALID_REQUEST"),
        (1, None, 0, PROTOCOL_VERSION, "INVALID_REQUEST"),
    ],
    ids=["newer version", "no version", "own id", "another node", "itself", "lower id dials", "no id"],
)
def test_a_hello_that_cannot_be_is_refused_by_name(own: int, dialled: int | None, peer: int, version: int, reason: str) -> None:
    """The refusal is sent before the connection is closed, and the gate is not asked."""
    side = _side(own, dialled)
    side.begin()
    refusal, close = side.received(_hello(peer, version))
    assert isinstance(refusal, Send)
    assert isinstance(close, Close)
    assert refusal.envelope.welcome.refused_reason == reason
    assert side.received(WELCOME) == []


def test_the_gates_refusal_is_sent_by_name() -> None:
    """Reason and message of the gate's error travel, cut to what a handshake frame holds."""
    side = _side(1)
    side.begin()
    side.received(_hello(2))
    refusal, close = side.decided(BootstrapRefusedError("voters differ " * 1_000))
    assert isinstance(refusal, Send)
    assert isinstance(close, Close)
    assert refusal.envelope.welcome.refused_reason == "BOOTSTRAP_REFUSED"
    assert encode_frame(refusal.envelope)[1] < HANDSHAKE_FRAME_BYTES_MAX


def test_a_refused_side_closes_and_says_why() -> None:
    """The peer's reason and message reach gate and log; a later decision of the gate has no effect."""
    side = _side(2, dialled=1)
    side.begin()
    side.received(_hello(1))
    refused, close = side.received(pb.Envelope(welcome=pb.Welcome(refused_reason="WRONG_NODE", refused_message="go away")))
    assert refused == Refused("WRONG_NODE", "go away")
    assert isinstance(close, Close)
    assert "WRONG_NODE: go away" in close.why
    assert side.decided(None) == []


@pytest.mark.parametrize(
    "envelopes",
    [
        [pb.Envelope(turn=pb.Turn())],
        [pb.Envelope(call_request=pb.CallRequest(call_id=1, method="m"))],
        [pb.Envelope()],
        [WELCOME],
        [_hello(2), _hello(2)],
        [_hello(2), WELCOME, WELCOME],
        [_hello(2), pb.Envelope(turn=pb.Turn())],
        [_hello(2), WELCOME, pb.Envelope(turn=pb.Turn())],
        [pb.Envelope(hello=pb.Hello(node_id=2, protocol_version=PROTOCOL_VERSION), payload_sizes=[3])],
    ],
    ids=["turn", "call", "empty", "welcome first", "two hellos", "two welcomes", "turn for welcome", "early turn", "payload"],
)
def test_anything_out_of_its_place_is_an_error(envelopes: list[pb.Envelope]) -> None:
    """Nothing but Hello and Welcome, once each and in this order, is handled before both sides have accepted."""
    side = _side(1)
    side.begin()
    for envelope in envelopes[:-1]:
        side.received(envelope)
    with pytest.raises(PeerProtocolError):
        side.received(envelopes[-1])
