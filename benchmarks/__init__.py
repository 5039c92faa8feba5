"""Measures speed, start-up and memory, beside PyTorch on the same machine.

    pip install -e '.[bench]'
    python -m benchmarks.run --quick
    python -m benchmarks.growth
    python -m benchmarks.exports

`run.py` lists the rows; the peer, the published networks in plain PyTorch, is in `peer.py`.
"""
