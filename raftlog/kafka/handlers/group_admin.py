"""ListGroups, DescribeGroups, DeleteGroups: groups as administrators see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raftlog.broker.group_port import DescribedGroup, DescribedMember, GroupState
from raftlog.errors import GroupIdNotFoundError
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.handlers.groups import groups
from raftlog.kafka.wire import errors

GROUP_TYPE: Final = "classic"
"""The one protocol that groups speak here (KIP-848's name for it)."""

_UNKNOWN_TELLS_FROM: Final = 6
"""The version of DescribeGroups from which on a group that is not there is an error (KIP-1043)."""


async def list_groups(call: Call, request: Request) -> Mapping[str, Any]:
    """The groups that this node coordinates: a client asks every node."""
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    if types and GROUP_TYPE not in types:
        return {"groups": []}
    try:
        listed = await groups(call).list_groups(direct=True)
    except Exception as error:
        return {"error_code": call.failed(error, errors.GROUP)}
    return {
        "groups": [
            {
                "group_id": group.group_id,
                "protocol_type": group.protocol_type,
                "group_state": group.state.value,
                "group_type": GROUP_TYPE,
            }
            for group in listed
            if not states or group.state.value.lower() in states
        ]
    }


async def describe_groups(call: Call, request: Request) -> Mapping[str, Any]:
    """Groups with their members; one that is named twice is told once."""

    async def describe(group_id: str) -> dict[str, Any]:
        try:
            found = _described(await groups(call).describe_group(group_id, direct=True))
        except Exception as error:
            code, words = call.told(error, errors.GROUP)
            return {"group_id": group_id, "error_code": code, "error_message": words}
        if found["group_state"] == GroupState.DEAD.value and call.version >= _UNKNOWN_TELLS_FROM:
            code, words = call.told(GroupIdNotFoundError(f"there is no group {group_id!r}"))
            found |= {"error_code": code, "error_message": words}
        return found

    return {"groups": await in_parallel(dict.fromkeys(request.groups), describe)}


def _described(group: DescribedGroup) -> dict[str, Any]:
    return {
        "group_id": group.group_id,
        "group_state": group.state.value,
        "protocol_type": group.protocol_type,
        "protocol_data": group.protocol,
        "members": [_member(member) for member in group.members],
    }


def _member(member: DescribedMember) -> dict[str, Any]:
    return {
        "member_id": member.member_id,
        "group_instance_id": member.instance_id,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "member_metadata": member.metadata,
        "member_assignment": member.assignment,
    }


async def delete_groups(call: Call, request: Request) -> Mapping[str, Any]:
    """Forget groups without members."""

    async def delete(group_id: str) -> dict[str, Any]:
        try:
            await groups(call).delete_group(group_id, direct=True)
        except Exception as error:
            return {"group_id": group_id, "error_code": call.failed(error, errors.GROUP)}
        return {"group_id": group_id}

    return {"results": await in_parallel(request.groups_names, delete)}
