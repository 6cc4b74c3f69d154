"""CPU time by part of the server, from what perf reports."""

import pytest

from bench.budget import PARTS, PerfError, part_of, share_out


@pytest.mark.parametrize(
    ("library", "symbol", "part"),
    [
        ("smt-server", "[.] smt::cpu::(anonymous namespace)::Bf16Block<11, 2>::run", "compute"),
        ("csmpou4j.wrapper.so", "[.] torch::aot_inductor::AOTInductorModel::run_impl", "compute"),
        ("smt-server", "[.] void smt::transform::encode_all<smt::transform::HashBuckets, long>(long)", "transform"),
        ("smt-server", "[.] smt::v1::Feature::_InternalParse", "decode, encode"),
        ("smt-server", "[.] smt::server::(anonymous namespace)::Scan::message", "decode, encode"),
        ("smt-server", "[.] grpc::internal::RawCallbackCallOpSet<smt::v1::Feature>::run", "gRPC"),
        ("smt-server", "[.] smt::server::Scheduler::work(smt::transform::Batch&)", "schedule, call"),
        ("libabsl_synchronization.so.20220623.0.0", "[.] 0x00000000000068cb", "gRPC"),
        ("[kernel.kallsyms]", "[k] finish_task_switch.isra.0", "kernel"),
        ("libc.so.6", "[.] __memmove_avx512_unaligned_erms", "memory"),
        ("libc.so.6", "[.] pthread_mutex_lock@@GLIBC_2.2.5", "other"),
    ],
)
def test_functions_belong_to_parts(library: str, symbol: str, part: str) -> None:
    assert part_of(library, symbol) == part


def test_samples_are_shared_out() -> None:
    lines = [
        "# a comment",
        "",
        "30;smt-server            ;[.] smt::cpu::rank(int; long)",
        "9;[kernel.kallsyms];[k] tcp_ack",
        "1;libc.so.6;[.] syscall",
    ]
    shares = share_out("\n".join(lines))
    assert list(shares) == list(PARTS)
    assert shares["compute"] == pytest.approx(0.75)
    assert shares["kernel"] == pytest.approx(0.225)
    assert shares["other"] == pytest.approx(0.025)
    assert sum(shares.values()) == pytest.approx(1)
    with pytest.raises(PerfError, match="no sample"):
        share_out("# nothing\n")
