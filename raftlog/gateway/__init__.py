"""The gRPC door: decode, call the broker, encode."""

from raftlog.core.grpc_threads import fewer_grpc_threads

fewer_grpc_threads()  # before any module of this package loads gRPC
