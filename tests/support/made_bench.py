"""A small run that nobody measured, for tests of what is made from runs."""

from __future__ import annotations

from secagg.bench.measure import Spread
from secagg.bench.results import (
    FORMAT,
    Bar,
    CaseResult,
    Curve,
    Listing,
    Machine,
    Run,
    Timed,
    Verdict,
)

FAST = Bar(id="mask-1m/aes-limit", text="as fast as the limit", bar=0.75, aim=0.85)
PEER = Bar(id="mask-1m/flower", text="faster than the peer", bar=150, peer="flwr")
SMALL = Bar(id="memory/client", text="memory of a client", bar=64, sense="at most", unit="MiB")


def made_run() -> Run:
    """One bar met, one missed, one not measured; a case that failed."""
    mask = CaseResult(
        id="mask-1m",
        title="Mask and accumulate",
        sizes={"length": 1_000_000, "keys": 100},
        timings=[
            Timed(name="ours | fused", seconds=[0.02, 0.025, 0.03], amount=4e8, unit="bytes"),
            Timed(name="the peer", seconds=[0.004], amount=1, unit="secrets"),
        ],
        verdicts=[
            Verdict(bar=FAST, figure=0.8125, spread=Spread(0.7, 0.79, 0.81, 0.83, 0.9)),
            Verdict(bar=PEER, figure=21.25, spread=Spread(18, 20, 21, 23, 30)),
        ],
        curves=[
            Curve(
                plot="mask-speed", name="secagg", x=[1000, 2000], y=[3, 9], low=[2, 8], high=[4, 9]
            ),
            Curve(plot="threads", name="ideal", x=[1, 2], y=[1, 2], dashed=True),
        ],
        listings=[Listing(title="Parts", columns=["a", "b"], rows=[["x", "1"]], numbers=[1])],
        notes=["mask kernel: vaes512"],
        seconds=3.5,
    )
    memory = CaseResult(
        id="memory",
        title="Peak memory",
        sizes={"length": 10},
        verdicts=[Verdict(bar=SMALL, reason="RuntimeError: no pipes")],
        error="RuntimeError: no pipes",
        failed=True,
    )
    return Run(
        format=FORMAT,
        version="0.1.0",
        date="2026-01-02 03:04:05 UTC",
        scale="full",
        runs=7,
        threads=2,
        machine=Machine(
            cpu="A processor",
            features=["aes", "vaes"],
            cores=2,
            memory_gib=23.5,
            system="Linux x86_64",
            python="CPython 3.11.7",
            openssl="OpenSSL 3.5.0",
            kernel="vaes512",
            packages={"numpy": "2.4.6"},
            load=[0.1, 0.2, 0.3],
        ),
        cases=[mask, memory],
        left_out={"declearn": "declearn 2.9.1 is not installed"},
        seconds=754.2,
    )
