"""The server itself: its port, its limits, health, reflection, its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from raftlog.core.clock import SystemClock
from raftlog.errors import AddressInUseError, ConfigError
from raftlog.gateway.port import NoMetrics
from raftlog.gateway.rpc import Handlers
from raftlog.gateway.server import SERVICES, Gateway, GatewayOptions
from raftlog.pb.raftlog.v1 import cluster_service_pb2, group_service_pb2, log_service_pb2, topic_service_pb2
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceStub
from raftlog.pb.raftlog.v1.records_pb2 import NewBatch
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_groups import FakeGroups
from tests.gateway.fake_moves import FakeMoves
from tests.gateway.helpers import new_batch, open_door, told_by_call, until

CERTS = Path(__file__).parent.parent / "peers" / "certs"


def gateway_on(port: int, host: str = "127.0.0.1") -> Gateway:
    """Another gateway."""
    return Gateway(FakeBroker(), FakeGroups(), FakeMoves(), options=GatewayOptions(host=host, port=port), clock=SystemClock())


async def test_every_call_of_the_contract_has_a_handler() -> None:
    """What is in the .proto files and what is served cannot drift apart."""
    gateway = gateway_on(0)
    files = (log_service_pb2, topic_service_pb2, cluster_service_pb2, group_service_pb2)
    declared = {
        service.full_name: {method.name for method in service.methods}
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    make = Handlers(NoMetrics(), asyncio.Event())
    assert {name: set(service.handlers(make)) for name, service in gateway._services.items()} == declared
    assert set(SERVICES) == set(declared)


async def test_a_port_in_use_is_refused_by_name() -> None:
    """Also against another gateway, which gRPC would let share the port in silence."""
    async with open_door() as door:
        port = int(door.gateway.address.rpartition(":")[2])
        with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port} .* in use"):
            await gateway_on(port).start()
    again = gateway_on(port)  # the port is free again at once
    await again.start()
    await again.stop(0)


async def test_an_address_that_is_not_ours_is_a_configuration_error() -> None:
    """It is not in use: it is wrong (192.0.2.0/24 is kept for documentation, RFC 5737)."""
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await gateway_on(0, "192.0.2.1").start()


async def test_health_follows_what_the_node_says() -> None:
    """NOT_SERVING until told, for the node and each service; unknown names are NOT_FOUND."""
    async with open_door() as door:
        health = health_pb2_grpc.HealthStub(door.channel)
        for serving, status in ((None, "NOT_SERVING"), (True, "SERVING"), (False, "NOT_SERVING")):
            if serving is not None:
                await door.gateway.set_serving(serving)
            for name in ("", *SERVICES):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_our_services() -> None:
    """So that grpcurl needs no .proto file."""
    async with open_door() as door:
        stub = reflection_pb2_grpc.ServerReflectionStub(door.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
        names = {service.name for service in answers[0].list_services_response.service}
        symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="raftlog.v1.LogService")
        found = [answer async for answer in stub.ServerReflectionInfo(iter([symbol]))]
    assert set(SERVICES) <= names
    assert found[0].file_descriptor_response.file_descriptor_proto


async def test_a_message_over_the_limit_is_refused() -> None:
    """The limit is the node's choice, and the connection lives on."""
    async with open_door(GatewayOptions(receive_bytes_max=10_000)) as door:
        big = NewBatch(topic="t", partition=0, record_batch=b"v" * 10_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.Publish(log_service_pb2.PublishRequest(batches=[big]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await door.log.Publish(log_service_pb2.PublishRequest(batches=[new_batch(b"v")]))


async def test_a_message_of_many_megabytes_is_taken() -> None:
    """gRPC's default of 4 MiB is not ours."""
    async with open_door() as door:
        value = b"v" * (8 << 20)
        batch = new_batch(value)
        answer = await door.log.Publish(log_service_pb2.PublishRequest(batches=[batch]))
    assert answer.results[0].offset == 0


def test_a_limit_beyond_ours_is_a_configuration_error() -> None:
    """Memory must stay bounded whatever is configured."""
    with pytest.raises(ConfigError, match="bytes"):
        GatewayOptions(receive_bytes_max=1 << 30)


async def test_more_calls_than_allowed_are_refused() -> None:
    """RESOURCE_EXHAUSTED for the one too many; room comes back when a call ends."""
    async with open_door(GatewayOptions(calls_max=2)) as door:
        streams = [door.log.PublishStream() for _ in range(2)]
        for n, stream in enumerate(streams):
            await stream.write(
                log_service_pb2.PublishStreamRequest(
                    correlation_id=n, publish=log_service_pb2.PublishRequest(batches=[new_batch(b"v")])
                )
            )
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.InitProducer(log_service_pb2.InitProducerRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()
        await until(lambda: door.gateway._make._calls == 0)
        await door.log.InitProducer(log_service_pb2.InitProducerRequest())


async def test_stopping_waits_for_calls_and_no_longer() -> None:
    """A call in flight is answered, a new one refused; a watcher, which never leaves, does not use up the grace."""
    async with open_door() as door:
        watch = health_pb2_grpc.HealthStub(door.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        door.broker.gate.clear()
        call = asyncio.gather(door.log.Publish(log_service_pb2.PublishRequest(batches=[new_batch(b"v")])))
        await until(lambda: door.broker.publishing == 1)
        stopping = asyncio.gather(door.gateway.stop(60.0))
        await until(door.gateway._stopping.is_set)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.InitProducer(log_service_pb2.InitProducerRequest())
        assert told_by_call(caught.value).reason == "SHUTTING_DOWN"
        door.broker.gate.set()
        async with asyncio.timeout(10):
            (answer,) = await call
            await stopping
    assert answer.results[0].offset == 0


async def test_stopping_cuts_what_takes_longer_than_the_grace() -> None:
    """A call that the broker never answers ends with the server."""
    async with open_door() as door:
        door.broker.gate.clear()
        call = asyncio.gather(door.log.Publish(log_service_pb2.PublishRequest(batches=[new_batch(b"v")])), return_exceptions=True)
        await until(lambda: door.broker.publishing == 1)
        async with asyncio.timeout(10):
            await door.gateway.stop(0.05)
            (error,) = await call
    assert isinstance(error, grpc.aio.AioRpcError)


async def test_stopping_what_never_started_does_nothing() -> None:
    """The composition root may stop everything, whatever failed to start."""
    await gateway_on(0).stop(1.0)


async def test_the_door_speaks_tls_with_credentials() -> None:
    """A client that trusts the authority is served, one in plain text is not."""
    ca, cert, key = ((CERTS / name).read_bytes() for name in ("cluster-ca.pem", "cluster-node.pem", "cluster-node.key"))
    options = GatewayOptions(credentials=grpc.ssl_server_credentials([(key, cert)]))
    async with open_door(options) as door:
        trusting = grpc.ssl_channel_credentials(root_certificates=ca)
        async with grpc.aio.secure_channel(door.gateway.address, trusting) as channel:
            answer = await LogServiceStub(channel).InitProducer(log_service_pb2.InitProducerRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.InitProducer(log_service_pb2.InitProducerRequest())
    assert answer.producer_id == 1_001
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
