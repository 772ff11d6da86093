"""Which replicas HAProxy keeps while Serve builds their app anew."""

from runtime_env.haproxy.servers import Servers, keep_servers

A, B = ["SERVE_REPLICA_a", "127.0.0.1:1"], ["SERVE_REPLICA_b", "127.0.0.1:2"]
FALLBACK = "    server SERVE_PROXY_ACTOR-fallback-1 127.0.0.1:9 check backup"


def config(**backends: list[list[str]]) -> str:
    lines = ["frontend http_frontend", "    server is no server here"]
    for name, servers in backends.items():
        lines += [f"backend {name}", *(f"    server {server} {address} check" for server, address in servers), FALLBACK]
    return "\n".join([*lines, "listen stats", "  stats enable"]) + "\n"


def test_what_is_there_is_left_as_it_is_and_remembered() -> None:
    text, servers = keep_servers(config(llm=[A], chat=[B]), {"llm": [B], "gone": [A]})
    assert text == config(llm=[A], chat=[B])
    assert servers == {"llm": [A], "chat": [B]}


def test_a_backend_that_has_lost_all_keeps_the_last_on_trial_however_long_it_takes() -> None:
    servers: Servers = {"llm": [A, B]}
    for _ in range(2):
        text, servers = keep_servers(config(llm=[]), servers)
        lines = text.splitlines()
        assert [line.split()[1:3] for line in lines if " fall 1 " in line] == [A, B]
        assert lines.index(FALLBACK) > max(number for number, line in enumerate(lines) if " fall 1 " in line)
        assert servers == {"llm": [A, B]}


def test_one_of_two_that_is_gone_is_not_kept() -> None:
    text, servers = keep_servers(config(llm=[A]), {"llm": [A, B]})
    assert (text, servers) == (config(llm=[A]), {"llm": [A]})


def test_a_port_that_was_given_away_is_not_kept() -> None:
    text, _ = keep_servers(config(llm=[], chat=[["SERVE_REPLICA_c", A[1]]]), {"llm": [A, B]})
    assert [line.split()[1:3] for line in text.splitlines() if " fall 1 " in line] == [B]
