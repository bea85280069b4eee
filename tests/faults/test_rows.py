"""Which test proves the behaviour behind each row of `make faults`, and those of a whole server."""

import asyncio
import re
import signal
from pathlib import Path

import pytest

from faults.__main__ import _SCENARIOS
from faults.budgets import many_clients, many_small_requests, unfinished_messages
from faults.member import shop
from faults.raw import HELLO, opening, speaking
from faults.victim import attacked
from rap.errors import Code, Unavailable
from rap.server import Server
from rap.wire.codec import pack
from rap.wire.frames import GOAWAY, HEADER, OPEN, RESET, Frame, parse_frames, read_reset
from tests.loopback import Unnoticed, calling, eventually, serving, within

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
HERE = "tests/faults/test_rows.py"
ROWS = {
    1: (f"{HERE}::test_a_prefix_of_4_gib_ends_the_connection_before_its_body",),
    2: (
        "tests/wire/test_codec.py::test_a_nesting_bomb_is_refused",
        f"{HERE}::test_a_body_that_is_a_bomb_fails_its_call_only",
    ),
    3: (
        "tests/wire/test_codec.py::test_an_element_bomb_is_refused_by_its_header_alone",
        f"{HERE}::test_a_body_that_is_a_bomb_fails_its_call_only",
    ),
    4: ("tests/processor/test_compress.py::test_a_bomb_is_refused_whatever_size_it_claims",),
    5: (
        "tests/wire/test_codec.py::test_only_strings_are_keys",
        "tests/wire/test_codec.py::test_a_duplicate_key_is_refused",
    ),
    6: ("tests/fuzz/test_fuzz.py::test_mutations_harm_nothing_and_are_the_same_every_time",),
    7: ("tests/test_errors.py::test_a_name_that_a_server_sends_is_never_looked_up",),
    8: (
        "tests/transport/test_watchdog.py::test_a_peer_without_a_hello_is_cut",
        "tests/transport/test_watchdog.py::test_a_frame_that_trickles_in_gets_no_more_time",
        "tests/server/middleware/test_limits.py::test_connections_of_one_address_are_limited",
        f"{HERE}::test_others_are_served_while_many_connections_say_nothing",
    ),
    9: (
        "tests/transport/test_connection_reading.py::"
        "test_a_client_that_keeps_cancelling_is_asked_to_leave_then_cut",
        f"{HERE}::test_calls_that_are_cancelled_at_full_speed_leave_no_task",
    ),
    10: (
        "tests/transport/test_watchdog.py::"
        "test_if_unread_streams_hold_the_whole_window_the_one_unread_the_longest_is_reset",
        "tests/transport/test_connection.py::test_a_reader_that_stalls_does_not_hold_up_other_calls",
    ),
    11: (
        "tests/server/overload/test_shedding.py::"
        "test_an_overloaded_server_begins_what_it_can_and_refuses_the_rest",
        "tests/server/overload/test_limits.py::"
        "test_a_function_that_waits_goes_on_answering_what_it_can",
    ),
    12: (
        "tests/client/test_retry.py::"
        "test_where_all_servers_fail_the_load_grows_by_the_budget_and_no_more",
        "tests/client/test_pool.py::test_a_hurried_pause_is_half_a_second_however_long_it_was",
    ),
    13: (
        "tests/processor/test_wire.py::test_what_was_captured_is_refused_by_every_instance",
        "tests/shared_state/test_redis_faults.py::"
        "test_a_nonce_that_many_instances_are_offered_is_accepted_once",
    ),
    14: (
        "tests/shared_state/test_redis_faults.py::test_nonces_outlive_a_failover",
        "tests/shared_state/test_redis_faults.py::test_nonces_fail_closed_while_redis_is_down",
    ),
    15: ("tests/shared_state/test_redis_faults.py::test_a_thousand_lost_answers_are_no_replays",),
    16: ("tests/processor/test_replay.py::test_a_clock_that_jumps_drops_no_call_in_flight",),
    17: (
        "tests/processor/test_seal.py::test_no_bit_of_a_request_can_be_flipped",
        "tests/processor/test_wire.py::test_no_byte_of_a_frame_can_be_changed_into_another_answer",
    ),
    18: (
        "tests/transport/test_tls.py::test_a_certificate_of_another_authority_is_refused",
        "tests/transport/test_tls.py::test_a_certificate_for_another_host_name_is_refused",
        "tests/transport/test_tls.py::test_an_expired_certificate_is_refused",
        "tests/transport/test_tls.py::test_a_client_older_than_tls_1_2_is_refused",
        "tests/transport/test_tls.py::test_a_mutual_tls_server_refuses_unknown_and_missing_certificates",
        "tests/server/test_certificates.py::test_new_handshakes_use_the_reloaded_files",
    ),
    19: (
        "tests/shared_state/test_redis_faults.py::test_what_a_killed_process_held_is_free_after_its_lease",
    ),
    20: (
        "tests/client/test_retry_policy.py::"
        "test_only_the_first_retry_after_a_lost_connection_is_free",
        f"{HERE}::test_a_server_that_is_killed_harms_no_call_that_may_be_made_again",
    ),
    21: (
        "tests/client/test_rescue.py::"
        "test_a_call_on_a_frozen_server_is_answered_by_another_within_its_second",
        "tests/client/test_rescue.py::test_a_handler_that_hangs_on_one_server_gets_a_late_copy",
        "tests/client/test_rescue.py::test_where_no_server_is_known_to_be_alive_nothing_is_copied",
        "tests/transport/test_watchdog.py::"
        "test_what_has_arrived_while_this_process_did_not_run_is_read_before_deadlines",
    ),
    25: (
        "tests/client/test_rescue.py::test_a_broken_connection_to_a_healthy_server_is_replaced",
        "tests/client/test_rescue.py::"
        "test_a_server_that_was_silent_twice_in_ten_seconds_gets_no_calls_for_a_while",
    ),
    29: (
        "tests/server/test_loop_monitor.py::"
        "test_a_handler_that_blocks_the_event_loop_is_named_with_its_stack",
        "tests/server/test_loop_monitor.py::"
        "test_a_handler_that_does_not_return_is_named_while_it_blocks",
    ),
    31: (
        "tests/server/test_connection_limit.py::"
        "test_a_client_beyond_the_limit_is_told_and_gets_in_when_another_leaves",
        "tests/observe/test_metrics_server.py::test_the_page_answers_when_no_descriptor_is_left",
        f"{HERE}::test_a_server_with_few_descriptors_serves_and_is_healthy",
    ),
    33: (
        "tests/registry/test_suite.py::"
        "test_one_that_is_up_replaces_another_process_that_drains_at_once",
        "tests/registry/test_lease.py::test_a_draining_process_that_is_replaced_logs_no_error",
        f"{HERE}::test_servers_that_were_killed_in_the_drain_are_called_when_they_are_back",
    ),
    34: (
        "tests/wire/test_codec.py::test_a_map_of_arrays_that_collide_as_keys_is_refused",
        "tests/wire/test_codec.py::test_a_map_has_at_most_4096_keys_that_are_times_or_extensions",
        "tests/wire/test_codec.py::test_numbers_that_collide_as_keys_are_refused",
        "tests/schema/test_keys.py::test_keys_that_collide_are_refused_wherever_they_are_decoded",
        "tests/fuzz/test_costs.py::test_no_seed_takes_more_memory_than_its_bytes_allow",
        "tests/wire/test_hello.py::test_a_hello_with_much_in_it_is_refused",
        "tests/transport/test_connection_control.py::test_a_large_go_away_has_no_text",
    ),
    36: (
        "tests/server/test_memory.py::test_calls_with_small_arguments_count",
        "tests/server/test_memory.py::test_messages_that_have_arrived_in_part_count",
        "tests/server/test_memory.py::test_answers_that_wait_to_be_sent_count",
        "tests/server/test_memory.py::test_messages_that_no_function_reads_count",
        "tests/server/test_memory.py::"
        "test_a_compressed_request_counts_as_it_will_be_before_it_is_inflated",
        f"{HERE}::test_a_server_with_little_memory_serves_others",
    ),
    37: (
        "tests/gateway/test_leaving.py::test_a_client_that_disconnects_ends_its_call",
        "tests/gateway/test_leaving.py::"
        "test_requests_whose_clients_stay_leave_places_for_unary_calls",
        "tests/gateway/test_leaving.py::"
        "test_a_websocket_that_closes_ends_a_function_that_does_not_read",
        "tests/gateway/test_places.py::test_one_address_leaves_places_to_others",
        "tests/gateway/test_browsers.py::test_a_page_of_another_origin_calls_nothing",
        "tests/gateway/test_browsers.py::test_a_post_of_another_content_type_calls_nothing",
        "tests/gateway/test_hidden_groups.py::test_no_spelling_of_a_hidden_group_passes_the_filter",
        "tests/gateway/test_hidden_groups.py::test_an_absurd_timeout_is_a_long_or_short_one",
    ),
    38: (
        "tests/client/test_tls.py::test_a_registry_cannot_take_tls_away_by_a_unix_socket",
        "tests/client/test_tls.py::test_no_token_goes_to_a_server_without_the_pinned_certificate",
        "tests/client/test_tls.py::test_servers_have_the_identity_that_is_expected_of_the_service",
        "tests/client/test_tls.py::test_a_token_is_not_sent_to_another_machine_without_tls",
        "tests/registry/test_signature.py::test_a_client_with_the_key_is_led_to_no_other_server",
    ),
    39: (
        "tests/server/test_certificates.py::"
        "test_an_authority_that_was_withdrawn_is_trusted_no_longer",
        "tests/server/test_certificates.py::test_a_session_from_before_the_reload_is_not_resumed",
        "tests/server/test_certificates.py::"
        "test_a_revoked_client_certificate_is_refused_from_the_reload_on",
        "tests/client/test_tls.py::test_new_connections_use_the_files_as_they_are_now",
    ),
    40: (
        "tests/server/test_verifier_shapes.py::test_no_shape_of_a_verifier_admits_a_wrong_token",
        "tests/server/test_verifier_shapes.py::test_what_cannot_be_an_identity_admits_nobody",
    ),
    42: (
        "tests/transport/test_connection_reading.py::"
        "test_a_client_that_cancels_some_of_many_calls_is_not_slowed_down",
    ),
}


def test_every_row_is_measured_and_has_a_test() -> None:
    assert [scenario.row for scenario in _SCENARIOS] == list(ROWS)


@pytest.mark.parametrize("test", sorted({each for tests in ROWS.values() for each in tests}))
def test_the_test_of_a_row_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


async def test_a_server_that_is_killed_harms_no_call_that_may_be_made_again(
    tmp_path: Path,
) -> None:
    async with shop(tmp_path, 2) as servers:
        client = servers.client

        @client.register(idempotent=True, timeout=9)
        async def work(number: int) -> int: ...  # type: ignore[empty-body]

        calls = [asyncio.create_task(work(number)) for number in range(50)]
        servers.members[0].send(signal.SIGKILL)
        calls += [asyncio.create_task(work(number)) for number in range(50, 100)]
        assert await within(asyncio.gather(*calls)) == list(range(100))
        await eventually(lambda: len(client.cluster.ready) == 1)


async def test_servers_that_were_killed_in_the_drain_are_called_when_they_are_back(
    tmp_path: Path,
) -> None:
    async with shop(tmp_path, 1) as servers:
        (member,), client = servers.members, servers.client
        holding = asyncio.create_task(client.raw_call("hold", 60, timeout=60))
        await client.raw_call("work", 1)  # the other one has begun
        member.send(signal.SIGTERM)
        await eventually(lambda: not client.cluster.ready)
        await member.end()
        with pytest.raises(Unavailable):
            await within(holding)
        call = asyncio.create_task(client.raw_call("work", 2, timeout=9, wait_for_ready=True))
        await member.start()
        assert await within(call) == 2


# What a whole server does.


async def echo(value: list[int]) -> int:
    return len(value)


async def wait() -> None:
    await asyncio.Event().wait()


def port_of(server: Server) -> int:
    return server.addresses[0].port


async def test_a_prefix_of_4_gib_ends_the_connection_before_its_body() -> None:
    async with serving(echo) as server, speaking(port_of(server)) as raw:
        raw.writer.write(HEADER.pack(2**32 - 1, OPEN, 5, 1, 0))
        frames = parse_frames(await raw.closed())
        assert frames[-1].kind == GOAWAY
        assert b"4294967295 bytes; max_frame is 1048576" in frames[-1].body


@pytest.mark.parametrize(
    "bomb",
    [b"\x91" * 33 + b"\x90", b"\x91" * 1_000_000, b"\xdd\x00\x0f\x00\x00" + b"\x80" * 0xF0000],
    ids=["33 deep", "a million deep", "a million maps"],
)
async def test_a_body_that_is_a_bomb_fails_its_call_only(bomb: bytes) -> None:
    async with serving(echo) as server, speaking(port_of(server)) as raw:
        raw.writer.write(opening(1, bomb) + opening(3, pack([[1, 2]])))
        (reset,) = await raw.resets(1)
        assert reset.stream_id == 1
        assert read_reset(reset.body)[0] == Code.INVALID_ARGUMENT
        async with calling(server) as client:
            assert await client.raw_call("echo", [1]) == 1


async def test_others_are_served_while_many_connections_say_nothing() -> None:
    async with serving(echo) as server, asyncio.TaskGroup() as group:
        silent = [asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(100)]
        writers = [writer for _, writer in await asyncio.gather(*silent)]
        async with calling(server) as client:
            calls = [group.create_task(client.raw_call("echo", [1, 2])) for _ in range(50)]
            assert await within(asyncio.gather(*calls)) == [2] * 50
        for writer in writers:
            writer.transport.abort()
        await eventually(lambda: not server.connection_manager.connections)


async def test_a_call_that_is_reset_as_if_all_were_well_is_cancelled() -> None:
    """Found by fuzzing: the handler went on for ever, and no limit counted it."""
    async with serving(wait, echo) as server:
        unnoticed = Unnoticed(asyncio.get_running_loop())
        async with speaking(port_of(server)) as raw:
            raw.writer.write(opening(1, b"\x90", "wait"))
            await eventually(lambda: server.connection_manager.open_calls)
            raw.writer.write(Frame(RESET, 0, 1, b"", pack([Code.OK, "", {}])).encode())
            raw.writer.write(opening(3, pack([[1, 2]])))
            await raw.reader.readexactly(1)
            await eventually(lambda: not server.connection_manager.open_calls)
        await eventually(lambda: not server.connection_manager.connections)
        await unnoticed.check()


async def test_calls_that_are_cancelled_at_full_speed_leave_no_task() -> None:
    cancel = pack([Code.CANCELLED, "", {}])
    async with serving(wait, echo) as server:
        unnoticed = Unnoticed(asyncio.get_running_loop())
        async with speaking(port_of(server), HELLO) as raw:
            for n in range(1, 10_000, 2):
                raw.writer.write(opening(n, b"\x90", "wait"))
                raw.writer.write(Frame(RESET, 0, n, b"", cancel).encode())
            await raw.closed()
        await eventually(lambda: not server.connection_manager.connections)
        await unnoticed.check()
        async with calling(server) as client:
            assert await client.raw_call("echo", []) == 0


async def test_a_server_with_few_descriptors_serves_and_is_healthy() -> None:
    async with attacked(nofile=110) as victim:
        text, good = await many_clients(victim, 120)
        assert good, text


async def test_a_server_with_little_memory_serves_others() -> None:
    async with attacked(max_memory=8 * MIB) as victim:
        before = (await victim.vitals())["peak"]
        text = await unfinished_messages(victim, peers=2, size=3 * MIB)
        text += await many_small_requests(victim, count=2000)
        assert await victim.client.raw_call("echo", 1) == 1
        grown = (await victim.vitals())["peak"] - before
        assert grown < 24 * MIB, text
