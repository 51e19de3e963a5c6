"""The Python client: one ``Client`` a cluster, and on it producers, consumers and an admin."""

from raftlog.core.grpc_threads import fewer_grpc_threads

fewer_grpc_threads()  # before any module of this package loads gRPC
