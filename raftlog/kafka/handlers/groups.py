"""FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup: what a member of a consumer group says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raftlog.broker.group_port import GroupMember, JoinGroup, Leaver
from raftlog.errors import CoordinatorNotAvailableError, InvalidRequestError, MemberIdRequiredError
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.wire import errors

KEY_GROUP: Final = 0
KEY_TRANSACTION: Final = 1
NO_NODE: Final = {"node_id": -1, "host": "", "port": -1}
_ID_REQUIRED_FROM: Final = 4
"""The version of JoinGroup from which on new members must come with an id (KIP-394)."""
_REBALANCE_TIMEOUT_FROM: Final = 1
_STATIC_TELLS_FROM: Final = 9
"""The version from which on a leader that came back may be told to assign nothing (KIP-814)."""
_LEAVERS_FROM: Final = 3


async def find_coordinator(call: Call, request: Request) -> Mapping[str, Any]:
    """The node that coordinates a group; from version 4 on of several at once (KIP-699)."""
    if call.version >= 4:
        found = await in_parallel(request.coordinator_keys, lambda key: _find(call, key, request.key_type))
        return {"coordinators": found}
    answer = await _find(call, request.key, request.key_type)
    del answer["key"]
    return answer


async def _find(call: Call, key: str, key_type: int) -> dict[str, Any]:
    if key_type == KEY_TRANSACTION:
        code = errors.TRANSACTIONAL_ID_AUTHORIZATION_FAILED  # see InitProducerId
        call.door.metrics.error(code)
        return {"key": key, "error_code": code, "error_message": "there are no transactions here", **NO_NODE}
    try:
        if key_type != KEY_GROUP:
            raise InvalidRequestError(f"there are no coordinators of type {key_type}")
        node = await groups(call).find_coordinator(key)
        address = call.address(node)
        if address is None:
            raise CoordinatorNotAvailableError(f"node {node.node_id}, the coordinator, has no listener {call.listener!r}")
    except Exception as error:
        code, words = call.told(error, errors.GROUP)
        return {"key": key, "error_code": code, "error_message": words, **NO_NODE}
    return {"key": key, "node_id": node.node_id, "host": address[0], "port": address[1]}


async def join_group(call: Call, request: Request) -> Mapping[str, Any]:
    """Join; answered when the rebalance is over."""
    timeout_ms = request.session_timeout_ms if call.version < _REBALANCE_TIMEOUT_FROM else request.rebalance_timeout_ms
    wish = JoinGroup(
        group_id=request.group_id,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        client_id=call.header.client_id,
        client_host=f"/{call.client_host}",
        protocol_type=request.protocol_type,
        protocols=tuple((protocol.name, protocol.metadata) for protocol in request.protocols),
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=timeout_ms,
        member_id_required=call.version >= _ID_REQUIRED_FROM and request.group_instance_id is None,
    )
    try:
        joined = await groups(call).join_group(wish, direct=True)
    except MemberIdRequiredError as error:
        return {"error_code": call.failed(error), "member_id": error.member_id, "protocol_name": _no_name(call)}
    except Exception as error:
        return {
            "error_code": call.failed(error, errors.GROUP),
            "member_id": request.member_id,
            "protocol_name": _no_name(call),
        }
    # An older leader cannot be told to assign nothing: without members it assigns nothing that counts, the group being stable.
    return {
        "generation_id": joined.generation,
        "protocol_type": joined.protocol_type,
        "protocol_name": joined.protocol,
        "leader": joined.leader,
        "skip_assignment": joined.skip_assignment,
        "member_id": joined.member_id,
        "members": [
            {"member_id": member.member_id, "group_instance_id": member.instance_id, "metadata": member.metadata}
            for member in joined.members
        ],
    }


def _no_name(call: Call) -> str | None:
    return None if call.version >= 7 else ""


async def sync_group(call: Call, request: Request) -> Mapping[str, Any]:
    """Bring the assignments, or wait for one's own."""
    try:
        synced = await groups(call).sync_group(
            member(request),
            {assigned.member_id: assigned.assignment for assigned in request.assignments},
            protocol_type=request.protocol_type or "",
            protocol=request.protocol_name or "",
            direct=True,
        )
    except Exception as error:
        return {"error_code": call.failed(error, errors.GROUP)}
    return {"protocol_type": synced.protocol_type, "protocol_name": synced.protocol, "assignment": synced.assignment}


async def heartbeat(call: Call, request: Request) -> Mapping[str, Any]:
    """A sign of life."""
    try:
        await groups(call).heartbeat(member(request), direct=True)
    except Exception as error:
        return {"error_code": call.failed(error, errors.GROUP)}
    return {}


async def leave_group(call: Call, request: Request) -> Mapping[str, Any]:
    """Members leave, or are removed; in versions before 3 one, by its id."""
    if call.version < _LEAVERS_FROM:
        leavers = [Leaver(member_id=request.member_id)]
    else:
        leavers = [Leaver(member_id=one.member_id, instance_id=one.group_instance_id) for one in request.members]
    try:
        outcomes = await groups(call).leave_group(request.group_id, leavers, direct=True)
    except Exception as error:
        return {"error_code": call.failed(error, errors.GROUP)}
    codes = [errors.NONE if outcome is None else call.failed(outcome, errors.GROUP) for outcome in outcomes]
    if call.version < _LEAVERS_FROM:
        return {"error_code": codes[0]}
    return {
        "members": [
            {"member_id": leaver.member_id, "group_instance_id": leaver.instance_id, "error_code": code}
            for leaver, code in zip(leavers, codes, strict=True)
        ]
    }


def member(request: Request) -> GroupMember:
    """Who calls."""
    return GroupMember(
        group_id=request.group_id,
        generation=request.generation_id,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
    )


def groups(call: Call) -> Any:
    """The broker's groups; requests about groups are not served where there are none."""
    assert call.door.groups is not None, "the dispatcher serves these APIs only with groups"
    return call.door.groups
